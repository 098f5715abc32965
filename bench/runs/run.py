"""The life of a run, whatever it measures: device, folder, telemetry, records, report."""

import os
import socket
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.config import Config
from bench.device import Device, open_device
from bench.device.lock import hold_device, physical_id
from bench.errors import BenchError, FailedCasesError, OutputError
from bench.records import EndRecord, FailureRecord, Record, RecordWriter, SessionRecord
from bench.records.kinds import Done
from bench.runs.environment import measured_hardware, now
from bench.runs.folder import RunFolder, note_hardware, note_telemetry, open_run, point_latest
from bench.sweep import note_run
from bench.telemetry.watch import Watch, check_telemetry, watch


class InterruptedRunError(BenchError):
    """The user stopped the run; what was measured is kept."""

    exit_code = 130

    def __init__(self, folder: Path, num_records: int):
        super().__init__(
            f"interrupted; the {num_records} records measured so far are in {folder} - the same command "
            f'resumes the run, make report ARGS="run={folder}" draws them'
        )


@dataclass(frozen=True)
class Job:
    """What a run measures, ready to begin.

    Attributes:
        environment: what `environment.json` is to say.
        dtype: of the models: that in which the limits of the device are found.
        measure: yields records, given those of earlier sessions and what is sampled beside it.
        report: draws the report of the run in a folder.
        once: records that are known before anything is measured.
        of: what the folder's name says is measured; the domain unless given.
    """

    environment: dict[str, Any]
    dtype: torch.dtype
    measure: Callable[[Done, Watch], Generator[Record, None, None]]
    report: Callable[[Path, Console], object]
    once: list[Record] = field(default_factory=list)
    of: str | None = None


def run_job(config: Config, prepare: Callable[[Config, Device, Console], Job], console: Console) -> Path:
    """Measures while no other run does on this device, writes the run's folder and draws its report.

    An unfinished run of the same configuration, device and models is resumed.

    Args:
        config: of the run.
        prepare: checks what can be checked before anything is loaded, then loads what is measured.
        console: where progress and the report are shown.

    Returns:
        The run's folder.

    Raises:
        FailedCasesError: the run came to its end, but some cases could not be measured.
        LostDeviceError: the device failed.
        BenchError: anything the user can mend.
        InterruptedRunError: Ctrl-C after the first measurement.
    """
    if config.measure.num_threads:
        torch.set_num_threads(config.measure.num_threads)
    device_id = physical_id(config.gpu.device)
    check_telemetry(config.telemetry, is_on_cpu=device_id == "cpu")
    # A holder's command line is no markup, though `sizes=[full,1024]` looks like it.
    with hold_device(device_id, console.out):
        return _run_on_locked_device(config, prepare, console)


def _run_on_locked_device(
    config: Config, prepare: Callable[[Config, Device, Console], Job], console: Console
) -> Path:
    device = open_device(config.gpu.device, config.gpu.name_pattern)
    job = prepare(config, device, console)
    with open_run(config, job.environment, job.of) as run:
        note_run(run.path)
        _say_what_is_resumed(run, console)
        with watch(config.telemetry, device.uuid, run.path) as seen:
            note_telemetry(run.path, seen)
            failures = _record(job, device, run, seen)
    point_latest(run.path)
    # Imported late: drawing brings in seconds of libraries that measuring does not need.
    from bench.analysis.verdict import failure_fact
    from bench.report.tasks import show_failures

    try:
        job.report(run.path, console)
    except OutputError:
        # After failures there may be nothing to compare; that they were is what the user must know.
        if not failures:
            raise
    if failures:
        show_failures([failure_fact(failure) for failure in failures], console)
        raise FailedCasesError(
            f"{len(failures)} cases could not be measured (listed above); the same command tries them again"
        )
    return run.path


def _record(job: Job, device: Device, run: RunFolder, seen: Watch) -> list[FailureRecord]:
    """Records everything that earlier sessions have not; returns what failed."""
    writer, done, failures = RecordWriter(run.path), Done(run.earlier), []
    try:
        writer.append(SessionRecord(now(), socket.gethostname(), os.getpid()))
        for record in job.once:
            if record.identity is None or not done.has(record.identity):
                writer.append(record)
        with closing(job.measure(done, seen)) as records:
            for record in records:
                writer.append(record)
                failures += [record] if isinstance(record, FailureRecord) and record.was_asked_for else []
        # Last, so that the first measurement need not wait for it.
        note_hardware(run.path, lambda: measured_hardware(device, job.dtype))
        if not failures:
            writer.append(EndRecord(now()))
    except KeyboardInterrupt:
        raise InterruptedRunError(run.path, len(run.earlier) + writer.num_written) from None
    finally:
        writer.close()
    return failures


def _say_what_is_resumed(run: RunFolder, console: Console) -> None:
    if run.earlier:
        torn = "; its last line was torn, and removed" if run.was_torn else ""
        console.print(
            f"resuming {run.path}: {len(run.earlier)} records are there{torn}. resume=false starts afresh",
            soft_wrap=True,
        )
