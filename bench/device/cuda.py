"""A CUDA GPU as a device. Marks are events on its stream, so delays of the host are not counted as work."""

import os
from pathlib import Path
from typing import Any

import torch

from bench.device.base import MarkPool
from bench.errors import DeviceError

# Number of events at the start; a timing that needs more reserves them before it starts.
_POOL = 8192

# L2 does not always replace the oldest line, so a buffer of its size would leave some old lines.
_EVICTION_FACTOR = 3

# Of the fastest GPU.
_CYCLES_PER_MS = 2_000_000


class CudaDevice:
    """Runs on one visible GPU."""

    def __init__(self, index: int):
        if not torch.cuda.is_available():
            raise DeviceError(
                f"gpu={index} needs CUDA, which this machine or this torch does not have; use gpu=cpu"
            )
        if index >= torch.cuda.device_count():
            raise DeviceError(
                f"gpu={index} does not exist: {torch.cuda.device_count()} GPU(s) are visible, numbered from 0"
            )
        torch.cuda.set_device(index)
        stay_near(torch.cuda.get_device_properties(index))
        # On Hopper and Blackwell torch prefers cuDNN's attention, which builds a plan for every new length of
        # the cache: about 40 ms on an H200, in a round that takes 15.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.torch_device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)
        properties = torch.cuda.get_device_properties(index)
        self.uuid: str | None = str(properties.uuid)
        self.asynchronous = self.has_graphs = True
        self.cache_bytes = _cache_bytes(properties)
        self._buffer: torch.Tensor | None = None
        # Looking up the stream at every mark would take about as long as the mark.
        self._stream = torch.cuda.current_stream(index)
        self._pool = MarkPool(self._make_events, _POOL)

    def mark(self) -> tuple[torch.cuda.Event, int]:
        """An event recorded on the stream that was current when the device was opened."""
        mark = self._pool.take()
        mark[0].record(self._stream)
        return mark

    def recycle_marks(self, num_marks: int = 0) -> None:
        """Frees the events of earlier marks."""
        self._pool.recycle(num_marks)

    def elapsed_ms(self, start: tuple[torch.cuda.Event, int], end: tuple[torch.cuda.Event, int]) -> float:
        """Device time between two marks.

        Raises:
            DeviceError: a mark was recycled.
        """
        return self._pool.event(start).elapsed_time(self._pool.event(end))

    def synchronize(self) -> None:
        """Waits for the GPU."""
        torch.cuda.synchronize(self.torch_device)

    def hold(self, host_ms: float) -> None:
        """Queues a kernel that sleeps about that long, longer where the clock is below 2 GHz."""
        torch.cuda._sleep(int(host_ms * _CYCLES_PER_MS))

    def evict_cache(self) -> None:
        """Queues a write of three times the size of L2 on the current stream."""
        if self._buffer is None:
            if self.cache_bytes is None:
                raise DeviceError(
                    f"{self.name} does not report the size of its L2, so timing.cache=cold is impossible; "
                    "use timing.cache=warm"
                )
            size = _EVICTION_FACTOR * self.cache_bytes
            self._buffer = torch.empty(size, dtype=torch.uint8, device=self.torch_device)
        self._buffer.zero_()

    def _make_events(self, count: int) -> list[torch.cuda.Event]:
        """Events that were recorded once: CUDA creates an event then, which would delay a timing."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count)]
        for event in events:
            event.record(self._stream)
        self.synchronize()
        return events


# MiB of the cache between L2 and memory (Infinity Cache) by architecture, for the largest chip that has it.
# torch reports L2 alone, a few MiB that evict nothing of it. CDNA 3 and 4, RDNA 2, 3 and 4.
_INFINITY_CACHE_MIB = {
    "gfx942": 256, "gfx950": 256,
    "gfx1030": 128, "gfx1031": 96, "gfx1032": 32,
    "gfx1100": 96, "gfx1101": 64, "gfx1102": 32,
    "gfx1200": 32, "gfx1201": 64,
}  # fmt: skip


def _cache_bytes(properties: Any) -> int | None:
    """Size of the last cache before memory; None if not known."""
    name = getattr(properties, "gcnArchName", "").partition(":")[0]
    larger = _INFINITY_CACHE_MIB.get(name, 0) << 20
    return max(properties.L2_cache_size, larger) or None


_PCI = Path("/sys/bus/pci/devices")


def stay_near(properties: Any, pci: Path = _PCI) -> None:
    """Keeps this thread, which launches, and those it starts on the CPUs of the GPU's socket.

    A launch from another socket takes longer, by chance of where the system puts the process. Nothing
    changes where the kernel does not say which CPUs are near, or none of them is allowed.
    """
    try:
        place = (properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id)
        text = (pci / "{:04x}:{:02x}:{:02x}.0".format(*place) / "local_cpulist").read_text()
        near = os.sched_getaffinity(0) & cpus_in(text)
        if near:
            os.sched_setaffinity(0, near)
    except (AttributeError, OSError, ValueError):
        return


def cpus_in(text: str) -> set[int]:
    """Numbers in a list of the kernel's, such as `0-3,8`."""
    ranges = [piece.split("-") for piece in text.strip().split(",") if piece]
    return {cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)}
