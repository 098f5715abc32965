"""The interface of a device: where tensors live, marks on its clock, and cache eviction."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch

from bench.errors import DeviceError

# A point in time on the device's clock; only the device can interpret it.
Mark = Any


class Device(Protocol):
    """One device that models run on.

    Marks are cheap and never wait for the device. Read the time between two marks only after `synchronize`,
    and before the next `recycle_marks`.

    Attributes:
        name: the name in results.
        torch_device: where tensors live.
        uuid: the driver's UUID of a GPU or MIG slice; None for a CPU.
        asynchronous: whether a call can return before its work is done.
        has_graphs: whether work can be captured as a CUDA graph.
        cache_bytes: size of the last cache before memory (L2 of a GPU); None if not known.
    """

    name: str
    torch_device: torch.device
    uuid: str | None
    asynchronous: bool
    has_graphs: bool
    cache_bytes: int | None

    def mark(self) -> Mark:
        """The point in time at which the work queued so far is done."""

    def recycle_marks(self, num_marks: int = 0) -> None:
        """Prepares for the next timing: all marks so far were read, and about this many will be made.

        More marks are possible, but making them may delay the host.
        """

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """Device time between two marks, after the device has passed both."""

    def synchronize(self) -> None:
        """Waits until all queued work is done."""

    def hold(self, host_ms: float) -> None:
        """Keeps the device waiting for as long as the host needs to queue what is timed next.

        What follows then runs without gaps. A device that does not run behind the host has none.
        """

    def evict_cache(self) -> None:
        """Queues a write to a buffer larger than the cache, which evicts everything else.

        Raises:
            DeviceError: the size of the cache is not known.
        """


# Events for marks: created beforehand and reused, but never while a mark can still be read.

T = TypeVar("T")


class MarkPool(Generic[T]):
    """Events of a device. Each is used once, until all are recycled.

    The pool grows when it is empty, because an event that is used twice within one timeline would overwrite
    its first mark. Growing takes time, so give the number of marks beforehand if it is known.

    Args:
        make: creates this many events that can be recorded without delay.
        size: number of events at the start.
    """

    def __init__(self, make: Callable[[int], list[T]], size: int):
        self._make, self._events = make, make(size)
        self._next = self._generation = 0

    def __len__(self) -> int:
        return len(self._events)

    def take(self) -> tuple[T, int]:
        """A mark: an event that no readable mark uses, and when it was taken."""
        if self._next == len(self._events):
            self._events += self._make(max(1, len(self._events)))
        event = self._events[self._next]
        self._next += 1
        return event, self._generation

    def recycle(self, num_marks: int) -> None:
        """Invalidates all marks so far, and creates the events for the next `num_marks`."""
        self._next, self._generation = 0, self._generation + 1
        if num_marks > len(self._events):
            self._events += self._make(num_marks - len(self._events))

    def event(self, mark: tuple[T, int]) -> T:
        """The event of a mark.

        Raises:
            DeviceError: the mark was recycled, so its event may have another time.
        """
        event, generation = mark
        if generation != self._generation:
            raise DeviceError(
                "a mark was read after it was recycled; read a timeline before the next one starts"
            )
        return event
