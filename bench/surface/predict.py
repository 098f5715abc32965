"""tokens/s of every (k, gamma): replayed acceptance times measured latency, with bootstrap intervals.

speed(k, gamma) = tokens / sum over prompts of (draft prefill + rounds(k, gamma) * T_round(k, gamma)). Prompts
are resampled once for both sides, so that their errors stay together as they were measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.acceptance import Acceptance, Intervals, Ratios
from bench.stats.bootstrap import draw_counts
from bench.stats.estimates import TAIL, percentile_interval
from bench.surface.latency import RoundLatency
from bench.vocab.draft_vocab import Floats, IntArray

# The decimal itself: 1 - 0.95 in binary is a little more than 0.05, and would move last digits of tables.
_TAIL = round(TAIL, 3)

_MAX_RESAMPLES = 1000

# What nobody would choose a vocabulary for. Sizes of equal acceptance differ by the head's cost alone, which
# every resample orders the same way, so that without a margin 0.1% would be significant.
NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Surface:
    """Predictions on a grid that holds every size at which acceptance changes.

    Between two grid sizes acceptance is constant and the head's cost rises, so the fastest size of all is on
    the grid. Arrays are `(draft lengths, sizes)`.

    Attributes:
        sizes: ascending; the last is the draft's whole vocabulary.
        draft_lengths: gammas.
        tokens_per_s: predicted.
        ci_low: lower end of its 95% interval.
        ci_high: upper end.
        ratio_high: upper end of the interval of its speed over that of the fastest, paired by resample.
        num_rounds: target passes over all prompts.
        num_accepted: accepted tokens over all prompts.
        num_tokens: decoded tokens over all prompts.
        resampled_best: fastest k and gamma of every resample `(resamples, 2)`.
    """

    sizes: IntArray
    draft_lengths: list[int]
    tokens_per_s: Floats
    ci_low: Floats
    ci_high: Floats
    ratio_high: Floats
    num_rounds: Floats
    num_accepted: Floats
    num_tokens: int
    resampled_best: IntArray

    @property
    def mean_acceptance_length(self) -> Floats:
        """Tokens per target pass, bonus token included."""
        return 1 + self.num_accepted / self.num_rounds

    @property
    def acceptance_rate(self) -> Floats:
        """Accepted over drafted tokens."""
        return self.num_accepted / (self.num_rounds * np.array(self.draft_lengths)[:, None])

    @property
    def best(self) -> tuple[int, int]:
        """Fastest size and draft length; of equals the smallest size."""
        row, column = np.unravel_index(int(np.argmax(self.tokens_per_s)), self.tokens_per_s.shape)
        return int(self.sizes[column]), self.draft_lengths[row]

    @property
    def best_intervals(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """95% bootstrap intervals of the fastest size and of its draft length; ends are values that occur."""
        low, high = percentile_interval(self.resampled_best, of_draws=True)
        return (int(low[0]), int(high[0])), (int(low[1]), int(high[1]))

    @property
    def is_confident(self) -> np.ndarray:
        """Which (gamma, k) are not significantly more than a negligible bit slower than the fastest."""
        return self.ratio_high >= 1 - NEGLIGIBLE

    def best_draft_length(self, vocab_size: int) -> int:
        """Fastest gamma at a size of the grid."""
        return self.draft_lengths[int(np.argmax(self.tokens_per_s[:, self.column(vocab_size)]))]

    def column(self, vocab_size: int) -> int:
        """Where a size stands: the grid size at or below it."""
        return int(np.searchsorted(self.sizes, vocab_size, side="right")) - 1

    def at(self, vocab_size: int, draft_length: int) -> float:
        """Predicted tokens/s at a size of the grid."""
        return float(self.tokens_per_s[self.draft_lengths.index(draft_length), self.column(vocab_size)])


def predict(
    replayed: Mapping[str, Intervals | Ratios],
    latency: RoundLatency,
    full_size: int,
    extra_sizes: list[int],
    num_resamples: int,
    seed: int,
    least_size: int = 1,
) -> Surface:
    """The surface of one domain under one ranking.

    Args:
        replayed: acceptance by prompt id; the prompts of `latency`.
        latency: of the same prompts.
        full_size: k of the untrimmed draft.
        extra_sizes: sizes that must be on the grid.
        num_resamples: of the bootstrap; at most a thousand are made.
        seed: of the bootstrap.
        least_size: no vocabulary is smaller.
    """
    found = [replayed[prompt] for prompt in latency.prompts]
    gammas = [int(gamma) for gamma in latency.draft_lengths]
    walks = [[item.walk(gamma) for item in found] for gamma in gammas]
    extra = [*extra_sizes, least_size, full_size, *latency.sizes.tolist()]
    sizes = _grid(walks, extra, least_size, full_size)
    # The first row is the data itself, the others its resamples.
    weights = _weights(len(found), min(num_resamples, _MAX_RESAMPLES), seed)
    head, layer = latency.head_ms(sizes, weights), latency.layer_ms(sizes, weights)
    tokens = np.array([item.num_tokens - 1 for item in found], dtype=np.float64)
    # Resamples are many; single precision is far finer than the intervals that they give.
    speeds = np.empty((len(gammas), len(head) - 1, len(sizes)), dtype=np.float32)
    point, rounds, accepted = (np.empty((len(gammas), len(sizes))) for _ in range(3))
    for row, (gamma, by_prompt) in enumerate(zip(gammas, walks, strict=True)):
        steps = [item.at(sizes) for item in by_prompt]
        num_rounds = np.stack([r for r, _ in steps])
        rounds[row], accepted[row] = num_rounds.sum(0), sum(at.sum(0) for _, at in steps)
        round_ms = gamma * head + (gamma - 1) * layer + latency.fixed_ms(gamma, weights)[:, None]
        once = latency.prefill_ms - latency.extend_ms(gamma, weights)[:, None]
        total_ms = (weights @ num_rounds) * round_ms + (weights * once).sum(1, keepdims=True)
        tokens_per_s = (weights @ tokens)[:, None] / total_ms * 1e3
        point[row], speeds[row] = tokens_per_s[0], tokens_per_s[1:]
    low, high = percentile_interval(speeds, axis=1, tail=_TAIL)
    best = np.unravel_index(int(np.argmax(point)), point.shape)
    ratio_high = np.quantile(speeds / speeds[best[0], :, best[1], None], 1 - _TAIL, axis=1)
    return Surface(
        sizes, gammas, point, low, high, ratio_high, rounds, accepted, int(tokens.sum()),
        _fastest(speeds, sizes, gammas),
    )  # fmt: skip


def _fastest(speeds: np.ndarray, sizes: IntArray, gammas: list[int]) -> IntArray:
    """Fastest (k, gamma) of every resample `(resamples, 2)`, of equals the smallest size."""
    # By size first, so that the first of equals is the smallest.
    by_resample = speeds.transpose(1, 2, 0).reshape(speeds.shape[1], -1)
    columns, rows = np.divmod(by_resample.argmax(axis=1), len(gammas))
    return np.stack([sizes[columns], np.array(gammas)[rows]], axis=1).astype(np.int64)


def _grid(walks: list[list[Acceptance]], extra: list[int], least_size: int, full_size: int) -> IntArray:
    edges = [item.edges for by_prompt in walks for item in by_prompt]
    sizes = np.unique(np.concatenate([*edges, np.array(extra, dtype=np.int64)]))
    return sizes[(sizes >= least_size) & (sizes <= full_size)]


def _weights(num_prompts: int, num_resamples: int, seed: int) -> Floats:
    """How often each prompt counts `(1 + resamples, prompts)`: once in the data, at random after that."""
    drawn = draw_counts(num_prompts, num_resamples, np.random.default_rng(seed))
    return np.concatenate([np.ones((1, num_prompts)), drawn.astype(np.float64)])
