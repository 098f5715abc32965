"""The life of a run, whatever it measures: device, folder, telemetry, records, report."""

import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.config import Config
from bench.device import Device, open_device
from bench.device.lock import hold_device, physical_id
from bench.errors import BenchError, FailedCasesError, InvalidVerdictError, OutputError, memory_for
from bench.progress import stage
from bench.records import (
    DecodeRecord,
    EndRecord,
    FailureRecord,
    ProbeRecord,
    Record,
    RecordWriter,
    SessionRecord,
)
from bench.records.store import Done
from bench.runs.environment import measured_hardware
from bench.runs.folder import RunFolder, note_hardware, note_telemetry, now, open_run, point_latest
from bench.runs.repeats import Part
from bench.surface.pace import LEAST_STRETCHES, Pace
from bench.sweep import note_run
from bench.telemetry.watch import Watch, check_telemetry, watch


class InterruptedRunError(BenchError):
    """The user stopped the run; what was measured is kept."""

    exit_code = 130

    def __init__(self, folder: Path, num_records: int):
        super().__init__(
            f"interrupted; the {num_records} records so far are in {folder} - the same command "
            f'resumes the run, make report ARGS="run={folder}" writes its page'
        )


class InterruptedReportError(BenchError):
    """Ctrl-C after the last measurement."""

    exit_code = 130

    def __init__(self, folder: Path):
        super().__init__(
            f"interrupted after the last measurement; all records are in {folder} - "
            f'make report ARGS="run={folder}" writes its page'
        )


@dataclass(frozen=True)
class Job:
    """A run that is ready to start.

    Attributes:
        environment: content of `environment.json`.
        dtype: dtype of the models; the peak rates of the device are measured in it.
        measure: yields records, given those of earlier sessions, what telemetry samples, and the pace at
            which figures are reported.
        report: writes the report of a run folder.
        once: records that are known before measuring.
        of: the part of the folder's name that says what is measured; None: the domain.
    """

    environment: dict[str, Any]
    dtype: torch.dtype
    measure: Callable[[Done, Watch, Pace | None], Generator[Record, None, None]]
    report: Callable[[Path, Console], object]
    once: list[Record] = field(default_factory=list)
    of: str | None = None


def run_job(
    config: Config,
    prepare: Callable[[Config, Device, Console], Job],
    console: Console,
    part: Part | None = None,
) -> Path:
    """Waits for the device, measures, writes the run folder and its report.

    An unfinished run of the same configuration, device and models is resumed.

    Args:
        config: the configuration of the run.
        prepare: first checks as much as possible, then loads what is measured.
        console: shows progress and the report.
        part: which process of the run this is; None: the only one.

    Returns:
        The run's folder.

    Raises:
        FailedCasesError: the run ended, but some cases could not be measured.
        InvalidVerdictError: the run and its report are written, but a headline is INVALID.
        LostDeviceError: the device failed.
        BenchError: wrong input.
        InterruptedRunError: Ctrl-C after the first measurement.
        InterruptedReportError: Ctrl-C after the last one.
    """
    if config.measure.num_threads:
        torch.set_num_threads(config.measure.num_threads)
    device_id = physical_id(config.gpu.device)
    check_telemetry(config.telemetry, is_on_cpu=device_id == "cpu")
    # The holder's command line is not markup, although `sizes=[full,1024]` looks like it.
    with hold_device(device_id, console.out):
        return _run_on_locked_device(config, prepare, console, part or Part())


def _run_on_locked_device(
    config: Config, prepare: Callable[[Config, Device, Console], Job], console: Console, part: Part
) -> Path:
    device = open_device(config.gpu.device, config.gpu.name_pattern)
    with memory_for("the models were loaded and the tokens ranked"):
        job = prepare(config, device, console)
    with open_run(config, job.environment, job.of) as run:
        note_run(run.path)
        _say_what_is_resumed(run, console, part)
        with watch(config.telemetry, device.uuid, run.path) as seen:
            note_telemetry(run.path, seen)
            failures = _record(job, device, run, seen, console, part)
    point_latest(run.path)
    # Imported late: the drawing libraries take seconds to load.
    from bench.analysis.facts import failure_fact
    from bench.report.tasks import show_failures

    try:
        if part.is_last:
            with stage(console, "analysing the records and writing the report"):
                job.report(run.path, console)
    except KeyboardInterrupt:
        raise InterruptedReportError(run.path) from None
    except (OutputError, InvalidVerdictError):
        # After failures there may be no report; the list of failures must be shown anyway.
        if not failures:
            raise
    if failures:
        show_failures([failure_fact(failure) for failure in failures], console)
        raise FailedCasesError(
            f"{len(failures)} cases could not be measured (listed above); the same command tries them again"
        )
    return run.path


# Each process of a run makes its own; a `ServedRecord` counts the processes of another engine.
_OF_A_PROCESS = ProbeRecord | DecodeRecord


def _record(
    job: Job, device: Device, run: RunFolder, seen: Watch, console: Console, part: Part
) -> list[FailureRecord]:
    """Writes the records that earlier sessions have not; returns the failures."""
    writer, done, failures = RecordWriter(run.path), Done(_known_to(part.process, run.earlier)), []
    try:
        writer.append(SessionRecord(now(), socket.gethostname(), os.getpid(), part.process))
        for record in job.once:
            if record.identity is None or not done.has(record.identity):
                writer.append(record)
        with closing(job.measure(done, seen, run.reference_pace)) as records:
            for record in records:
                writer.append(_of_process(record, part.process))
                failures += [record] if isinstance(record, FailureRecord) and record.was_asked_for else []
        # Last, so that the first measurement does not wait for it.
        with stage(console, "measuring the device's peak rates", moves=False):
            note_hardware(run.path, lambda: measured_hardware(device, job.dtype))
        if not failures and part.is_last and not part.others_failed:
            writer.append(EndRecord(now()))
    except KeyboardInterrupt:
        raise InterruptedRunError(run.path, len(run.earlier) + writer.num_written) from None
    finally:
        writer.close()
    return failures


def _known_to(process: int, earlier: Iterable[Record]) -> Iterator[Record]:
    """What a process need not measure: its own records, and what all processes share, such as replays."""
    return (r for r in earlier if not isinstance(r, _OF_A_PROCESS) or r.process == process)


def _of_process(record: Record, process: int) -> Record:
    return replace(record, process=process) if isinstance(record, _OF_A_PROCESS) else record


def _say_what_is_resumed(run: RunFolder, console: Console, part: Part) -> None:
    if part.num_processes > 1:
        console.print(f"process {part.process + 1} of {part.num_processes} of {run.path}", soft_wrap=True)
    if run.reference and not part.process:
        console.print(
            f"where at least {LEAST_STRETCHES} prompts are probed, estimates will be at the speed that run "
            f"{run.reference['run']} had; reference=false reports them at that of this run",
            soft_wrap=True,
        )
    if run.earlier and not part.process:
        torn = "; its last line was incomplete and was removed" if run.was_torn else ""
        console.print(
            f"resuming {run.path}: it has {len(run.earlier)} records{torn}. resume=false starts a new run",
            soft_wrap=True,
        )
