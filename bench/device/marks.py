"""Marks that are made beforehand and used again, but never while somebody may still read them."""

from collections.abc import Callable
from typing import Generic, TypeVar

from bench.errors import DeviceError

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
