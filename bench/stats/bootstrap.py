"""Bootstrap resampling of prompts and samples, and medians of the resamples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.stats.estimates import Estimate, median, percentile_interval
from bench.stats.robust import Floats

IntArray = NDArray[np.int64]


def grouped_median(samples: Floats, groups: IntArray, num_resamples: int, seed: int) -> Estimate:
    """Median of samples that were taken prompt by prompt, with its interval over whole prompts.

    Samples of one prompt are taken as independent.

    Args:
        samples: above 0 `(n,)`.
        groups: number of the prompt of each `(n,)`.
        num_resamples: bootstrap resamples.
        seed: of the bootstrap.
    """
    numbers, places = np.unique(groups, return_inverse=True)
    if len(numbers) < 2:
        return median(samples)
    middle, rng = np.array([np.median(samples)]), np.random.default_rng(seed)
    drawn = resample_group_medians([(samples, places)], middle, len(numbers), num_resamples, rng)
    return estimates_of(middle, drawn)[0]


def draw_counts(count: int, num_resamples: int, rng: np.random.Generator) -> IntArray:
    """How often each of `count` items is drawn in each resample `(num_resamples, count)`."""
    return rng.multinomial(count, np.full(count, 1 / count), size=num_resamples)


def resample_group_medians(
    pairs: Sequence[tuple[Floats, IntArray]],
    medians: Floats,
    count: int,
    num_resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """Medians of several series over the same resampled groups `(num_resamples, series)`.

    Args:
        pairs: samples of every series, above 0, and the number of the group of each.
        medians: of every series `(series,)`.
        count: groups.
        num_resamples: bootstrap resamples.
        rng: source of the draws.
    """
    picks = draw_counts(count, num_resamples, rng).astype(np.float64)
    drawn = np.stack([_weighted_medians(samples, group, picks) for samples, group in pairs], axis=1)
    # n / (n - 1) corrects the variance of n draws; the factor adds the uncertainty of the scale.
    scale = np.sqrt(count / rng.chisquare(count - 1, (num_resamples, 1)))
    deviation = scale * np.log(drawn / medians)
    return medians * np.exp(np.clip(deviation, -_MOST_DEVIATION, _MOST_DEVIATION))


def estimates_of(values: Floats, resampled: Floats) -> list[Estimate]:
    """Values `(n,)` with the percentile intervals of their resamples `(resamples, n)`."""
    low, high = percentile_interval(resampled)
    return [Estimate(*map(float, row)) for row in zip(values, low, high, strict=True)]


def resample_median(samples: Floats, num_resamples: int, rng: np.random.Generator) -> Floats:
    """Medians of resamples of independent samples `(num_resamples,)`, without drawing the resamples.

    The i-th smallest of n draws is the sample at place n U, U the i-th smallest of n uniform numbers, which
    is beta distributed; the next one is the smallest of the numbers above it.
    """
    ordered, n = np.sort(samples), len(samples)
    middle = (n + 1) // 2
    at = rng.beta(middle, n + 1 - middle, num_resamples)
    lower = ordered[np.minimum((n * at).astype(np.int64), n - 1)]
    if n % 2:
        return lower
    above = 1 - (1 - at) * rng.random(num_resamples) ** (1 / (n - middle))
    return (lower + ordered[np.minimum((n * above).astype(np.int64), n - 1)]) / 2


def _weighted_medians(samples: Floats, groups: IntArray, picks: Floats) -> Floats:
    """Median of the samples with every one as often as its group was picked `(resamples,)`.

    Args:
        samples: of one size `(s,)`.
        groups: of every sample `(s,)`.
        picks: how often each group was drawn `(resamples, groups)`.
    """
    order = np.argsort(samples)
    counts = np.zeros((len(samples), picks.shape[1]))
    counts[np.arange(len(samples)), groups[order]] = 1
    below = counts.cumsum(axis=0)
    total = picks @ below[-1]
    ordered = samples[order]
    half = [ordered[_first_beyond(below, picks, limit)] for limit in (total / 2 - 0.25, total / 2 + 0.25)]
    # A draw of prompts without any sample of this size gives no median.
    return np.where(total > 0, (half[0] + half[1]) / 2, np.median(samples))


def _first_beyond(below: Floats, picks: Floats, limits: Floats) -> IntArray:
    """First place of every resample at which its samples up to there outnumber the limit `(resamples,)`."""
    low = np.zeros(len(picks), dtype=np.int64)
    high = np.full(len(picks), len(below) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        reached = np.einsum("rg,rg->r", picks, below[middle]) > limits
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    # A draw without any sample never exceeds the limit; its place keeps moving while others finish.
    return np.minimum(low, len(below) - 1)


# Keeps draws finite if two prompts do not show their spread: at most a factor of e on either side.
_MOST_DEVIATION = 1.0
