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
    """What is sampled in this run.

    Attributes:
        gpu: NVML's description of the GPU; None for a run on the CPU, or if NVML does not answer.
        why_not: why the GPU is not sampled, or nothing at all; None if everything is sampled.
        cpu_energy: whether the run is on a CPU with readable energy counters.
    """

    gpu: dict[str, Any] | None = None
    why_not: str | None = None
    cpu_energy: bool = False

    @property
    def has_energy(self) -> bool:
        """Whether the energy of the measured device can be read, from a counter or as power."""
        if self.gpu is None:
            return self.cpu_energy
        return not {"energy_j", "power_w"} <= self.gpu["unsupported"].keys()


def check_telemetry(config: TelemetryConfig, is_on_cpu: bool) -> None:
    """Refuses required telemetry on a CPU, before the run waits for a device or loads anything.

    Raises:
        DeviceError: telemetry is required in a run on the CPU.
    """
    if config.mode is TelemetryMode.required and is_on_cpu:
        raise DeviceError(
            "telemetry.mode=required needs a GPU, but this run is on the CPU; choose a GPU with gpu=, or set "
            "telemetry.mode=auto"
        )


@contextmanager
def watch(
    config: TelemetryConfig, uuid: str | None, folder: Path, powercap: Path = POWERCAP
) -> Iterator[Watch]:
    """Samples into `folder` for the block's duration.

    Args:
        config: whether to sample, and how often.
        uuid: UUID of the GPU; None for a run on the CPU.
        folder: folder of the run.
        powercap: folder in which the kernel lists the energy counters of the CPUs.

    Raises:
        DeviceError: telemetry is required and not possible.
    """
    if config.mode is TelemetryMode.off:
        yield Watch(why_not="telemetry.mode=off")
        return
    check_telemetry(config, is_on_cpu=uuid is None)
    # A file and not a pipe: nobody reads it during the run.
    with tempfile.TemporaryFile() as errors:
        process = _start(config, uuid, folder, powercap, errors)
        status = _read_status(process, errors)
        if status.get("error") and config.mode is TelemetryMode.required:
            _stop(process, errors)
            raise DeviceError(
                f"telemetry.mode=required, but {status['error']}; install the driver's libnvidia-ml.so.1, or "
                "set telemetry.mode=auto"
            )
        try:
            yield Watch(status.get("gpu"), status.get("error"), status.get("cpu_energy", False))
        finally:
            if why := _stop(process, errors):
                _note_end(folder, why)


def _start(
    config: TelemetryConfig, uuid: str | None, folder: Path, powercap: Path, errors: IO[bytes]
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.telemetry.sampler", "--out", str(folder / FILE_NAME)]
    command += ["--pid", str(os.getpid()), "--interval-s", str(config.interval_ms / 1e3)]
    command += ["--offset-s", repr(offset_s()), "--powercap", str(powercap)]
    command += ["--uuid", uuid] if uuid else []
    # A new session: Ctrl-C must only reach the run, which then ends the sampling.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )


def _read_status(process: subprocess.Popen[str], errors: IO[bytes]) -> dict[str, Any]:
    assert process.stdout
    line = process.stdout.readline() if select.select([process.stdout], [], [], _START_S)[0] else ""
    try:
        return json.loads(line)
    except ValueError:
        if not line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)  # it has closed its output, or takes too long
        return {"error": f"the sampling process did not start ({_how(process, errors)})"}


def _stop(process: subprocess.Popen[str], errors: IO[bytes]) -> str | None:
    """Ends the sampling process; returns an error that it could not write itself, or None."""
    assert process.stdin and process.stdout
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "the sampling process did not end in time and was killed"
    return f"the sampling process died ({_how(process, errors)})" if process.returncode else None


def _how(process: subprocess.Popen[str], errors: IO[bytes]) -> str:
    """How it ended, with the last line of its error output."""
    code = process.poll()
    ended = "it printed nothing" if code is None else f"exit code {code}" if code >= 0 else f"signal {-code}"
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return f"{ended}: {lines[-1]}" if lines else ended


def _note_end(folder: Path, why: str) -> None:
    """Notes the end instead of the sampling process, if the file can be written."""
    with suppress(OSError), open_samples(folder / FILE_NAME) as file:
        file.write(json.dumps({"time_s": round(now_s(), 6), "ended": why}) + "\n")
