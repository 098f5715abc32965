"""Starts and ends the sampling process of a run."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import TelemetryConfig, TelemetryMode
from bench.errors import DeviceError
from bench.telemetry.clock import offset_s
from bench.telemetry.samples import FILE_NAME

_START_S, _STOP_S = 30.0, 5.0


@dataclass(frozen=True)
class Watch:
    """What is being sampled.

    Attributes:
        gpu: what NVML says of the GPU; None for a run on the CPU, or where nothing is sampled.
        why_not: why nothing is sampled; None where something is.
    """

    gpu: dict[str, Any] | None = None
    why_not: str | None = None

    @property
    def tells_energy(self) -> bool:
        """Whether the GPU's energy can be known, by its counter or by its power."""
        return self.gpu is not None and not {"energy_j", "power_w"} <= self.gpu["unsupported"].keys()


@contextmanager
def watch(config: TelemetryConfig, uuid: str | None, folder: Path) -> Iterator[Watch]:
    """Samples into `folder` for the block's duration.

    Args:
        config: whether, and how often.
        uuid: of the GPU; None for a run on the CPU, where NVML is not asked.
        folder: of the run.

    Raises:
        DeviceError: telemetry is required and cannot be had.
    """
    if config.mode is TelemetryMode.off:
        yield Watch(why_not="telemetry.mode=off")
        return
    process = _start(config, uuid, folder)
    said = _hear(process)
    if "error" in said and config.mode is TelemetryMode.required:
        _stop(process)
        raise DeviceError(
            f"telemetry.mode=required, but {said['error']}; install the driver's libnvidia-ml.so.1, or set "
            "telemetry.mode=auto"
        )
    try:
        yield Watch(said.get("gpu"), said.get("error"))
    finally:
        _stop(process)


def _start(config: TelemetryConfig, uuid: str | None, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.telemetry.sampler", "--out", str(folder / FILE_NAME)]
    command += ["--pid", str(os.getpid()), "--interval-s", str(config.interval_ms / 1e3)]
    command += ["--offset-s", repr(offset_s()), *(["--uuid", uuid] if uuid else [])]
    # Its own session: Ctrl-C is for the run, which then ends it.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    line = process.stdout.readline() if select.select([process.stdout], [], [], _START_S)[0] else ""
    try:
        return json.loads(line)
    except ValueError:
        return {"error": f"the sampling process did not start (exit code {process.poll()})"}


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin and process.stdout
    process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
