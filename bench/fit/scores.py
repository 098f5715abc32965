"""How well a fitted model describes what was measured, and sizes that it did not see."""

from dataclasses import dataclass

import numpy as np

from bench.fit.fitting import FittedModel
from bench.fit.models import LatencyModel
from bench.fit.series import Floats, LatencySeries


@dataclass(frozen=True)
class Scores:
    """Of one model on the medians of one series; errors are relative to the measured latency.

    Attributes:
        r2: share of the variance of latency that it explains; below 0 it is worse than the mean, None
            where all latencies are equal.
        mape: mean absolute error on the sizes that it was fitted to.
        worst_error: largest absolute error on them.
        loo_mape: mean absolute error on every size, fitted without it; None where too few sizes are left.
        loo_worst_error: largest of these.
        aicc: corrected Akaike criterion of the relative errors, lower is better; None where there are too
            few sizes for its correction.
    """

    r2: float | None
    mape: float
    worst_error: float
    loo_mape: float | None
    loo_worst_error: float | None
    aicc: float | None


def score(fitted: FittedModel, series: LatencySeries) -> Scores:
    """Scores of a model that was fitted to `series`."""
    errors = np.abs(fitted.relative_errors)
    held_out = held_out_errors(fitted.model, series)
    return Scores(
        r2=_r2(fitted.medians_ms, fitted.predict(fitted.work)),
        mape=float(errors.mean()),
        worst_error=float(errors.max()),
        loo_mape=None if held_out is None else float(np.abs(held_out).mean()),
        loo_worst_error=None if held_out is None else float(np.abs(held_out).max()),
        aicc=_aicc(errors, fitted.num_parameters),
    )


def held_out_errors(model: LatencyModel, series: LatencySeries) -> Floats | None:
    """Relative error on every size of a fit to all others `(n,)`; None where they cannot determine it.

    The smallest and the largest size are extrapolated.
    """
    medians, work = series.medians_ms, series.work
    errors = np.empty(len(work))
    for place in range(len(work)):
        rest = np.arange(len(work)) != place
        if model.why_not(work.take(rest)) is not None:
            return None
        theta = model.solve(work.take(rest), medians[None, rest])
        errors[place] = model.predict(theta, work.take(~rest))[0, 0] / medians[place] - 1
    return errors


def _r2(measured_ms: Floats, predicted_ms: Floats) -> float | None:
    spread = ((measured_ms - measured_ms.mean()) ** 2).sum()
    return float(1 - ((predicted_ms - measured_ms) ** 2).sum() / spread) if spread > 0 else None


def _aicc(errors: Floats, num_parameters: int) -> float | None:
    # The errors' own variance is a parameter as well.
    count, parameters = len(errors), num_parameters + 1
    squares = float((errors**2).sum())
    if count - parameters - 1 <= 0 or squares <= 0:
        return None
    correction = 2 * parameters * (parameters + 1) / (count - parameters - 1)
    return float(count * np.log(squares / count) + 2 * parameters + correction)
