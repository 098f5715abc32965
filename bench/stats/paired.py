"""Paired statistics of two runs: ratios of what both measured on the same prompt.

The shown interval is the exact bootstrap of the median ratio (`bench.stats.estimates.median`). Decisions do
not use it: with few prompts a bootstrap interval is too narrow. They use the sign test, which is exact for
any distribution: if the median ratio were at most a bound, each prompt would be above it with a chance
of at most one half.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc

from bench.stats.estimates import ALPHA, Estimate, Floats, median


@dataclass(frozen=True)
class PairedRatio:
    """How much longer the second of two runs took, over the prompts of both.

    Attributes:
        num_prompts: pairs.
        ratio: median over prompts of after / before, with its 95% bootstrap interval.
        p_slower: p-value of the sign test that the median ratio is at most 1 + threshold.
        p_not_slower: that it is at least 1 + threshold; small where such a slowdown can be excluded.
        p_faster: that it is at least 1 / (1 + threshold).
        p_not_faster: that it is at most 1 / (1 + threshold).
        residuals: log ratios less their median, ascending `(n,)`.
    """

    num_prompts: int
    ratio: Estimate
    p_slower: float
    p_not_slower: float
    p_faster: float
    p_not_faster: float
    residuals: Floats

    @classmethod
    def of(cls, log_ratios: Floats, threshold: float) -> "PairedRatio":
        """From log(after / before) of every prompt `(n,)`.

        Args:
            log_ratios: at least one.
            threshold: relative change that matters.
        """
        bound, centre = np.log1p(threshold), median(log_ratios)
        return cls(
            num_prompts=len(log_ratios),
            ratio=Estimate(*(float(np.exp(end)) for end in vars(centre).values())),
            p_slower=sign_test(log_ratios - bound),
            p_not_slower=sign_test(bound - log_ratios),
            p_faster=sign_test(-bound - log_ratios),
            p_not_faster=sign_test(log_ratios + bound),
            residuals=np.sort(log_ratios - centre.value),
        )

    def least_shown(self, threshold: float, level: float) -> float | None:
        """The smallest slowdown that data with this scatter would show beyond the threshold.

        Args:
            threshold: as of `of`.
            level: that the p-value must not exceed.

        Returns:
            As a share of the time before; None where so few prompts show no slowdown, however large.
        """
        needed = least_count(self.num_prompts, level)
        if needed is None:
            return None
        # The lowest of the prompts that must lie above the threshold decides.
        return float((1 + threshold) * np.exp(-self.residuals[self.num_prompts - needed]) - 1)


def sign_test(differences: Floats) -> float:
    """One-sided p of the hypothesis that the median is at most 0, from `(n,)`; zeros count as at most 0."""
    above, n = int((differences > 0).sum()), len(differences)
    return 1.0 if above == 0 else float(bdtrc(above - 1, n, 0.5))


def least_count(num_prompts: int, alpha: float) -> int | None:
    """How many of the prompts must lie above a bound for p <= alpha; None if all are not enough."""
    if not num_prompts:
        return None
    tails = bdtrc(np.arange(num_prompts), num_prompts, 0.5)
    enough = np.flatnonzero(tails <= alpha)
    return int(enough[0]) + 1 if len(enough) else None


def least_prompts(level: float) -> int:
    """Fewest prompts that can be significant at this level: if all of n lie above a bound, p is 1 / 2^n."""
    return int(np.ceil(-np.log2(level)))


def primary_first(p_values: Floats) -> Floats:
    """Adjusted p-values of a family whose first member is the main question.

    The first member gets half of alpha, however many others there are. They share the other half by Holm's
    procedure. Those at most alpha hold together with confidence 1 - alpha (Bonferroni's inequality).

    Args:
        p_values: `(m,)`, m >= 1.
    """
    doubled = np.concatenate([p_values[:1], holm(p_values[1:])]) * 2
    return np.minimum(doubled, 1)


def strictest_levels(num_comparisons: int) -> Floats:
    """Limits that p-values must not exceed under `primary_first`, for any values of the others `(m,)`."""
    others = np.full(num_comparisons - 1, ALPHA / 2 / max(num_comparisons - 1, 1))
    return np.concatenate([[ALPHA / 2], others])


def holm(p_values: Floats) -> Floats:
    """Adjusted p-values of a family `(m,)`: those at most alpha hold together with confidence 1 - alpha.

    S. Holm, A simple sequentially rejective multiple test procedure, 1979; any dependence is allowed.
    """
    order = np.argsort(p_values, kind="stable")
    steps = (len(p_values) - np.arange(len(p_values))) * np.asarray(p_values)[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
