"""The jobs of a sweep: each is an ordinary run in its own process, with a log and a note of how it ended.

With one process per job, a job cannot affect the next one through the GPU, memory or torch's settings, and a
job that is killed does not end the others.
"""

import hashlib
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import ConfigError, OutputError

__all__ = ["describe_end", "devices_of", "job_name", "prepare_sweep", "run_job", "runs_of_sweep"]

# Parallel launchers set these for their workers (joblib: cores / workers; Ray: 1). The number of threads must
# not depend on the launcher.
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
    """Makes the folder of a sweep, or continues an earlier sweep there: removes the notes of unfinished jobs.

    Args:
        folder: folder of the sweep.
        command: the command line, written to the folder with the thread settings that all jobs get.
        jobs: overrides of every job, if known.
        devices: `gpu=` of jobs that run at the same time on one machine and share its CPU cores.

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
    """A readable and unique file name for a job.

    Args:
        overrides: the overrides of the job.
        fingerprint: hash of all its values: after a change of a YAML file, a job is another job.
    """
    readable = re.sub(r"[^\w.,=+-]+", "_", ",".join(overrides).replace("'", ""))
    return f"{readable[:80].strip('_') or 'defaults'}-{fingerprint[:8]}"


# Tasks name their folders after these; `out` is the folder itself.
_IN_NAMES = ("task", "pair", "domain", "run", "export.domain", "tag")

# Of a path the end says most.
_LONGEST_VALUE, _LONGEST_TAG = 40, 120


def tag_of(overrides: Sequence[str], jobs: Sequence[Sequence[str]] | None) -> str | None:
    """The `tag` that keeps the output of a job apart from that of the others; None if folders' names do.

    Args:
        overrides: the overrides of the job.
        jobs: the overrides of every job of the sweep; None if they are not known.
    """
    own = _differences(overrides, jobs)
    if not own:
        return None
    readable = [_part_of_path(job) for job in {tuple(_differences(job, jobs)) for job in jobs or ()}]
    name = _part_of_path(own)
    if readable.count(name) != 1:
        name = f"{name}-{hashlib.sha256(repr(own).encode()).hexdigest()[:8]}"
    given = [item.partition("=")[2].strip("'\"") for item in overrides if item.startswith("tag=")]
    return "-".join([*given[-1:], name])


def _differences(overrides: Sequence[str], jobs: Sequence[Sequence[str]] | None) -> list[str]:
    """The overrides that not every job has and that no folder is named after."""
    keys = [item.partition("=")[0] for item in overrides]
    in_names = ("out", "tag") if "out" in keys else _IN_NAMES
    return [
        item
        for item, key in zip(overrides, keys, strict=True)
        if key not in in_names and not key.startswith("hydra")
        if jobs is None or not all(item in job for job in jobs)
    ]


def _part_of_path(overrides: Sequence[str]) -> str:
    """`domain.path=data/a.jsonl` as `path=data_a.jsonl`."""
    pairs = [item.partition("=") for item in overrides]
    cut = [(key.rpartition(".")[2], value.strip("'\"")[-_LONGEST_VALUE:]) for key, _, value in pairs]
    text = re.sub(r"[^\w.,=+-]+", "_", ",".join(f"{key}={value}" for key, value in cut))
    return text[:_LONGEST_TAG].rstrip("._") or "job"


def run_job(folder: Path, name: str, overrides: Sequence[str], working_folder: Path) -> None:
    """Runs one job as `python -m bench` does, unless it is already done, and notes how it ended.

    Args:
        folder: folder of the sweep, absolute.
        name: from `job_name`.
        overrides: arguments of the command line.
        working_folder: the folder that relative paths in the overrides refer to.
    """
    label, path = " ".join(overrides) or "defaults", folder / f"{name}.job.json"
    earlier = read_note(path)
    if earlier and earlier.exit_code == 0:
        print(f"{label}: already done, see {folder / earlier.log}", flush=True)
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
            tag = tag_of(overrides, read_launch(folder).jobs)
            # The configuration may ask for a sweep, but this is one job of it.
            arguments = [*overrides, "hydra.mode=RUN", *([f"tag={tag}"] if tag else [])]
            exit_code = _run_logged(arguments, log, _job_environment(folder, name), working_folder)
    except Exception as error:
        # Launchers turn signals of a scheduler into exceptions. Raised again, it would end all jobs.
        stopped_by = f"{type(error).__name__}: {error}"
    finally:
        duration_s = round(time.monotonic() - started, 1)
        write_note(path, replace(note, exit_code=exit_code, duration_s=duration_s, stopped_by=stopped_by))
    text = log.read_text("utf-8", errors="replace") if exit_code == 0 else ""
    ending = "done" if exit_code == 0 else "failed"
    print(f"{label}: {ending} after {duration_s:.0f} s\n{text}", end="", flush=True)


def _run_logged(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str], working_folder: Path
) -> int:
    command = [sys.executable, "-m", "bench", *arguments]
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
    """CPUs of this job, if jobs on other devices of the machine run at the same time."""
    devices = read_launch(folder).devices or []
    mine = [devices.index(item) for item in overrides if item in devices]
    return share_of(mine[-1], len(devices)) if mine and len(devices) > 1 else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a job after its launcher was interrupted. An interrupted run keeps its records."""
    # Ctrl-C in a terminal reaches the job too; a signal of a scheduler may not.
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            return


