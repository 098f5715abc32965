"""How many tokens to draft at each batch size: vLLM's `num_speculative_tokens_per_batch_size`.

vLLM 0.32 takes a list of `[first, last, gamma]` with whole ranges of batch sizes, of which the first begins
at 1; above the last range its gamma goes on. Gamma 0 is plain decoding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# How much slower than the best draft length of its own a batch size may be, for fewer ranges.
ALLOWED_LOSS = 0.02

KEY = "num_speculative_tokens_per_batch_size"


@dataclass(frozen=True)
class Schedule:
    """Draft lengths by batch size.

    Attributes:
        ranges: first and last batch size, and gamma; ascending and without gaps.
        losses: by batch size that was tried, how much slower than the best gamma there, as a share.
    """

    ranges: list[tuple[int, int, int]]
    losses: dict[int, float]

    @property
    def longest(self) -> int:
        """The largest gamma; 0 where speculation never pays."""
        return max(gamma for _, _, gamma in self.ranges)


def schedule_of(speeds: Mapping[int, Mapping[int, float]], allowed_loss: float = ALLOWED_LOSS) -> Schedule:
    """The schedule of fewest changes that loses little at every batch size that was tried.

    Of equally few changes, the one of the least loss over all of them. Between two sizes it changes at their
    geometric mean.

    Args:
        speeds: tokens/s by gamma, by batch size; 0 is plain decoding.
        allowed_loss: share of the best speed at a batch size that may be lost there.
    """
    sizes = sorted(speeds)
    losses = {size: _losses(speeds[size]) for size in sizes}
    # The best way to every gamma at the sizes so far: changes, total loss, gammas.
    best: dict[int, tuple[int, float, tuple[int, ...]]] = {}
    for size in sizes:
        fresh: dict[int, tuple[int, float, tuple[int, ...]]] = {}
        for gamma, loss in losses[size].items():
            if loss <= allowed_loss:
                ways = [
                    (changes + (gamma != before), total + loss, (*path, gamma))
                    for before, (changes, total, path) in best.items()
                ]
                fresh[gamma] = min(ways, default=(0, loss, (gamma,)))
        best = fresh
    _, _, gammas = min(best.values())
    chosen = dict(zip(sizes, gammas, strict=True))
    return Schedule(_ranges(chosen), {size: losses[size][gamma] for size, gamma in chosen.items()})


def _losses(speeds: Mapping[int, float]) -> dict[int, float]:
    fastest = max(speeds.values())
    return {gamma: 1 - speed / fastest for gamma, speed in speeds.items()}


def _ranges(chosen: Mapping[int, int]) -> list[tuple[int, int, int]]:
    sizes, ranges, first = list(chosen), [], 1
    for size, after in zip(sizes, [*sizes[1:], None], strict=True):
        if after is None:
            ranges.append((first, size, chosen[size]))
        elif chosen[after] != chosen[size]:
            last = math.isqrt(size * after)
            ranges.append((first, last, chosen[size]))
            first = last + 1
    return ranges
