"""Laps of one decoded answer on the device's clock, and seeded orders in which variants are measured."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bench.variant import Variant

# Makes a mark on the device's clock without waiting; see `bench.device`.
MakeMark = Callable[[], Any]


class Timeline:
    """Consecutive laps: every instant between the first and the last mark belongs to one lap.

    The owner of the device reads the clock, after it has synchronised.

    Args:
        mark: makes a mark.
        with_laps: whether there is a mark at every lap; else only at start and stop.
    """

    def __init__(self, mark: MakeMark, with_laps: bool = True):
        self._mark, self._with_laps = mark, with_laps
        self._marks: list[Any] = []
        self._names: list[str] = []

    def start(self) -> None:
        """Begins the first lap."""
        self._marks.append(self._mark())

    def lap(self, name: str) -> None:
        """Ends a lap, named after what it did, and begins the next."""
        if self._with_laps:
            self._marks.append(self._mark())
            self._names.append(name)

    def stop(self) -> None:
        """Marks the end, if no lap ends there."""
        if not self._with_laps:
            self._marks.append(self._mark())

    def laps_ms(self, elapsed_ms: Callable[[Any, Any], float]) -> dict[str, list[float]]:
        """Duration of every lap by name, in order."""
        laps: dict[str, list[float]] = defaultdict(list)
        for name, start, end in zip(self._names, self._marks, self._marks[1:], strict=False):
            laps[name].append(elapsed_ms(start, end))
        return dict(laps)

    def total_ms(self, elapsed_ms: Callable[[Any, Any], float]) -> float:
        """From the first mark to the last."""
        return elapsed_ms(self._marks[0], self._marks[-1])


T = TypeVar("T")


def probes_of(
    sizes: Sequence[int], draft_lengths: Sequence[int], seed: int, *context: object
) -> list[Variant]:
    """What to probe on one prompt: every size and every draft length at least twice, in random pairs.

    Head time depends only on k, and the rest of a round only on gamma, so not every pair must occur.
    """
    num_probes = 2 * max(len(sizes), len(draft_lengths))
    columns = []
    for name, levels in (("sizes", sizes), ("lengths", draft_lengths)):
        repeated = [levels[index % len(levels)] for index in range(num_probes)]
        columns.append(shuffled(repeated, seed, name, *context))
    return [Variant(*pair) for pair in zip(*columns, strict=True)]


def shuffled(items: Sequence[T], seed: int, *context: object) -> list[T]:
    """A seeded random order, different for every `context`, so that drift favours no variant."""
    order = list(items)
    random.Random(repr((seed, *context))).shuffle(order)
    return order
