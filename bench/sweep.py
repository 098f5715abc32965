"""The jobs of a sweep: each an ordinary run in a process of its own, with a log and a note of how it ended.

A process per job, whatever launched it: what one job leaves on a GPU, in memory or in torch's settings cannot
colour the next, and a job that is killed takes no other with it.
"""

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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.cores import pinned, share_of
from bench.errors import OutputError
from bench.job_notes import (
    NOTES,
    JobNote,
    Launch,
    describe_end,
    read_launch,
    read_note,
    run_file,
    runs_of_sweep,
    with_run_file,
    write_launch,
    write_note,
)

__all__ = ["describe_end", "devices_of", "job_name", "prepare_sweep", "run_job", "runs_of_sweep"]

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
_GRACE_S = 10


def prepare_sweep(
    folder: Path,
    command: Sequence[str],
    jobs: list[list[str]] | None = None,
    devices: list[str] | None = None,
) -> None:
    """Makes the sweep's folder, or takes up an earlier sweep there: what did not finish is forgotten.

    Args:
        folder: of the sweep.
        command: the command line, kept beside the thread settings of this process, which all jobs get.
        jobs: overrides of every job, where they are known.
        devices: `gpu=` of jobs that will run at the same time on one machine and share its cores.

    Raises:
        OutputError: the folder cannot be written.
    """
    settings = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    launch = Launch(shlex.join(command), settings, jobs, devices)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_launch(folder, launch)
        for path in folder.glob(NOTES):
            note = read_note(path)
            if note is None or note.exit_code != 0:
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot write the sweep's folder {folder}: {error.strerror}") from error


def devices_of(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Every `gpu=` among the jobs' overrides, in order."""
    return sorted({item for job in jobs for item in job if item.startswith("gpu=")})


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
    earlier = read_note(path)
    if earlier and earlier.exit_code == 0:
        print(f"{label}: done before, see {folder / earlier.log}", flush=True)
        return
    log = folder / f"{name}.log"
    print(f"{label}: running; log: {log}", flush=True)
    started = time.monotonic()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    note = JobNote(list(overrides), None, log.name, socket.gethostname(), now, None)
    write_note(path, note)
    exit_code = stopped_by = None
    try:
        with pinned(_cores_of(folder, overrides)):
            exit_code = _run_logged(overrides, log, _job_environment(folder, name), working_folder)
    except Exception as error:
        # Launchers turn a scheduler's signals into exceptions of their own; raised on, one job would end all.
        stopped_by = f"{type(error).__name__}: {error}"
    finally:
        duration_s = round(time.monotonic() - started, 1)
        write_note(path, replace(note, exit_code=exit_code, duration_s=duration_s, stopped_by=stopped_by))
    text = log.read_text("utf-8", errors="replace") if exit_code == 0 else ""
    ending = "done" if exit_code == 0 else "failed"
    print(f"{label}: {ending} after {duration_s:.0f} s\n{text}", end="", flush=True)


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


def _cores_of(folder: Path, overrides: Sequence[str]) -> list[int] | None:
    """The job's share of the cores, where jobs on other devices of the machine run beside it."""
    devices = read_launch(folder).devices or []
    mine = [devices.index(item) for item in overrides if item in devices]
    return share_of(mine[-1], len(devices)) if mine and len(devices) > 1 else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a job whose launcher was interrupted; a run that is interrupted keeps its records."""
    # The terminal's Ctrl-C reached the job too, a scheduler's signal may not have.
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            return


def _job_environment(folder: Path, name: str) -> dict[str, str]:
    launched = read_launch(folder).thread_settings
    kept = {name: value for name, value in os.environ.items() if name not in _THREAD_VARIABLES}
    # Unbuffered: the log of a job that is killed has all that it said.
    return with_run_file({**kept, **launched, "PYTHONUNBUFFERED": "1"}, run_file(folder, name).absolute())
