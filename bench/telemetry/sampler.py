"""The sampling process: `python -m bench.telemetry.sampler`, started by `watch`.

It is a process and not a thread, because a thread would hold the interpreter lock while loops are timed.
It ends when its parent closes its standard input; if the parent is killed, the kernel closes it.
"""

import argparse
import json
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import psutil

from bench.telemetry.host import POWERCAP, Host, Rapl
from bench.telemetry.nvml import NvmlError, NvmlGpu
from bench.telemetry.samples import RUN_ENDED, RUN_KILLED, now_s, open_samples

# Reading PCIe throughput takes NVML 20 ms for each direction. Reading the host's clocks and load takes a
# millisecond of a CPU that may be the measured device.
_SLOW_EVERY_S = 1.0


class Sampler:
    """Appends samples to a file.

    Args:
        file: one JSON line per sample. The first line says how samples are taken, the last one why they end.
        gpu: the GPU; None for a run on the CPU, or if NVML does not answer.
        host: the machine.
        own_pids: processes that belong to the run.
        offset_s: clock offset of the process that measures.
        energy_of_host: reads the energy of the CPUs with every sample, and not only once a second.
    """

    def __init__(
        self,
        file: TextIO,
        gpu: NvmlGpu | None,
        host: Host,
        own_pids: set[int],
        offset_s: float,
        energy_of_host: bool = False,
    ):
        self._file, self._gpu, self._host = file, gpu, host
        self._own_pids, self._offset_s, self._energy_of_host = own_pids, offset_s, energy_of_host
        self._gpu_unsupported = gpu.unsupported if gpu else {}
        self._gpu_impossible = gpu.impossible if gpu else {}
        self._began_s = self._now_s()
        self._last_slow_s: float | None = None

    def sample(self) -> None:
        """Takes one sample. A GPU that stops answering is noted once; sampling of the host continues.

        Raises:
            psutil.NoSuchProcess: the process that measures has ended.
        """
        now, host = self._now_s(), self._host
        values = self._of_gpu(lambda gpu: gpu.fast())
        if self._last_slow_s is None or now - self._last_slow_s >= _SLOW_EVERY_S:
            # The first sample comes one interval after the start.
            values |= host.read(now - (self._last_slow_s or self._began_s))
            values |= {"cpu_energy_j": host.energy_j()}
            values |= self._of_gpu(lambda gpu: gpu.slow(self._own_pids))
            self._last_slow_s = now
        elif self._energy_of_host:
            values |= {"cpu_energy_j": host.energy_j()}
        if values:
            self.write({"time_s": round(now, 6), **values})

    def write(self, values: dict[str, Any]) -> None:
        """Writes one line. A full disk loses samples, but does not end the run."""
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError:
            return

    def write_event(self, **event: Any) -> None:
        """Writes a line that is not a sample: `began`, `gpu_lost` or `ended`."""
        self.write({"time_s": round(self._now_s(), 6), **event})

    def unsupported(self) -> dict[str, str]:
        """By field, the reason why it is None."""
        return {**self._host.unsupported, **self._gpu_unsupported}

    def impossible(self) -> dict[str, str]:
        """By field, the first answer that no sensor can give."""
        return {**self._host.impossible, **self._gpu_impossible}

    def _of_gpu(self, ask: Callable[[NvmlGpu], dict[str, Any]]) -> dict[str, Any]:
        if self._gpu is None:
            return {}
        try:
            return ask(self._gpu)
        except Exception as error:  # a broken driver can raise anything; sampling of the host continues
            self._gpu = None
            self.write_event(gpu_lost=_describe_error(error))
            return {}

    def _now_s(self) -> float:
        return now_s(self._offset_s)


def run(sampler: Sampler, interval_s: float, commands: TextIO) -> str:
    """Samples until `commands` is closed; returns why it ended."""
    due = time.perf_counter()
    while True:
        due = max(due + interval_s, time.perf_counter())
        if select.select([commands], [], [], max(0.0, due - time.perf_counter()))[0]:
            return RUN_ENDED
        try:
            sampler.sample()
        except psutil.NoSuchProcess:
            return RUN_KILLED
        except Exception as error:  # the file must say why sampling ended, whatever the error is
            return f"the sampling process failed: {_describe_error(error)}"


def main() -> None:
    """Prints what it can sample, and what not and why; then samples."""
    options = _options()
    gpu, description, error = _open_gpu(options.uuid)
    rapl = Rapl(options.powercap)
    rapl.read_j()
    host = Host(options.pid, rapl)
    # In a run on a GPU, the energy of the host is background information, like its load.
    energy_of_host = not options.uuid and rapl.why_not is None
    with open_samples(options.out) as file:
        own_pids = {options.pid, psutil.Process().pid}
        sampler = Sampler(file, gpu, host, own_pids, options.offset_s, energy_of_host)
        sampler.write_event(began={"interval_s": options.interval_s})
        status = {"gpu": description, "error": error, "cpu_energy": energy_of_host}
        print(json.dumps(status), flush=True)
        why = run(sampler, options.interval_s, sys.stdin)
        sampler.write_event(ended=why, unsupported=sampler.unsupported(), impossible=sampler.impossible())
    if gpu:
        gpu.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--uuid")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--interval-s", type=float, required=True)
    parser.add_argument("--offset-s", type=float, required=True)
    parser.add_argument("--powercap", type=Path, default=POWERCAP)
    return parser.parse_args()


def _open_gpu(uuid: str | None) -> tuple[NvmlGpu | None, dict[str, Any] | None, str | None]:
    """The GPU and its description, or the reason why it cannot be opened."""
    try:
        gpu = NvmlGpu(uuid) if uuid else None
        return gpu, gpu.describe() if gpu else None, None
    except NvmlError as error:
        return None, None, str(error)


def _describe_error(error: Exception) -> str:
    return str(error) if isinstance(error, NvmlError) else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
