"""Starts and ends the sampling process of a run."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.config import TelemetryConfig, TelemetryMode
from bench.errors import DeviceError
from bench.telemetry.host import POWERCAP
from bench.telemetry.samples import FILE_NAME, now_s, offset_s, open_samples

_START_S, _STOP_S = 30.0, 5.0


@dataclass(frozen=True)
class Watch:
    """What is being sampled.

    Attributes:
        gpu: what NVML says of the GPU; None for a run on the CPU, or where it does not answer.
        why_not: why the GPU, or anything at all, is not sampled; None where nothing lacks.
        cpu_energy: whether this is a run on the CPU, whose energy can be read.
    """

    gpu: dict[str, Any] | None = None
    why_not: str | None = None
    cpu_energy: bool = False

    @property
    def tells_energy(self) -> bool:
        """Whether energy of what is measured can be known, by a counter or by power."""
        if self.gpu is None:
            return self.cpu_energy
        return not {"energy_j", "power_w"} <= self.gpu["unsupported"].keys()


def check_telemetry(config: TelemetryConfig, is_on_cpu: bool) -> None:
    """Whether there is a GPU to ask; before anything is waited for or loaded.

    Raises:
        DeviceError: telemetry is required of a run on the CPU.
    """
    if config.mode is TelemetryMode.required and is_on_cpu:
        raise DeviceError(
            "telemetry.mode=required asks for a GPU's telemetry, and this run is on the CPU; choose a GPU "
            "with gpu=, or set telemetry.mode=auto"
        )


@contextmanager
def watch(
    config: TelemetryConfig, uuid: str | None, folder: Path, powercap: Path = POWERCAP
) -> Iterator[Watch]:
    """Samples into `folder` for the block's duration.

    Args:
        config: whether, and how often.
        uuid: of the GPU; None for a run on the CPU, where NVML is not asked.
        folder: of the run.
        powercap: where the kernel lists the CPUs' energy counters.

    Raises:
        DeviceError: telemetry is required and cannot be had.
    """
    if config.mode is TelemetryMode.off:
        yield Watch(why_not="telemetry.mode=off")
        return
    check_telemetry(config, is_on_cpu=uuid is None)
    # A file and not a pipe: nobody reads it while the run goes on.
    with tempfile.TemporaryFile() as complaints:
        process = _start(config, uuid, folder, powercap, complaints)
        said = _hear(process, complaints)
        if said.get("error") and config.mode is TelemetryMode.required:
            _stop(process, complaints)
            raise DeviceError(
                f"telemetry.mode=required, but {said['error']}; install the driver's libnvidia-ml.so.1, or "
                "set telemetry.mode=auto"
            )
        try:
            yield Watch(said.get("gpu"), said.get("error"), said.get("cpu_energy", False))
        finally:
            if why := _stop(process, complaints):
                _note_end(folder, why)


def _start(
    config: TelemetryConfig, uuid: str | None, folder: Path, powercap: Path, complaints: IO[bytes]
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.telemetry.sampler", "--out", str(folder / FILE_NAME)]
    command += ["--pid", str(os.getpid()), "--interval-s", str(config.interval_ms / 1e3)]
    command += ["--offset-s", repr(offset_s()), "--powercap", str(powercap)]
    command += ["--uuid", uuid] if uuid else []
    # Its own session: Ctrl-C is for the run, which then ends it.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        text=True,
        start_new_session=True,
    )


def _hear(process: subprocess.Popen[str], complaints: IO[bytes]) -> dict[str, Any]:
    assert process.stdout
    line = process.stdout.readline() if select.select([process.stdout], [], [], _START_S)[0] else ""
    try:
        return json.loads(line)
    except ValueError:
        if not line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)  # it has closed its output, or takes too long
        return {"error": f"the sampling process did not start ({_how(process, complaints)})"}


def _stop(process: subprocess.Popen[str], complaints: IO[bytes]) -> str | None:
    """Ends the sampling process; returns what went wrong with it, which it did not write down itself."""
    assert process.stdin and process.stdout
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "the sampling process did not end when it was told to"
    return f"the sampling process died ({_how(process, complaints)})" if process.returncode else None


def _how(process: subprocess.Popen[str], complaints: IO[bytes]) -> str:
    """How it ended, with the last thing that it complained of."""
    code = process.poll()
    ended = "it said nothing" if code is None else f"exit code {code}" if code >= 0 else f"signal {-code}"
    complaints.seek(0)
    lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
    return f"{ended}: {lines[-1]}" if lines else ended


def _note_end(folder: Path, why: str) -> None:
    """In place of the sampling process; where it could not write, this may not either."""
    with suppress(OSError), open_samples(folder / FILE_NAME) as file:
        file.write(json.dumps({"time_s": round(now_s(), 6), "ended": why}) + "\n")
