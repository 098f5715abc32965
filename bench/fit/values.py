"""What models share: coefficients as readers know them, and whether sizes can determine a model."""

from dataclasses import dataclass

import numpy as np

from bench.fit.robust import Floats

_MS_PER_S = 1e3
# Columns that are more alike than this cannot be told apart by latencies that are good to a percent.
_MOST_CONDITION = 60.0


@dataclass(frozen=True)
class Values:
    """One coefficient over all resamples.

    Attributes:
        name: as in results.
        unit: of the values.
        values: `(resamples,)`; infinite where nothing bounds a rate.
    """

    name: str
    unit: str
    values: Floats


def launch_time(theta: Floats) -> Values:
    """The first parameter as t0: launches, Python and whatever else does not depend on the size."""
    return Values("t0_ms", "ms", theta[:, 0])


def rate(name: str, unit: str, slopes_ms: Floats) -> Values:
    """Slopes in ms per piece of work as pieces per second."""
    with np.errstate(divide="ignore"):
        return Values(name, unit, _MS_PER_S / slopes_ms)


def why_not(design: Floats) -> str | None:
    """Why `design` `(n, p)` cannot determine its parameters; None where it can."""
    num_sizes, num_columns = design.shape
    if num_sizes <= num_columns:
        return f"{num_sizes} sizes cannot judge {num_columns} parameters; measure at least {num_columns + 1}"
    scale = design.max(axis=0)
    if (scale <= 0).any() or np.linalg.cond(design / scale) > _MOST_CONDITION:
        return "over these sizes its parts grow alike, so that they cannot be told apart"
    return None
