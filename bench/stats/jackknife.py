"""Intervals of estimates that rest on several independent samples, such as prompts and blocks of time.

Each sample is left out one block at a time (jackknife); the variances of the samples add up, and the
interval takes the t quantile whose degrees of freedom follow from the number of blocks of each variance
(F. Satterthwaite, An approximate distribution of estimates of variance components, 1946). With eight blocks a
percentile bootstrap covers less than its level; this covers 95% (a test checks it). With two or three blocks,
such as processes, these degrees of freedom are too uncertain: each variance then has its own t quantile
(W. Cochran, Approximate significance levels of the Behrens-Fisher test, 1964), which covers 95% to 98%.
Estimates should be on a scale on which errors are symmetric: logarithms of speeds and of their ratios.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.stats.estimates import TAIL, Estimate, Floats

_FEW = 3  # blocks, at most


@dataclass(frozen=True)
class Spread:
    """The uncertainty of an estimate.

    Attributes:
        variance: of the estimate `(...)`.
        degrees: of freedom behind it `(...)`.
        of_few: variance and number of blocks of each sample, where one of them has few; else empty.
    """

    variance: Floats
    degrees: Floats
    of_few: tuple[tuple[Floats, int], ...] = ()

    @classmethod
    def of(cls, samples: Sequence[NDArray[Any]]) -> "Spread":
        """From the estimate with every block of every independent sample left out.

        Args:
            samples: for each sample `(blocks, ...)`, the same trailing shape in all of them. A sample of one
                block does not show its spread: the variance is then infinite.
        """
        variances = [_variance(left_out) for left_out in samples]
        total = np.sum(variances, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = [v**2 / max(len(s) - 1, 1) for v, s in zip(variances, samples, strict=True)]
            degrees = total**2 / np.sum(shares, axis=0)
        counts = [len(left_out) for left_out in samples]
        few = tuple(zip(variances, counts, strict=True)) if min(counts) <= _FEW else ()
        return cls(total, np.where(np.isfinite(degrees), degrees, 1.0), few)

    def half_width(self) -> Floats:
        """Of a two-sided interval `(...)`."""
        upper = 1 - TAIL
        if self.of_few:
            return np.sqrt(sum(stdtrit(max(n - 1, 1), upper) ** 2 * variance for variance, n in self.of_few))
        return stdtrit(self.degrees, upper) * np.sqrt(self.variance)


def log_interval(log_value: float, samples: Sequence[Floats]) -> Estimate:
    """A positive value with its interval, from its logarithm and the logarithms with each block left out."""
    half = float(Spread.of(samples).half_width())
    value, low, high = np.exp([log_value, log_value - half, log_value + half])
    return Estimate(float(value), float(low), float(high))


def paired_speedup(tokens: Floats, time_ms: Floats, base_tokens: Floats, base_time_ms: Floats) -> Estimate:
    """Throughput over that of a baseline on the same prompts.

    All tokens over all time, for both. Prompts are left out as pairs: one that is easy for one is easy for
    the other, and pairing removes that from the interval. One prompt alone has no interval.

    Args:
        tokens: decoded tokens per prompt `(n,)`.
        time_ms: their decode time per prompt `(n,)`.
        base_tokens: as `tokens`, for the baseline.
        base_time_ms: as `time_ms`, for the baseline.
    """
    rows = np.stack([tokens, time_ms, base_tokens, base_time_ms])
    sums, signs = rows.sum(axis=1), np.array([1, -1, -1, 1])
    others = sums[:, None] - rows if len(tokens) > 1 else rows
    return log_interval(float(signs @ np.log(sums)), [signs @ np.log(others)])


def _variance(left_out: NDArray[Any]) -> Floats:
    n = len(left_out)
    if n < 2:
        return np.full(np.shape(left_out)[1:], np.inf)
    return (n - 1) / n * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
