"""What a sweep's folder holds of its jobs: how it was launched, how each ended, and where its run is.

Files, because jobs end on other machines, or after the launcher itself gave up.
"""

import json
import os
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LAUNCH, NOTES = "launch.json", "*.job.json"
# Tells a job where to note the folder of its run.
_RUN_FILE_VARIABLE = "VOCABTRIM_JOB_RUN_FILE"


@dataclass(frozen=True)
class Launch:
    """How a sweep was launched; it is a file in the sweep's folder.

    Attributes:
        command: the command line.
        thread_settings: environment variables that every job gets.
        jobs: overrides of every job; None where they cannot be told beforehand.
        devices: `gpu=` of jobs that run at the same time on one machine; fewer than two share nothing.
    """

    command: str
    thread_settings: dict[str, str]
    jobs: list[list[str]] | None = None
    devices: list[str] | None = None


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


def write_launch(folder: Path, launch: Launch) -> None:
    """Writes it down.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / LAUNCH).write_text(json.dumps(asdict(launch), indent=2) + "\n", "utf-8")


def read_launch(folder: Path) -> Launch:
    """How the sweep of this folder was launched."""
    return Launch(**json.loads((folder / LAUNCH).read_text("utf-8")))


def run_file(folder: Path, name: str) -> Path:
    """Where a job of a sweep notes the folder of its run."""
    return folder / f"{name}.run"


def with_run_file(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """The environment of a job that is to note there which folder its run writes."""
    return {**environment, _RUN_FILE_VARIABLE: str(path)}


def note_run(run: Path) -> None:
    """Notes the folder of this process's run, where the process is a job of a sweep."""
    told = os.environ.get(_RUN_FILE_VARIABLE)
    if told:
        path = Path(told)
        # Relative, so that a folder of results can be copied as a whole.
        path.write_text(os.path.relpath(run.resolve(), path.parent.resolve()) + "\n", "utf-8")


def runs_of_sweep(folder: Path) -> list[Path]:
    """Folders of the runs that a sweep's jobs finished, by the jobs' names; none of another folder."""
    runs: list[Path] = []
    for path in sorted(folder.glob(NOTES)):
        note, told = read_note(path), run_file(folder, path.name.removesuffix(".job.json"))
        if note and note.exit_code == 0 and told.exists():
            run = (folder.resolve() / told.read_text("utf-8").strip()).resolve()
            runs += [run] if run.is_dir() and run not in runs else []
    return runs


def with_sweeps_opened(folders: Iterable[Path]) -> list[Path]:
    """The folders, with those of a sweep's runs in place of the sweep's."""
    return [run for folder in folders for run in runs_of_sweep(folder) or [folder]]


def describe_end(folder: Path) -> tuple[list[str], int]:
    """How a sweep went, and its exit code: 0, or the largest of its jobs' (1 for a job that never ended)."""
    notes = [note for path in sorted(folder.glob(NOTES)) if (note := read_note(path))]
    failed = [note for note in notes if note.exit_code != 0]
    never_started = _never_started(folder, notes)
    started = " started" if never_started is None else ""
    num_jobs = len(notes) + len(never_started or ())
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
    """Jobs that were asked for and left no note; None where it is not known what was asked for."""
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
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("bench: ") if said else f"exit code {note.exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def write_note(path: Path, note: JobNote) -> None:
    """Writes a note, or replaces it as a whole."""
    temporary = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}")
    temporary.write_text(json.dumps(asdict(note), indent=2) + "\n", "utf-8")
    temporary.replace(path)


def read_note(path: Path) -> JobNote | None:
    """A job's note; None where there is none, or no whole one."""
    try:
        return JobNote(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
