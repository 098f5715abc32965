"""What the rest of the program asks of a device: where tensors go, marks on its clock, an empty cache."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch

from bench.errors import DeviceError

# A point on the device's clock; opaque outside its device.
Mark = Any


class Device(Protocol):
    """One device that models run on.

    Marks are cheap and never wait for the device; read their distance only after `synchronize`, and before
    the next `recycle_marks`.

    Attributes:
        name: as it appears in results.
        torch_device: where tensors go.
        uuid: of a GPU or a MIG slice, as the driver names it everywhere; None for a CPU.
        asynchronous: whether a call may return before its work is done.
        has_graphs: whether work can be captured as a CUDA graph.
        cache_bytes: last cache before memory (L2 of a GPU); None where it cannot be known.
    """

    name: str
    torch_device: torch.device
    uuid: str | None
    asynchronous: bool
    has_graphs: bool
    cache_bytes: int | None

    def mark(self) -> Mark:
        """The point where work queued so far ends."""

    def recycle_marks(self, num_marks: int = 0) -> None:
        """Before a timing begins: all marks made so far were read, and about so many will be made.

        Any number may be made; those beyond may delay the host when they are.
        """

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """Device time between two marks, once the device has passed both."""

    def synchronize(self) -> None:
        """Waits until all queued work is done."""

    def evict_cache(self) -> None:
        """Queues a write of a buffer larger than the cache, after which the cache holds nothing else.

        Raises:
            DeviceError: the size of the cache is not known.
        """


# Marks that are made beforehand and used again, but never while somebody may still read them.

T = TypeVar("T")


class MarkPool(Generic[T]):
    """Events of a device, each handed out once until all are recycled.

    A pool that runs out grows: an event that was used twice within one timeline would move its first mark
    to the place of its second. Growing takes time, so whoever knows how many marks come says so beforehand.

    Args:
        make: makes so many events, ready to be recorded without delay.
        size: events to begin with.
    """

    def __init__(self, make: Callable[[int], list[T]], size: int):
        self._make, self._events = make, make(size)
        self._next = self._generation = 0

    def __len__(self) -> int:
        return len(self._events)

    def take(self) -> tuple[T, int]:
        """An event that no readable mark uses, as a mark: the event and when it was handed out."""
        if self._next == len(self._events):
            self._events += self._make(max(1, len(self._events)))
        event = self._events[self._next]
        self._next += 1
        return event, self._generation

    def recycle(self, num_marks: int) -> None:
        """Ends all marks handed out so far, and makes sure of events for the next `num_marks`."""
        self._next, self._generation = 0, self._generation + 1
        if num_marks > len(self._events):
            self._events += self._make(num_marks - len(self._events))

    def event(self, mark: tuple[T, int]) -> T:
        """The event of a mark.

        Raises:
            DeviceError: it was recycled, so that its event may tell another time by now.
        """
        event, generation = mark
        if generation != self._generation:
            raise DeviceError("a mark was read after it was recycled; read a timeline before the next begins")
        return event
