"""Ways to decode, and seeded orders in which they are measured."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Variant:
    """One way to decode.

    Attributes:
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
    """

    vocab_size: int
    draft_length: int


def probes_of(
    sizes: Sequence[int], draft_lengths: Sequence[int], seed: int, *context: object
) -> list[Variant]:
    """What to probe on one prompt: every size and every draft length at least twice, in random pairs.

    Head time depends on k alone and the rest of a round on gamma alone, so the pairs need not all occur.
    """
    num_probes = 2 * max(len(sizes), len(draft_lengths))
    columns = []
    for name, levels in (("sizes", sizes), ("lengths", draft_lengths)):
        repeated = [levels[index % len(levels)] for index in range(num_probes)]
        columns.append(shuffled(repeated, seed, name, *context))
    return [Variant(*pair) for pair in zip(*columns, strict=True)]


def shuffled(items: Sequence[T], seed: int, *context: object) -> list[T]:
    """A seeded random order, another one for every `context`: drift then favours no variant."""
    order = list(items)
    random.Random(repr((seed, *context))).shuffle(order)
    return order
