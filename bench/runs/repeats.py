"""A run in several fresh processes: what a process has once, such as its memory, is no constant of a run."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection

from rich.console import Console

from bench.config import Config
from bench.errors import BenchError, FailedCasesError


@dataclass(frozen=True)
class Part:
    """Which of several processes of one run this is.

    Attributes:
        process: its number, from 0.
        num_processes: of the run.
        others_failed: whether a case of an earlier process failed, so that the run has not ended.
    """

    process: int = 0
    num_processes: int = 1
    others_failed: bool = False

    @property
    def is_last(self) -> bool:
        """Whether the run ends and is reported with it."""
        return self.process == self.num_processes - 1


Run = Callable[[Config, Console, Part], None]

# A terminal's Ctrl-C reaches every process; a signal from elsewhere may reach the first one only.
_GRACE_S = 3


class _ProcessError(BenchError):
    """What ended a process of the run."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def run_in_processes(config: Config, run: Run) -> None:
    """Runs every process of `measure.repeats`, each after the one before; all write into the same folder.

    Args:
        config: the configuration of the run.
        run: measures one part; a function of a module, as another process calls it.

    Raises:
        FailedCasesError: all processes ended, but some cases could not be measured.
        BenchError: a process was interrupted or died, or what `run` raises; the same command resumes.
    """
    count, failed = config.measure.repeats, ""
    for process in range(count):
        # Only the first may start a new folder.
        of_process = replace(config, resume=config.resume or process > 0)
        found = _run_one(of_process, run, Part(process, count, bool(failed)))
        if found is None:
            continue
        name, message, exit_code = found
        if name != FailedCasesError.__name__:
            raise _ProcessError(message, exit_code)
        failed = message
    if failed:
        raise FailedCasesError(failed)


def _run_one(config: Config, run: Run, part: Part) -> tuple[str, str, int] | None:
    """Name, message and exit code of the error that ended a process; None where it ended well."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(config, run, part, sender))
    child.start()
    sender.close()
    found: tuple[str, str, int] | None = None
    try:
        with suppress(EOFError):
            found = receiver.recv()
        child.join()
    except KeyboardInterrupt:
        child.join(_GRACE_S)
        if child.is_alive() and child.pid is not None:
            os.kill(child.pid, signal.SIGINT)
        with suppress(EOFError):
            found = found or receiver.recv()
        child.join()
        if found is None:
            raise
    if found is None and child.exitcode:
        how = f"signal {-child.exitcode}" if child.exitcode < 0 else f"exit code {child.exitcode}"
        message = (
            f"process {part.process + 1} of {part.num_processes} ended with {how}; what it measured is kept, "
            "and the same command resumes the run"
        )
        return "", message, 1
    return found


def _child(config: Config, run: Run, part: Part, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run(config, Console(), part)
    except BenchError as error:
        sender.send((type(error).__name__, str(error), error.exit_code))
    except KeyboardInterrupt:
        sender.send(("", "interrupted before the first measurement", 130))


def _end_with_parent() -> None:
    """Interrupts this process when the first one dies: it must not hold the device for nobody."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)