def _job_environment(folder: Path, name: str) -> dict[str, str]:
    launched = read_launch(folder).thread_settings
    kept = {name: value for name, value in os.environ.items() if name not in _THREAD_VARIABLES}
    # Unbuffered, so that the log of a killed job is complete.
    return with_run_file({**kept, **launched, "PYTHONUNBUFFERED": "1"}, run_file(folder, name).absolute())


# CPU cores of jobs that run at the same time on one machine: each job gets its own.

_TOPOLOGY = Path("/sys/devices/system/cpu")


def num_allowed() -> int | None:
    """Number of logical CPUs that this process may use; None if the system does not say."""
    return len(os.sched_getaffinity(0)) if _can_pin() else None


def share_of(place: int, num_shares: int, topology: Path = _TOPOLOGY) -> list[int] | None:
    """Logical CPUs of one of several jobs, out of those that this process may use.

    Shares are as equal as possible. If there are enough cores, shares are whole cores: two threads of one
    core stay together.

    Args:
        place: index of the job, from 0.
        num_shares: number of jobs at the same time.
        topology: the folder in which the kernel says which CPUs are one core.

    Returns:
        None if the system cannot pin processes, or has fewer CPUs than jobs.
    """
    if not _can_pin():
        return None
    allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: (*_core_of(cpu, topology), cpu))
    return split(allowed, [_core_of(cpu, topology) for cpu in allowed], num_shares)[place]


def split(cpus: Sequence[int], cores: Sequence[tuple[int, int]], num_shares: int) -> list[list[int] | None]:
    """Splits CPUs into equal parts; into whole cores if there are at least as many cores as parts.

    Args:
        cpus: ids `(n,)`, ordered so that those of one core are adjacent.
        cores: the core of each CPU `(n,)`.
        num_shares: number of parts.

    Returns:
        One ascending list of ids per part; None for every part if there are fewer CPUs than parts.
    """
    units: list[list[int]] = []
    for place, cpu in enumerate(cpus):
        if place and cores[place] == cores[place - 1]:
            units[-1].append(cpu)
        else:
            units.append([cpu])
    if len(units) < num_shares:
        units = [[cpu] for cpu in cpus]
    if len(units) < num_shares:
        return [None] * num_shares
    bounds = [len(units) * place // num_shares for place in range(num_shares + 1)]
    return [
        sorted(cpu for unit in units[first:last] for cpu in unit)
        for first, last in itertools.pairwise(bounds)
    ]


@contextmanager
def pinned(cpus: Sequence[int] | None) -> Iterator[None]:
    """Processes started inside run on these CPUs; None changes nothing."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _can_pin() -> bool:
    return hasattr(os, "sched_setaffinity")


def _core_of(cpu: int, topology: Path) -> tuple[int, int]:
    """(package, core) of a logical CPU; a unique core if the kernel does not say."""
    folder = topology / f"cpu{cpu}" / "topology"
    try:
        package, core = (int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return -1, cpu
    return package, core


# Files in the folder of a sweep: how it was launched, how each job ended, and where its run is.

LAUNCH, NOTES = "launch.json", "*.job.json"

# The environment variable with the file in which a job notes the folder of its run.
_RUN_FILE_VARIABLE = "VOCABTRIM_JOB_RUN_FILE"


@dataclass(frozen=True)
class Launch:
    """How a sweep was launched, as written to the sweep's folder.

    Attributes:
        command: the command line.
        thread_settings: environment variables that every job gets.
        jobs: overrides of every job; None if they are not known beforehand.
        devices: `gpu=` of jobs that run at the same time on one machine. Fewer than two share nothing.
    """

    command: str
    thread_settings: dict[str, str]
    jobs: list[list[str]] | None = None
    devices: list[str] | None = None


@dataclass(frozen=True)
class JobNote:
    """How a job ended.

    Attributes:
        overrides: its overrides, as on the command line.
        exit_code: 0 if done; 128 + n if signal n killed it, as in a shell; None until it ends.
        log: file name of its output, in the sweep's folder.
        host: the machine it ran on.
        started_at: start time, UTC.
        duration_s: wall time; None until it ends.
        stopped_by: the reason given by the launcher that ended the job, such as a time limit.
    """

    overrides: list[str]
    exit_code: int | None
    log: str
    host: str
    started_at: str
    duration_s: float | None
    stopped_by: str | None = None


def write_launch(folder: Path, launch: Launch) -> None:
    """Writes `launch` to the folder of the sweep.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / LAUNCH).write_text(json.dumps(asdict(launch), indent=2) + "\n", "utf-8")


