"""Where the time of one decoded answer goes, as laps on the device's clock."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

# Makes a mark on the device's clock without waiting; see `bench.device`.
MakeMark = Callable[[], Any]


class Timeline:
    """Consecutive laps: every instant between the first and the last mark belongs to one lap.

    Reading the clock is left to the owner of the device, once it has synchronised.
    """

    def __init__(self, mark: MakeMark):
        self._mark = mark
        self._marks: list[Any] = []
        self._names: list[str] = []

    def start(self) -> None:
        """Begins the first lap."""
        self._marks.append(self._mark())

    def lap(self, name: str) -> None:
        """Ends a lap, named after what it did, and begins the next."""
        self._marks.append(self._mark())
        self._names.append(name)

    def laps_ms(self, elapsed_ms: Callable[[Any, Any], float]) -> dict[str, list[float]]:
        """Duration of every lap by name, in order."""
        laps: dict[str, list[float]] = defaultdict(list)
        for name, start, end in zip(self._names, self._marks, self._marks[1:], strict=False):
            laps[name].append(elapsed_ms(start, end))
        return dict(laps)

    def total_ms(self, elapsed_ms: Callable[[Any, Any], float]) -> float:
        """From the first mark to the last."""
        return elapsed_ms(self._marks[0], self._marks[-1])
