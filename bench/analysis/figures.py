"""Figures of a report by name, for what makes them doubtful or INVALID, and the ratio that a headline is."""

from dataclasses import dataclass

import numpy as np

from bench.stats.estimates import Estimate

SPEED, OVER_PLAIN, PREDICTION = "tokens_per_s", "over_plain", "prediction"

# Over the full-vocabulary draft at the same draft length, and at its own where that is surely faster.
OVER_FULL, OVER_FULL_BEST = "over_full", "over_full_best"

ENERGY, ISOLATED = "energy", "isolated"

# What a disturbance of any kind touches.
ALL = (SPEED, OVER_PLAIN, OVER_FULL, OVER_FULL_BEST, PREDICTION)

# What a machine that changes its pace touches: the ratio of two interleaved drafts survives.
OF_THE_MACHINE = (SPEED, OVER_PLAIN, PREDICTION)

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Gain:
    """Throughput over a baseline's.

    Attributes:
        estimate: from the acceptance of all replayed prompts and the latency of all probes. What the two
            variants have in common is estimated once, so that the noise of a moment is in neither.
        judged_apart: the same, of what one half of the prompts and probes chose, on the other half: without
            the luck of the choice. None where there are too few to halve.
        decoded: of whole decodes on the same prompts, as a test; None where one of the two was not decoded.
        expected: what the decodes should come to, by the probes among them and their own prompts.
    """

    estimate: Estimate
    judged_apart: Estimate | None
    decoded: Estimate | None
    expected: float | None

    @property
    def is_as_predicted(self) -> bool:
        """Whether what was expected of the decodes lies in their interval."""
        return not self.residual

    @property
    def half_width(self) -> float:
        """Of the interval of the estimate, relative: that of its logarithm."""
        low, high = self.estimate.ci_low, self.estimate.ci_high
        with np.errstate(divide="ignore"):
            return float(np.log(high) - np.log(low)) / 2

    @property
    def residual(self) -> float | None:
        """How far what was expected of the decodes lies outside their interval, relative; 0 inside of it."""
        if self.decoded is None or self.expected is None:
            return None
        low, high = self.decoded.ci_low, self.decoded.ci_high
        if self.expected * (1 + _ROUNDING) < low:
            return low / self.expected - 1
        return self.expected / high - 1 if self.expected > high * (1 + _ROUNDING) else 0.0

    @property
    def least(self) -> float:
        """Lower end that a decision rests on: that of the choice judged apart counts too."""
        ends = [e.ci_low for e in (self.estimate, self.judged_apart) if e is not None]
        return min(ends)
