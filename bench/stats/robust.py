"""Robust least squares with coefficients that cannot be negative, for many resamples at once.

Minimises sum of soft_l1(relative error) over coefficients >= 0, the objective of
`scipy.optimize.least_squares(loss="soft_l1", bounds=(0, inf))` on a linear model; a test compares the two.
Bootstrap intervals and cross-validation need thousands of such fits, which are solved here in one go, by
iteratively reweighted least squares. Relative errors, as sizes span two decades of latency.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Relative errors above it count linearly instead of squared: a size with a larger error has a kernel that
# does not suit its shape, and must not bend the whole curve.
SOFT_LIMIT = 0.02

_TOLERANCE = 1e-7

# Keeps a singular choice of columns solvable; a choice with fewer columns then fits better.
_RIDGE = 1e-13

_ROUNDING = 1e-9


def fit_nonnegative(
    design: Floats, latencies_ms: Floats, fixed_ms: Floats | None = None, max_rounds: int = 200
) -> Floats:
    """Coefficients of latency = fixed + design @ coefficients.

    Args:
        design: `(n, p)`, not negative; every column above 0 somewhere.
        latencies_ms: `(resamples, n)`, above 0.
        fixed_ms: part of the latency that is known `(n,)`; 0 by default.
        max_rounds: of reweighting; a few give a rough fit.

    Returns:
        `(resamples, p)`, each at least 0.
    """
    scale = design.max(axis=0)
    columns = (design / scale).T[:, None, :] / latencies_ms
    goal = np.ones_like(latencies_ms) if fixed_ms is None else 1 - fixed_ms / latencies_ms
    found = _weighted(columns, goal, np.ones_like(goal))
    # Resamples converge one by one; rounds continue with the others.
    left, rows, goals = np.arange(len(goal)), columns, goal
    for _ in range(max_rounds):
        errors = np.einsum("prn,rp->rn", rows, found[left]) - goals
        better = _weighted(rows, goals, 1 / np.sqrt(1 + (errors / SOFT_LIMIT) ** 2))
        moves = np.abs(better - found[left]).max(axis=1) > _TOLERANCE * np.abs(better).max(axis=1)
        found[left] = better
        if not moves.any():
            break
        if not moves.all():
            left, rows, goals = left[moves], rows[:, moves], goals[moves]
    # Less than a billionth of every latency is rounding, not a coefficient.
    return np.where(found * columns.max(axis=2).T > _ROUNDING, found / scale, 0.0)


def robust_loss(errors: Floats) -> Floats:
    """The objective `(...)` of relative errors `(..., n)`."""
    return (2 * SOFT_LIMIT**2 * (np.sqrt(1 + (errors / SOFT_LIMIT) ** 2) - 1)).sum(axis=-1)


def _weighted(columns: Floats, goal: Floats, weights: Floats) -> Floats:
    """Non-negative weighted least squares, exactly `(resamples, p)`.

    A free fit without negative coefficients is the optimum. Otherwise the optimum is the free fit on its
    own positive columns, so that the best of all choices of columns is it; models have at most three.

    Args:
        columns: `(p, resamples, n)`.
        goal: `(resamples, n)`.
        weights: `(resamples, n)`.
    """
    weighted = columns * weights
    gram = np.einsum("prn,qrn->rpq", weighted, columns)
    moment = np.einsum("prn,rn->rp", weighted, goal)
    found = _solve(gram, moment)
    negative = (found < 0).any(axis=1)
    if negative.any():
        found[negative] = _best_choice(gram[negative], moment[negative])
    return found


def _best_choice(gram: Floats, moment: Floats) -> Floats:
    num_columns = moment.shape[1]
    best, best_gain = np.zeros(moment.shape), np.zeros(len(moment))
    for count in range(1, num_columns):
        for chosen in combinations(range(num_columns), count):
            columns = np.array(chosen)
            free = np.zeros(moment.shape)
            free[:, columns] = _solve(gram[:, columns[:, None], columns], moment[:, columns])
            gain = (moment * free).sum(axis=1)
            wins = (free >= 0).all(axis=1) & (gain > best_gain)
            best_gain = np.where(wins, gain, best_gain)
            best = np.where(wins[:, None], free, best)
    return best


def _solve(gram: Floats, moment: Floats) -> Floats:
    """Solutions of many small systems `(resamples, p)`, in closed form for one and two unknowns."""
    count = moment.shape[1]
    diagonal = np.einsum("rpp->rp", gram)
    ridge = _RIDGE * diagonal.sum(axis=1)
    if count == 1:
        return moment / (diagonal + ridge[:, None])
    if count == 2:
        first, second, both = diagonal[:, 0] + ridge, diagonal[:, 1] + ridge, gram[:, 0, 1]
        one = second * moment[:, 0] - both * moment[:, 1]
        two = first * moment[:, 1] - both * moment[:, 0]
        return np.stack([one, two], axis=1) / (first * second - both**2)[:, None]
    return np.linalg.solve(gram + ridge[:, None, None] * np.eye(count), moment[..., None])[..., 0]
