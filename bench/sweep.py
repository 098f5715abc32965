"""The jobs of a sweep: each an ordinary run in a process of its own, with a log and a note of how it ended.

A process per job, whatever launched it: what one job leaves on a GPU, in memory or in torch's settings cannot
colour the next, and a job that is killed takes no other with it. The notes are files in the sweep's folder,
because jobs end on other machines, or after the launcher itself gave up.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import OutputError

# Parallel launchers limit these for their workers (joblib: cores / workers; Ray: 1), and the same experiment
# would be measured with another number of threads under each launcher.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_LAUNCH = "launch.json"
_NOTES = "*.job.json"
_GRACE_S = 10


@dataclass(frozen=True)
class JobNote:
    """How a job went.

    Attributes:
        overrides: what it was asked for, as the command line takes it.
        exit_code: 0 done; else as a shell tells it, 128 + n where signal n killed it; None until it ends.
        log: file name of its output, in the sweep's folder.
        host: machine it ran on.
        started_at: UTC.
        duration_s: wall time; None until it ends.
        stopped_by: what the launcher said when it ended the job, such as a time limit.
    """

    overrides: list[str]
    exit_code: int | None
    log: str
    host: str
    started_at: str
    duration_s: float | None
    stopped_by: str | None = None


def prepare_sweep(folder: Path, command: Sequence[str]) -> None:
    """Makes the sweep's folder, or takes up an earlier sweep there: what did not finish is forgotten.

    Args:
        folder: of the sweep.
        command: the command line, kept beside the thread settings of this process, which all jobs get.

    Raises:
        OutputError: the folder cannot be written.
    """
    settings = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    launch = {"command": shlex.join(command), "thread_settings": settings}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _LAUNCH).write_text(json.dumps(launch, indent=2) + "\n", "utf-8")
        for path in folder.glob(_NOTES):
            note = _read(path)
            if note is None or note.exit_code != 0:
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot write the sweep's folder {folder}: {error.strerror}") from error


def job_name(overrides: Sequence[str], fingerprint: str) -> str:
    """A file name that a reader recognises and that is the job's own.

    Args:
        overrides: what the job was asked for.
        fingerprint: of all its values, so that a job whose YAML was edited since is another job.
    """
    readable = re.sub(r"[^\w.,=+-]+", "_", ",".join(overrides).replace("'", ""))
    return f"{readable[:80].strip('_') or 'defaults'}-{fingerprint[:8]}"


def run_job(folder: Path, name: str, overrides: Sequence[str], working_folder: Path) -> None:
    """Runs one job as `python -m bench` would, unless the sweep has it already, and notes how it ended.

    Args:
        folder: of the sweep, absolute.
        name: what `job_name` returns.
        overrides: arguments of the command line.
        working_folder: that relative paths in the overrides start from.
    """
    label, path = " ".join(overrides) or "defaults", folder / f"{name}.job.json"
    earlier = _read(path)
    if earlier and earlier.exit_code == 0:
        print(f"{label}: done before, see {folder / earlier.log}", flush=True)
        return
    log = folder / f"{name}.log"
    print(f"{label}: running; log: {log}", flush=True)
    started = time.monotonic()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    note = JobNote(list(overrides), None, log.name, socket.gethostname(), now, None)
    _write(path, note)
    exit_code = stopped_by = None
    try:
        exit_code = _run_logged(overrides, log, _job_environment(folder), working_folder)
    except Exception as error:
        # Launchers turn a scheduler's signals into exceptions of their own; raised on, one job would end all.
        stopped_by = f"{type(error).__name__}: {error}"
    finally:
        duration_s = round(time.monotonic() - started, 1)
        _write(path, replace(note, exit_code=exit_code, duration_s=duration_s, stopped_by=stopped_by))
    text = log.read_text("utf-8", errors="replace") if exit_code == 0 else ""
    ending = "done" if exit_code == 0 else "failed"
    print(f"{label}: {ending} after {duration_s:.0f} s\n{text}", end="", flush=True)


def describe_end(folder: Path) -> tuple[list[str], int]:
    """How a sweep went, and its exit code: 0, or the largest of its jobs' (1 for a job that never ended)."""
    notes = [note for path in sorted(folder.glob(_NOTES)) if (note := _read(path))]
    failed = [note for note in notes if note.exit_code != 0]
    lines = [f"{len(notes) - len(failed)} of {len(notes)} started jobs of {folder} are done"]
    for note in failed:
        label = " ".join(note.overrides)
        lines.append(f"job {label} failed: {_reason(folder, note)} - log: {folder / note.log}")
    if failed:
        lines.append(f"to complete the rest, run the sweep again with hydra.sweep.dir={folder}")
    return lines, max((note.exit_code or 1 for note in failed), default=0)


def _run_logged(
    overrides: Sequence[str], log: Path, environment: Mapping[str, str], working_folder: Path
) -> int:
    # hydra.mode: an experiment may ask for a sweep, and this is one job of it.
    command = [sys.executable, "-m", "bench", *overrides, "hydra.mode=RUN"]
    with log.open("w", encoding="utf-8") as file:
        print(f"$ {shlex.join(['python', *command[1:]])}", file=file, flush=True)
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=working_folder
        )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a job whose launcher was interrupted; a run that is interrupted keeps its records."""
    # The terminal's Ctrl-C reached the job too, a scheduler's signal may not have.
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            return


def _job_environment(folder: Path) -> dict[str, str]:
    launched = json.loads((folder / _LAUNCH).read_text("utf-8"))["thread_settings"]
    kept = {name: value for name, value in os.environ.items() if name not in _THREAD_VARIABLES}
    # Unbuffered: the log of a job that is killed has all that it said.
    return {**kept, **launched, "PYTHONUNBUFFERED": "1"}


def _reason(folder: Path, note: JobNote) -> str:
    if note.exit_code is None:
        never_ended = f"it did not end on {note.host}"
        return never_ended if note.duration_s is None else note.stopped_by or "it was stopped"
    if note.exit_code > 128:
        return f"killed by {_signal_name(note.exit_code - 128)}"
    try:
        lines = (folder / note.log).read_text("utf-8", errors="replace").split("\n")[1:]
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("bench: ") if said else f"exit code {note.exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _write(path: Path, note: JobNote) -> None:
    temporary = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}")
    temporary.write_text(json.dumps(asdict(note), indent=2) + "\n", "utf-8")
    temporary.replace(path)


def _read(path: Path) -> JobNote | None:
    try:
        return JobNote(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
