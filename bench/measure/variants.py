"""What is compared on every prompt: plain decoding, and each vocabulary size at each draft length."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Variant:
    """One way to decode.

    Attributes:
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
    """

    vocab_size: int
    draft_length: int


def make_variants(vocab_sizes: list[int], draft_lengths: list[int], full_size: int) -> list[Variant]:
    """Plain decoding and every combination."""
    sizes, gammas = sorted(set(vocab_sizes), reverse=True), sorted(set(draft_lengths))
    return [Variant(full_size, 0), *(Variant(size, gamma) for size in sizes for gamma in gammas)]


def shuffled(variants: list[Variant], seed: int, *context: object) -> list[Variant]:
    """A seeded random order, another one for every `context`: drift then favours no variant."""
    order = list(variants)
    random.Random(repr((seed, *context))).shuffle(order)
    return order
