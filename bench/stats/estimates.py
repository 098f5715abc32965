"""The confidence level, and estimates with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc

Floats = NDArray[np.float64]

CONFIDENCE = 0.95  # of every interval and every verdict

ALPHA = 1 - CONFIDENCE

TAIL = ALPHA / 2  # probability that an interval leaves out on either side


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    ci_low: float
    ci_high: float


def percentile_interval(
    draws: NDArray[Any], axis: int = 0, tail: float = TAIL, of_draws: bool = False
) -> Floats:
    """Lower and upper end of the interval of bootstrap draws `(2, ...)`.

    Args:
        draws: one per resample along `axis`.
        axis: of the resamples.
        tail: what is left out on either side.
        of_draws: whether the ends must be draws, which sizes and infinite draws need.
    """
    if of_draws:
        low = np.quantile(draws, tail, axis=axis, method="lower")
        return np.stack([low, np.quantile(draws, 1 - tail, axis=axis, method="higher")])
    return np.quantile(draws, [tail, 1 - tail], axis=axis)


def change_between_halves(values: Sequence[float]) -> float | None:
    """Drift: median of the second half over that of the first, less 1; None for fewer than two values.

    Args:
        values: of the same work, in the order of their measurement. The middle one of an odd number is in
            neither half.
    """
    half = len(values) // 2
    return float(np.median(values[-half:]) / np.median(values[:half]) - 1) if half else None


def median(samples: Floats) -> Estimate:
    """Median of independent samples `(n,)`, with its exact bootstrap interval.

    The j-th smallest of a resample is at most the i-th smallest sample when at least j of its n draws are
    among the i smallest, a binomial event: no resampling is needed. The median of an even number lies
    between two middle values; the lower one gives the lower end, the upper one the upper end.
    """
    ordered, n = np.sort(samples), len(samples)
    shares = np.arange(1, n + 1) / n
    low = int(np.searchsorted(bdtrc((n + 1) // 2 - 1, n, shares), TAIL))
    high = int(np.searchsorted(bdtrc(n // 2, n, shares), 1 - TAIL))
    return Estimate(float(np.median(samples)), float(ordered[low]), float(ordered[min(high, n - 1)]))


def median_ratio(a: Floats, b: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """Median of the ratios of pairs a / b `(n,)`, with its distribution-free interval.

    The ends are order statistics: the number of ratios below the true median is binomial(n, 1/2) whatever
    their distribution. The interval therefore holds for few pairs too; for too few it is infinite.
    """
    ratios = np.sort(a / b)
    n = len(ratios)
    # Largest r with P(fewer than r of n below the median) <= half of 1 - confidence.
    below = bdtr(np.arange(n), n, 0.5)
    r = int(np.searchsorted(below, (1 - confidence) / 2, side="right"))
    if r == 0:
        return Estimate(float(np.median(ratios)), 0.0, float("inf"))
    return Estimate(float(np.median(ratios)), float(ratios[r - 1]), float(ratios[n - r]))
