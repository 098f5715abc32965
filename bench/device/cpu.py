"""The CPU as a device: work is done when the call returns, so marks are wall-clock times."""

import os
import platform
import time
from pathlib import Path

import torch


class CpuDevice:
    """Runs on the host's cores."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.name = f"{_model_name()} ({torch.get_num_threads()} threads)"

    def mark(self) -> int:
        """Now, in nanoseconds."""
        return time.perf_counter_ns()

    def elapsed_ms(self, start: int, end: int) -> float:
        """Wall time between two marks."""
        return (end - start) / 1e6

    def synchronize(self) -> None:
        """Nothing is ever queued."""


def _model_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or os.uname().machine
