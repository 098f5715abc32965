"""The yardstick: latency that rises with size, and nothing else assumed."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from bench.fit.robust import Floats
from bench.fit.series import Work
from bench.fit.values import Values


@dataclass(frozen=True)
class Monotone:
    """Isotonic regression of the medians, joined by a monotone cubic in log size and log latency.

    Between sizes it is the best that can be said without a model; beyond them it goes on as it ended.
    `theta` holds log latencies of the fitted sizes, then the logs of these sizes.
    """

    name: str = "monotone"
    label: str = "monotone, no model"
    is_yardstick: bool = True

    def why_not(self, work: Work) -> str | None:
        """See `LatencyModel`."""
        return None if len(work) > 2 else f"{len(work)} sizes make no curve; measure at least 3"

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        """See `LatencyModel`."""
        logs = np.stack([isotonic_regression(row).x for row in np.log(latencies_ms)])
        return np.hstack([logs, np.broadcast_to(np.log(work.sizes), logs.shape)])

    def predict(self, theta: Floats, work: Work) -> Floats:
        """See `LatencyModel`."""
        half = theta.shape[1] // 2
        at = np.log(work.sizes)
        return np.exp(np.stack([_curve(row[half:], row[:half], at) for row in theta]))

    def num_parameters(self, theta: Floats) -> int:
        """See `LatencyModel`."""
        return len(np.unique(theta[0, : theta.shape[1] // 2]))

    def coefficients(self, theta: Floats) -> list[Values]:
        """See `LatencyModel`."""
        return []


def _curve(x: Floats, y: Floats, at: Floats) -> Floats:
    inside = PchipInterpolator(x, y)(np.clip(at, x[0], x[-1]))
    first, last = (np.diff(y) / np.diff(x))[[0, -1]]
    return inside + first * np.minimum(at - x[0], 0) + last * np.maximum(at - x[-1], 0)
