"""tokens/s of every (k, gamma): replayed acceptance times measured latency, with intervals.

speed(k, gamma) = tokens / sum over prompts of (draft prefill + rounds(k, gamma) * T_round(k, gamma)). What
two variants have in common is estimated once, from all probes: a gain comes only from what differs between
two sizes, and from the number of rounds, which the replay gives. Acceptance is known for many prompts.
Latency is known for a few of them, each probed in a block of its own with every size and gamma. The two are
independent samples: each interval leaves out one prompt of the first, then one block of the second
(`bench.stats.jackknife`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.acceptance import Acceptance, Intervals, Ratios
from bench.stats.estimates import Estimate
from bench.stats.jackknife import Spread, log_interval
from bench.surface.latency import RoundLatency
from bench.variant import Variant
from bench.vocab.draft_vocab import Floats, IntArray

# A gain too small to choose a vocabulary for. Sizes of equal acceptance differ only by the cost of the head,
# which every interval orders in the same way, so that without this margin 0.1% would be significant.
NEGLIGIBLE = 0.01

# The same of a draft length. What whole rounds of two lengths take differs by about this much from process to
# process, which no interval of one process knows; two heads in the same rounds differ by less.
NEGLIGIBLE_LENGTH = 0.02

_MOST_MULTIPLES = 1000


@dataclass(frozen=True)
class Speed:
    """Predicted tokens/s of one variant.

    Attributes:
        log_tokens_per_s: natural logarithm.
        left_out: its change with each prompt left out `(prompts,)`, and with each block `(blocks,)`.
    """

    log_tokens_per_s: float
    left_out: tuple[Floats, ...]

    @property
    def estimate(self) -> Estimate:
        """Tokens/s with their interval."""
        return log_interval(self.log_tokens_per_s, self.left_out)

    def over(self, other: "Speed") -> Estimate:
        """Speed over that of another variant, with its interval."""
        samples = [a - b for a, b in zip(self.left_out, other.left_out, strict=True)]
        return log_interval(self.log_tokens_per_s - other.log_tokens_per_s, samples)


@dataclass(frozen=True)
class Surface:
    """Predictions on a grid that holds every size at which acceptance changes.

    Between two grid sizes acceptance is constant and the head's cost rises, so the fastest size of all is on
    the grid. Arrays are `(draft lengths, sizes)`.

    Attributes:
        sizes: ascending; the last is the draft's whole vocabulary.
        draft_lengths: gammas.
        tokens_per_s: predicted.
        num_rounds: target passes over all prompts.
        num_accepted: accepted tokens over all prompts.
        num_tokens: decoded tokens over all prompts.
        prompt_left_out: change of the logarithm with each prompt left out `(prompts, draft lengths, sizes)`.
        block_left_out: with each block of latencies left out `(blocks, draft lengths, sizes)`.
        plain: speed of plain decoding; None where no plain step was timed.
    """

    sizes: IntArray
    draft_lengths: list[int]
    tokens_per_s: Floats
    num_rounds: Floats
    num_accepted: Floats
    num_tokens: int
    prompt_left_out: NDArray[np.float32]
    block_left_out: NDArray[np.float32]
    plain: Speed | None

    @property
    def mean_acceptance_length(self) -> Floats:
        """Tokens per target pass, bonus token included."""
        return 1 + self.num_accepted / self.num_rounds

    @property
    def acceptance_rate(self) -> Floats:
        """Accepted over drafted tokens."""
        return self.num_accepted / (self.num_rounds * np.array(self.draft_lengths)[:, None])

    @property
    def fastest(self) -> Variant:
        """Fastest size and draft length; the smallest size if several are equal."""
        row, column = np.unravel_index(int(np.argmax(self.tokens_per_s)), self.tokens_per_s.shape)
        return Variant(int(self.sizes[column]), self.draft_lengths[row])

    @property
    def full(self) -> Variant:
        """The whole vocabulary at its fastest draft length."""
        size = int(self.sizes[-1])
        return Variant(size, self.best_draft_length(size))

    def is_full_better_at_another(self, draft_length: int) -> bool:
        """Whether the whole vocabulary is significantly faster with another draft length, by more than a bit.

        Otherwise the fastest of several lengths that are as good is a matter of chance.
        """
        row, column = self.place(self.full)
        num_rows = len(self.draft_lengths)
        margins = self._margin_below(np.full(num_rows, row), np.full(num_rows, column), NEGLIGIBLE)
        return bool(margins[self.draft_lengths.index(draft_length), column] < 0)

    @cached_property
    def half_widths(self) -> Floats:
        """Of the intervals of the logarithms `(draft lengths, sizes)`."""
        return Spread.of([self.prompt_left_out, self.block_left_out]).half_width()

    @property
    def ci_low(self) -> Floats:
        """Lower ends of the intervals of tokens/s."""
        return self.tokens_per_s * np.exp(-self.half_widths)

    @property
    def ci_high(self) -> Floats:
        """Upper ends of the intervals of tokens/s."""
        return self.tokens_per_s * np.exp(self.half_widths)

    @cached_property
    def is_equal(self) -> np.ndarray:
        """Which (gamma, k) are not significantly more than a negligible bit slower than the fastest.

        A draft length is as good if its fastest size is, against the fastest of all. A size is as good if it
        is against the fastest with the same gamma: held against another length, which is known less well, all
        sizes or none would be.
        """
        return self.equal_margin >= 0

    @cached_property
    def equal_margin(self) -> Floats:
        """How far the logarithm of each speed is above the limit at which it is significantly slower."""
        rows, columns = np.arange(len(self.draft_lengths)), np.argmax(self.tokens_per_s, axis=1)
        row, column = self.place(self.fastest)
        of_all = self._margin_below(np.full(len(rows), row), np.full(len(rows), column), NEGLIGIBLE_LENGTH)
        of_lengths = of_all[rows, columns]
        return np.minimum(of_lengths[:, None], self._margin_below(rows, columns, NEGLIGIBLE))

    def _margin_below(self, rows: IntArray, columns: IntArray, negligible: float) -> Floats:
        """As `equal_margin`, of each row against the speed at one place, `(draft lengths,)` each."""
        gap = np.log(self.tokens_per_s / self.tokens_per_s[rows, columns][:, None])
        samples = [
            left - left[:, rows, columns][:, :, None] for left in (self.prompt_left_out, self.block_left_out)
        ]
        return gap + Spread.of(samples).half_width() - np.log1p(-negligible)

    def speed(self, variant: Variant) -> Speed:
        """Of a variant whose size is on the grid, or of plain decoding."""
        if variant.is_plain:
            if self.plain is None:
                raise ValueError("no plain step was timed")
            return self.plain
        row, column = self.place(variant)
        left_out = tuple(
            left[:, row, column].astype(np.float64) for left in (self.prompt_left_out, self.block_left_out)
        )
        return Speed(float(np.log(self.tokens_per_s[row, column])), left_out)

    def best_draft_length(self, vocab_size: int) -> int:
        """Fastest gamma at a size of the grid."""
        return self.draft_lengths[int(np.argmax(self.tokens_per_s[:, self.column(vocab_size)]))]

    def column(self, vocab_size: int) -> int:
        """Column of a size: that of the grid size at or below it."""
        return int(np.searchsorted(self.sizes, vocab_size, side="right")) - 1

    def at(self, variant: Variant) -> float:
        """Predicted tokens/s at a size of the grid."""
        return float(self.tokens_per_s[self.place(variant)])

    def place(self, variant: Variant) -> tuple[int, int]:
        """Row and column of a variant."""
        return self.draft_lengths.index(variant.draft_length), self.column(variant.vocab_size)


def predict(
    replayed: Mapping[str, Intervals | Ratios],
    latency: RoundLatency,
    full_size: int,
    extra_sizes: list[int],
    least_size: int = 1,
    multiple: int | None = None,
) -> Surface:
    """The surface of one domain under one ranking.

    Args:
        replayed: acceptance by prompt id.
        latency: of some of these prompts.
        full_size: k of the untrimmed draft.
        extra_sizes: sizes that must be on the grid.
        least_size: no vocabulary is smaller.
        multiple: its multiples are put on the grid too, at most a thousand.
    """
    found = list(replayed.values())
    gammas = [int(gamma) for gamma in latency.draft_lengths]
    walks = [[item.walk(gamma) for item in found] for gamma in gammas]
    extra = [*extra_sizes, least_size, full_size, *latency.sizes.tolist(), *_multiples(multiple, full_size)]
    sizes = _grid(walks, extra, least_size, full_size)
    tokens = np.array([item.num_tokens - 1 for item in found], dtype=np.float64)
    shape = (len(gammas), len(sizes))
    point, rounds, accepted = (np.empty(shape) for _ in range(3))
    # Differences of logarithms: single precision is far finer than the intervals made of them.
    by_prompt = np.zeros((len(found), *shape), dtype=np.float32)
    by_block = np.empty((latency.num_blocks, *shape), dtype=np.float32)
    for row, (gamma, of_prompts) in enumerate(zip(gammas, walks, strict=True)):
        steps = [item.at(sizes) for item in of_prompts]
        num_rounds = np.stack([r for r, _ in steps])
        rounds[row], accepted[row] = num_rounds.sum(0), sum(at.sum(0) for _, at in steps)
        point[row], by_prompt[:, row], by_block[:, row] = _speeds(tokens, num_rounds, latency, gamma, sizes)
    return Surface(
        sizes, gammas, point, rounds, accepted, int(tokens.sum()), by_prompt, by_block,
        plain_speed(latency, len(found)),
    )  # fmt: skip


def speed_of(tokens: Floats, num_rounds: Floats, latency: RoundLatency, variant: Variant) -> Speed:
    """Predicted tokens/s of a variant with a draft on answers whose rounds are known.

    Args:
        tokens: of every answer, after its first `(prompts,)`.
        num_rounds: target passes of each `(prompts,)`.
        latency: of what a round consists of.
        variant: how they are decoded.
    """
    sizes = np.array([variant.vocab_size])
    point, *left_out = _speeds(tokens, num_rounds[:, None], latency, variant.draft_length, sizes)
    return Speed(float(np.log(point[0])), tuple(left[:, 0] for left in left_out))


def _speeds(
    tokens: Floats, num_rounds: Floats, latency: RoundLatency, draft_length: int, sizes: IntArray
) -> tuple[Floats, Floats, Floats]:
    """Tokens/s at each size `(sizes,)`, and how their logarithms change without each prompt and each block.

    Args:
        tokens: `(prompts,)`.
        num_rounds: `(prompts, sizes)`.
        latency: of a round.
        draft_length: gamma.
        sizes: k, ascending.
    """
    weights, count, rounds = _leaving_one_out(latency.num_blocks), len(tokens), num_rounds.sum(0)
    round_ms = latency.round_ms(draft_length, sizes, weights[:1])[0]
    # Means that were made to rise hide the noise of those that did not. Intervals take the width of the
    # means as measured, which still cover when the others are in their middle (J. T. Hwang and
    # S. D. Peddada, Confidence interval estimation subject to order restrictions, 1994).
    as_measured = latency.round_ms(draft_length, sizes, weights, as_measured=True)
    once_ms = latency.once_ms(draft_length, weights)[:, None]
    point = tokens.sum() / (rounds * round_ms + count * once_ms[0]) * 1e3
    total_ms = rounds * as_measured + count * once_ms
    by_block = np.log(total_ms[0] / total_ms[1:])
    if count == 1:
        return point, np.zeros((1, len(sizes))), by_block
    left_ms = (rounds - num_rounds) * round_ms + (count - 1) * once_ms[0]
    by_prompt = np.log((tokens.sum() - tokens)[:, None] / left_ms * 1e3 / point)
    return point, by_prompt, by_block


def _leaving_one_out(count: int) -> Floats:
    """Weights of blocks `(1 + count, count)`: all of them, then without one each."""
    return np.concatenate([np.ones((1, count)), 1 - np.eye(count)])


def plain_speed(latency: RoundLatency, num_prompts: int) -> Speed | None:
    """Predicted tokens/s of plain decoding; None where no plain step was timed."""
    step_ms = latency.plain_ms(_leaving_one_out(latency.num_blocks))
    if step_ms is None:
        return None
    # One token per step for every prompt, so leaving prompts out changes nothing.
    return Speed(float(np.log(1e3 / step_ms[0])), (np.zeros(num_prompts), np.log(step_ms[0] / step_ms[1:])))


def _multiples(multiple: int | None, full_size: int) -> range:
    step = full_size + 1 if multiple is None else multiple * -(-full_size // (_MOST_MULTIPLES * multiple))
    return range(step, full_size + 1, step)


def _grid(walks: list[list[Acceptance]], extra: list[int], least_size: int, full_size: int) -> IntArray:
    edges = [item.edges for by_prompt in walks for item in by_prompt]
    sizes = np.unique(np.concatenate([*edges, np.array(extra, dtype=np.int64)]))
    return sizes[(sizes >= least_size) & (sizes <= full_size)]
