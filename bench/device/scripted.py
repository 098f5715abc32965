"""A device with a simulated clock, to test measurements exactly and without sleeping.

It has two clocks, as a GPU and its host: the host queues work, and the device does it later.
"""

from dataclasses import dataclass

import torch

from bench.device.base import MarkPool
from bench.errors import DeviceError


@dataclass(eq=False)
class _Event:
    """An event as on a GPU: recording it again changes its time."""

    reached_ns: int = 0


class ScriptedDevice:
    """Runs nothing; `work` says how long something takes.

    Args:
        asynchronous: whether the host continues while the device works, as with a GPU.
        cache_bytes: size of the cache; None: not known.
        evict_ms: device time of an eviction.
        sync_ms: host time of a synchronisation after the device is done.
        uuid: UUID of the device.
        num_marks: number of marks at the start.
        mark_ms: device time of a mark.
        mark_host_ms: host time to queue a mark.
        has_graphs: whether it claims that work can be captured; it never captures any.
    """

    def __init__(
        self,
        asynchronous: bool = True,
        cache_bytes: int | None = 1 << 20,
        evict_ms: float = 0.0,
        sync_ms: float = 0.0,
        uuid: str | None = None,
        num_marks: int = 4,
        mark_ms: float = 0.0,
        mark_host_ms: float = 0.0,
        has_graphs: bool = False,
    ):
        self.name, self.torch_device, self.uuid = "scripted device", torch.device("cpu"), uuid
        self.asynchronous, self.cache_bytes, self.has_graphs = asynchronous, cache_bytes, has_graphs
        self.is_cold = False
        self.num_evictions = 0
        self.num_synchronizations = self.num_holds = 0
        self._evict_ns, self._sync_ns, self._mark_ns = _ns(evict_ms), _ns(sync_ms), _ns(mark_ms)
        self._mark_host_ms = mark_host_ms
        self.marks = MarkPool(lambda count: [_Event() for _ in range(count)], num_marks)
        self._host_ns = 0
        self._queue_end_ns = 0

    def clock_ns(self) -> int:
        """The host's clock, instead of `time.perf_counter_ns`."""
        return self._host_ns

    def work(self, device_ms: float, host_ms: float = 0.0, cold_ms: float = 0.0) -> None:
        """Work to measure.

        Args:
            device_ms: device time of the work.
            host_ms: host time to queue it.
            cold_ms: additional device time if the cache was evicted before.
        """
        self.pass_time(host_ms)
        self._queue(_ns(device_ms) + (_ns(cold_ms) if self.is_cold else 0))
        self.is_cold = False

    def pass_time(self, host_ms: float) -> None:
        """The host does something else."""
        self._host_ns += _ns(host_ms)

    def mark(self) -> tuple[_Event, int]:
        """A mark at the end of the device's queue, or now if the queue is empty."""
        mark = self.marks.take()
        self.pass_time(self._mark_host_ms)
        self._queue(self._mark_ns)
        mark[0].reached_ns = self._queue_end_ns
        return mark

    def recycle_marks(self, num_marks: int = 0) -> None:
        """Frees the events of earlier marks."""
        self.marks.recycle(num_marks)

    def elapsed_ms(self, start: tuple[_Event, int], end: tuple[_Event, int]) -> float:
        """Device time between two marks.

        Raises:
            DeviceError: the device has not reached both marks, or one was recycled. A real device would not
                raise an error.
        """
        first, last = self.marks.event(start).reached_ns, self.marks.event(end).reached_ns
        if max(first, last) > self._host_ns:
            raise DeviceError("a mark was read before the device reached it; synchronise first")
        return (last - first) / 1e6

    def synchronize(self) -> None:
        """The host's clock moves to the end of the queue."""
        self.num_synchronizations += 1
        self._host_ns = max(self._host_ns, self._queue_end_ns) + self._sync_ns

    def hold(self, host_ms: float) -> None:
        """Queues that much time; nothing where the device does not run behind the host."""
        if self.asynchronous:
            self.num_holds += 1
            self._queue(_ns(host_ms))

    def evict_cache(self) -> None:
        """Queues an eviction; the next work is cold."""
        if self.cache_bytes is None:
            raise DeviceError("the scripted device does not say how large its cache is")
        self._queue(self._evict_ns)
        self.num_evictions += 1
        self.is_cold = True

    def _queue(self, duration_ns: int) -> None:
        self._queue_end_ns = max(self._host_ns, self._queue_end_ns) + duration_ns
        if not self.asynchronous:
            self._host_ns = self._queue_end_ns


def _ns(ms: float) -> int:
    return round(ms * 1e6)
