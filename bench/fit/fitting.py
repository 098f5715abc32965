"""Fits a model to a series: coefficients with intervals, and how far off every size is.

Intervals are percentile bootstrap at 95%, of two parts. Samples are resampled (`resampling`), which covers
the noise of the medians and what prompts share. What the model misses beyond that noise - a kernel that suits
one shape better - is estimated as one relative scatter between sizes, and every resample moves its sizes by a
draw of it; the draw's own scale varies as its estimate would (a scaled inverse chi-square), so that few sizes
give wide intervals. Where the model holds, that second part is near zero and nothing is counted twice.
"""

from dataclasses import dataclass

import numpy as np

from bench.fit.models import LatencyModel
from bench.fit.series import Floats, LatencySeries, Work
from bench.measure.stats import CONFIDENCE

# A model that is off by half everywhere is no better known by wider intervals; this keeps draws finite.
_MOST_SCATTER = 0.5


@dataclass(frozen=True)
class Coefficient:
    """A fitted value; None where the sizes do not bound it.

    Attributes:
        name: as in results.
        unit: of the values.
        value: the estimate.
        ci_low: lower end of the 95% interval.
        ci_high: upper end.
    """

    name: str
    unit: str
    value: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Unfit:
    """A model that these measurements cannot determine.

    Attributes:
        model: the model.
        reason: in words.
    """

    model: LatencyModel
    reason: str


@dataclass(frozen=True)
class FittedModel:
    """A model with its parameters.

    Attributes:
        model: the model.
        work: it was fitted on.
        medians_ms: it was fitted to `(n,)`.
        theta: parameters `(p,)`.
        replicates: parameters of every resample `(resamples, p)`.
    """

    model: LatencyModel
    work: Work
    medians_ms: Floats
    theta: Floats
    replicates: Floats

    def predict(self, work: Work) -> Floats:
        """Latencies in ms `(m,)`."""
        return self.model.predict(self.theta[None], work)[0]

    @property
    def relative_errors(self) -> Floats:
        """Predicted over measured, less 1 `(n,)`."""
        return self.predict(self.work) / self.medians_ms - 1

    @property
    def num_parameters(self) -> int:
        """Free parameters."""
        return self.model.num_parameters(self.theta[None])

    def coefficients(self) -> list[Coefficient]:
        """Coefficients with their intervals."""
        values, spread = self.model.coefficients(self.theta[None]), self.model.coefficients(self.replicates)
        tail = (1 - CONFIDENCE) / 2
        found = []
        for value, over in zip(values, spread, strict=True):
            # Never between two resamples: one of them may be infinite.
            low = np.quantile(over.values, tail, method="lower")
            high = np.quantile(over.values, 1 - tail, method="higher")
            bounds = (_finite(value.values[0]), _finite(low), _finite(high))
            found.append(Coefficient(value.name, value.unit, *bounds))
        return found

    def coefficient(self, name: str) -> float | None:
        """The value of one coefficient; None where the model has none of that name or nothing bounds it."""
        for values in self.model.coefficients(self.theta[None]):
            if values.name == name:
                return _finite(values.values[0])
        return None


def fit(model: LatencyModel, series: LatencySeries, resampled_ms: Floats, seed: int) -> FittedModel | Unfit:
    """Fits one model.

    Args:
        model: the model.
        series: what was measured.
        resampled_ms: of the same series, by `bench.fit.resampling`.
        seed: of the scatter between sizes.
    """
    work, medians = series.work, series.medians_ms
    reason = model.why_not(work)
    if reason is not None:
        return Unfit(model, reason)
    theta = model.solve(work, medians[None])
    if model.is_yardstick:
        return FittedModel(model, work, medians, theta[0], theta[:0])
    errors = model.predict(theta, work)[0] / medians - 1
    degrees = len(work) - model.num_parameters(theta)
    moved = resampled_ms * np.exp(_scatter(errors, degrees, resampled_ms, seed))
    return FittedModel(model, work, medians, theta[0], model.solve(work, moved))


def _scatter(errors: Floats, degrees: int, resampled_ms: Floats, seed: int) -> Floats:
    """Draws of the relative scatter between sizes that sampling noise does not explain."""
    logs = np.log(resampled_ms)
    # What moves all sizes alike moves the curve, and leaves no error beside it.
    apart = logs - logs.mean(axis=1, keepdims=True)
    noise = float(apart.var(axis=0).sum() / max(logs.shape[1] - 1, 1))
    unexplained = float((errors**2).sum() / max(degrees, 1)) - noise
    scatter = np.sqrt(max(unexplained, 0.0))
    rng = np.random.default_rng([seed, 1])
    scale = np.sqrt(max(degrees, 1) / rng.chisquare(max(degrees, 1), (len(resampled_ms), 1)))
    return np.minimum(scatter * scale, _MOST_SCATTER) * rng.standard_normal(resampled_ms.shape)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