def read_launch(folder: Path) -> Launch:
    """How the sweep of this folder was launched."""
    return Launch(**json.loads((folder / LAUNCH).read_text("utf-8")))


def run_file(folder: Path, name: str) -> Path:
    """The file in which a job of a sweep notes the folder of its run."""
    return folder / f"{name}.run"


def with_run_file(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """The environment with which a job notes the folder of its run in `path`."""
    return {**environment, _RUN_FILE_VARIABLE: str(path)}


def is_job() -> bool:
    """Whether this process is a job of a sweep."""
    return _RUN_FILE_VARIABLE in os.environ


def note_run(run: Path) -> None:
    """Notes the folder of this process's run, if the process is a job of a sweep."""
    named = os.environ.get(_RUN_FILE_VARIABLE)
    if named:
        path = Path(named)
        # Relative, so that a whole results folder can be copied.
        path.write_text(os.path.relpath(run.resolve(), path.parent.resolve()) + "\n", "utf-8")


def runs_of_sweep(folder: Path) -> list[Path]:
    """Folders of the runs that the jobs of a sweep finished, by job name; empty for any other folder."""
    runs: list[Path] = []
    for path in sorted(folder.glob(NOTES)):
        note, noted = read_note(path), run_file(folder, path.name.removesuffix(".job.json"))
        if note and note.exit_code == 0 and noted.exists():
            run = (folder.resolve() / noted.read_text("utf-8").strip()).resolve()
            runs += [run] if run.is_dir() and run not in runs else []
    return runs


def with_sweeps_opened(folders: Iterable[Path]) -> list[Path]:
    """The folders, with each sweep's folder replaced by the folders of its runs."""
    return [run for folder in folders for run in runs_of_sweep(folder) or [folder]]


def describe_end(folder: Path) -> tuple[list[str], int]:
    """How a sweep ended, and its exit code: 0, or the largest of its jobs' (1 if a job never ended)."""
    notes = [note for path in sorted(folder.glob(NOTES)) if (note := read_note(path))]
    failed = [note for note in notes if note.exit_code != 0]
    never_started = _never_started(folder, notes)
    started = " started" if never_started is None else ""
    num_jobs = len(notes) + len(never_started or ())
    if not num_jobs:
        why = "nothing fits what the sweep asks for, or it was stopped before its first job"
        return [f"no job of {folder} started: {why}"], ConfigError.exit_code
    lines = [f"{len(notes) - len(failed)} of {num_jobs}{started} jobs of {folder} are done"]
    for note in failed:
        label = " ".join(note.overrides)
        lines.append(f"job {label} failed: {_reason(folder, note)} - log: {folder / note.log}")
    if never_started:
        labels = ", ".join(" ".join(job) or "defaults" for job in never_started)
        lines.append(f"{len(never_started)} of {num_jobs} jobs never started: {labels}")
    runs = runs_of_sweep(folder)
    lines += [f"run: {_from_here(run)}" for run in runs]
    if len(runs) > 1:
        lines.append(f'one report over them: make report RUNS="{_from_here(folder)}"')
    if failed or never_started:
        lines.append(f"to complete the rest, run the sweep again with hydra.sweep.dir={folder}")
    return lines, max((note.exit_code or 1 for note in failed), default=1 if never_started else 0)


def _never_started(folder: Path, notes: Sequence[JobNote]) -> list[list[str]] | None:
    """Jobs of the sweep that left no note; None if the jobs of the sweep are not known."""
    jobs = read_launch(folder).jobs
    started = [note.overrides for note in notes]
    return None if jobs is None else [job for job in jobs if job not in started]


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


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
    output = [line.strip() for line in lines if line.strip()]
    return output[-1].removeprefix("bench: ") if output else f"exit code {note.exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def write_note(path: Path, note: JobNote) -> None:
    """Writes a note in one step."""
    temporary = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}")
    temporary.write_text(json.dumps(asdict(note), indent=2) + "\n", "utf-8")
    temporary.replace(path)


def read_note(path: Path) -> JobNote | None:
    """The note of a job; None if there is none, or if it is incomplete."""
    try:
        return JobNote(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
