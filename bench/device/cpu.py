"""The CPU as a device. Work is done when a call returns, so marks are wall-clock times."""

import os
import platform
import time
from pathlib import Path

import torch

from bench.errors import DeviceError

_SYSFS = Path("/sys/devices/system/cpu")

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Caches do not always replace the oldest line, so a buffer of their size would leave some old lines.
_EVICTION_FACTOR = 2


class CpuDevice:
    """Runs on the CPU cores."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")
        self.name = f"{_model_name()} ({torch.get_num_threads()} threads)"
        self.uuid: str | None = None
        self.asynchronous = self.has_graphs = False
        self.cache_bytes = last_level_cache_bytes(_SYSFS, _usable_cpus())
        self._buffer: torch.Tensor | None = None

    def mark(self) -> int:
        """Now, in nanoseconds."""
        return time.perf_counter_ns()

    def recycle_marks(self, num_marks: int = 0) -> None:
        """Does nothing: a wall-clock time is never reused."""

    def elapsed_ms(self, start: int, end: int) -> float:
        """Wall time between two marks."""
        return (end - start) / 1e6

    def synchronize(self) -> None:
        """Does nothing: work is never queued."""

    def hold(self, host_ms: float) -> None:
        """Does nothing: work is never queued."""

    def evict_cache(self) -> None:
        """Adds to a buffer twice the size of the cache, on all threads.

        An addition also reads the buffer; a plain fill may bypass the caches.
        """
        if self._buffer is None:
            if self.cache_bytes is None:
                raise DeviceError(
                    "this machine does not report the size of its cache, so timing.cache=cold is impossible; "
                    "use timing.cache=warm"
                )
            self._buffer = torch.zeros(_EVICTION_FACTOR * self.cache_bytes // 8, dtype=torch.int64)
        self._buffer.add_(1)


def last_level_cache_bytes(sysfs: Path, cpus: set[int]) -> int | None:
    """Size of the last cache before memory; the sum if these CPUs have several.

    Args:
        sysfs: the kernel's folder of CPUs.
        cpus: numbers of the CPUs that this process may use.

    Returns:
        Bytes; None if the kernel does not report it.
    """
    last: dict[tuple[int, str], int] = {}
    for cpu in cpus:
        try:
            found = [_read_cache(folder) for folder in (sysfs / f"cpu{cpu}" / "cache").glob("index*")]
        except (OSError, ValueError, KeyError):
            return None
        caches = [cache for cache in found if cache[2] != "Instruction"]
        if caches:
            level, shared_by, _, size = max(caches)
            last[level, shared_by] = size
    return sum(last.values()) or None


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _read_cache(folder: Path) -> tuple[int, str, str, int]:
    level, shared_by, kind, size = (
        (folder / name).read_text().strip() for name in ("level", "shared_cpu_list", "type", "size")
    )
    return int(level), shared_by, kind, int(size[:-1]) * _UNITS[size[-1]]


def _model_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or os.uname().machine
