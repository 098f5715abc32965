"""The process that samples: `python -m bench.telemetry.sampler`, started by `watch`.

It is a process and not a thread, because a thread would take the interpreter from the loops that are timed.
It ends when its parent closes its standard input, which the kernel does for a parent that is killed.
"""

import argparse
import json
import select
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import psutil

from bench.telemetry.clock import now_s
from bench.telemetry.host import Host
from bench.telemetry.nvml import NvmlError, NvmlGpu

# Asking for PCIe throughput takes NVML 20 ms each way, and the host's clocks and load a millisecond of a CPU
# that may be what is measured.
_SLOW_EVERY_S = 1.0


class Sampler:
    """Appends samples to a file.

    Args:
        file: one JSON line per sample, and a last one that says why there are no more.
        gpu: the GPU, or None for a run on the CPU.
        host: the machine.
        own_pids: processes that are no strangers on the GPU.
        offset_s: of the clock of the process that measures.
    """

    def __init__(self, file: TextIO, gpu: NvmlGpu | None, host: Host, own_pids: set[int], offset_s: float):
        self._file, self._gpu, self._host = file, gpu, host
        self._own_pids, self._offset_s = own_pids, offset_s
        self._began_s = self._now_s()
        self._last_slow_s: float | None = None

    def sample(self) -> None:
        """Takes one sample.

        Raises:
            NvmlError: the GPU stopped answering.
            psutil.NoSuchProcess: the process that measures has ended.
        """
        now = self._now_s()
        values: dict[str, Any] = {} if self._gpu is None else self._gpu.fast()
        if self._last_slow_s is None or now - self._last_slow_s >= _SLOW_EVERY_S:
            # The first sample comes one interval after the start.
            values |= self._host.read(now - (self._last_slow_s or self._began_s))
            values |= self._gpu.slow(self._own_pids) if self._gpu else {}
            self._last_slow_s = now
        if values:
            self.write({"time_s": round(now, 6), **values})

    def write(self, values: dict[str, Any]) -> None:
        """One line; a disk that is full loses samples, not the run."""
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError:
            return

    def unsupported(self) -> dict[str, str]:
        """By field, why it is None."""
        return {**self._host.unsupported, **(self._gpu.unsupported if self._gpu else {})}

    def _now_s(self) -> float:
        return now_s(self._offset_s)


def run(sampler: Sampler, interval_s: float, commands: TextIO) -> str:
    """Samples until `commands` is closed; returns why it ended."""
    due = time.perf_counter()
    while True:
        due = max(due + interval_s, time.perf_counter())
        if select.select([commands], [], [], max(0.0, due - time.perf_counter()))[0]:
            return "the run ended"
        try:
            sampler.sample()
        except NvmlError as error:
            return str(error)
        except psutil.NoSuchProcess:
            return "the run was killed"


def main() -> None:
    """Says on standard output what it can sample, or why it cannot; then samples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--uuid")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--interval-s", type=float, required=True)
    parser.add_argument("--offset-s", type=float, required=True)
    options = parser.parse_args()
    try:
        gpu = NvmlGpu(options.uuid) if options.uuid else None
        description = gpu.describe() if gpu else None
    except NvmlError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    with options.out.open("a", encoding="utf-8") as file:
        host = Host(options.pid)
        sampler = Sampler(file, gpu, host, {options.pid, psutil.Process().pid}, options.offset_s)
        print(json.dumps({"gpu": description}), flush=True)
        why = run(sampler, options.interval_s, sys.stdin)
        sampler.write({"time_s": now_s(options.offset_s), "ended": why, "unsupported": sampler.unsupported()})
    if gpu:
        gpu.close()


if __name__ == "__main__":
    main()
