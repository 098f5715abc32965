"""A smooth surface through latencies on a grid of two sizes, and how far off it is on what is left out.

The logarithm of latency over a base latency is a Gaussian process over the logarithms of both sizes
(kriging, Matern 3/2): smooth where rows agree, and not bent by a single row, as every row is taken to be off
by a few percent of its own. Its four numbers are fixed. They were chosen over the ten published GPUs
(bfloat16, m of 1, 4, 16 and 128) for a low error on rows left out, which hardly depends on them.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from bench.errors import FitError
from bench.stats.robust import Floats

# Sizes that are e^0.7 = 2 times apart share about half of what they deviate by; widths of inputs, e^1.
LENGTHS = (0.7, 1.0)

# Standard deviations: of the surface around the base, and of a single row around the surface.
SURFACE_SD, ROW_SD = 0.15, 0.05

_FEWEST = 4

# Of a normal distribution: its standard deviation over its median absolute deviation.
_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Surface:
    """Log ratios over a base, known at some places.

    Attributes:
        places: logarithms of both sizes `(rows, 2)`.
        log_ratios: of latency over the base `(rows,)`.
        inverse: of their covariance, where it is known `(rows, rows)`.
    """

    places: Floats
    log_ratios: Floats
    inverse: Floats | None = None

    def __post_init__(self) -> None:
        if len(self.log_ratios) < _FEWEST:
            raise FitError(f"{len(self.log_ratios)} rows make no surface; at least {_FEWEST} are needed")

    def at(self, places: Floats) -> Floats:
        """Log ratios elsewhere `(m,)`; far from every row, the mean of all."""
        return self._level + _alike(places, self.places) @ self._weights

    def without_row(self) -> Floats:
        """What the surface would be at every row without that row `(rows,)`."""
        return self.log_ratios - self._weights / np.diag(self._inverse)

    def without_group(self, groups: NDArray) -> Floats:
        """What it would be at every row without all rows of the same group `(rows,)`."""
        found = np.empty_like(self.log_ratios)
        for group in np.unique(groups):
            inside = np.flatnonzero(groups == group)
            block = self._inverse[np.ix_(inside, inside)]
            found[inside] = self.log_ratios[inside] - np.linalg.solve(block, self._weights[inside])
        return found

    def screened(self, most_deviations: float, least_error: float) -> tuple["Surface", Floats]:
        """The surface without rows that contradict their neighbours, and by how much they do.

        The worst is taken out first and the others are judged without it, as it makes them look wrong too.

        Args:
            most_deviations: from which number of typical deviations on a row contradicts.
            least_error: log ratio below which none does.

        Returns:
            The surface, and the log ratio of each row to what its neighbours say, NaN for those that are
            kept `(rows,)`.
        """
        logs, found = self.log_ratios, np.full(len(self.log_ratios), np.nan)
        inverse, is_left = self._inverse.copy(), np.ones(len(logs), bool)
        while is_left.sum() > _FEWEST:
            # Rows and columns of what was taken out are 0.
            weights = inverse @ (logs - _mean(inverse, logs))
            errors = weights / np.where(is_left, np.diag(inverse), 1.0)
            left = errors[is_left]
            typical = _MAD_TO_SD * float(np.median(np.abs(left - np.median(left))))
            worst = int(np.argmax(np.abs(errors)))
            if abs(errors[worst]) <= max(most_deviations * typical, least_error):
                break
            found[worst], is_left[worst] = errors[worst], False
            # The inverse without one row and column, by a rank-one change.
            column = inverse[worst].copy()
            inverse -= np.outer(column, column / column[worst])
            inverse[worst] = inverse[:, worst] = 0.0
        return Surface(self.places[is_left], logs[is_left], inverse[np.ix_(is_left, is_left)]), found

    @cached_property
    def _inverse(self) -> Floats:
        if self.inverse is not None:
            return self.inverse
        return _inverse_at(np.ascontiguousarray(self.places).tobytes())

    @cached_property
    def _level(self) -> float:
        return _mean(self._inverse, self.log_ratios)

    @cached_property
    def _weights(self) -> Floats:
        return self._inverse @ (self.log_ratios - self._level)


@lru_cache(maxsize=64)
def _inverse_at(places: bytes) -> Floats:
    """Of the covariance of rows at `places` `(rows, 2)`, which most tables and numbers of tokens share."""
    known = np.frombuffer(places).reshape(-1, 2)
    spread = _alike(known, known) + ROW_SD**2 * np.eye(len(known))
    found = cho_solve(cho_factor(spread, lower=True), np.eye(len(known)))
    found.flags.writeable = False
    return found


def _mean(inverse: Floats, log_ratios: Floats) -> float:
    # Generalised least squares: many rows beside each other count as few.
    sums = inverse.sum(axis=0)
    return float(sums @ log_ratios / sums.sum())


def _alike(left: Floats, right: Floats) -> Floats:
    """Covariance of places `(l, 2)` and `(r, 2)`."""
    found = np.full((len(left), len(right)), SURFACE_SD**2)
    for axis, length in enumerate(LENGTHS):
        distance = np.sqrt(3) * np.abs(left[:, None, axis] - right[None, :, axis]) / length
        found *= (1 + distance) * np.exp(-distance)
    return found
