"""Latency models: what a size costs, from its work. One interface; parameters are fitted in bulk.

Times are in ms, F in FLOPs, B in bytes; slopes are fitted, and told as rates per second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from bench.cost.hardware import HardwareSpec
from bench.fit.series import Work
from bench.stats.robust import Floats, fit_nonnegative, robust_loss

__all__ = [
    "AFFINE_BYTES", "AFFINE_FLOPS", "PROPORTIONAL", "PUBLISHED", "CacheAware", "DataSheetRoofline",
    "LatencyModel", "LinearModel", "Monotone", "Roofline", "all_models",
]  # fmt: skip


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


class LatencyModel(Protocol):
    """One model. `theta` holds one row of parameters per resample `(resamples, p)`."""

    @property
    def name(self) -> str:
        """As in results."""

    @property
    def label(self) -> str:
        """For readers."""

    @property
    def is_yardstick(self) -> bool:
        """Whether it only says how well a model could do, and explains nothing."""

    def why_not(self, work: Work) -> str | None:
        """Why these sizes cannot determine it; None where they can."""

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        """Parameters for latencies `(resamples, n)`."""

    def predict(self, theta: Floats, work: Work) -> Floats:
        """Latencies in ms `(resamples, m)`."""

    def num_parameters(self, theta: Floats) -> int:
        """Free parameters of the fit in the first row."""

    def coefficients(self, theta: Floats) -> list[Values]:
        """The parameters as a reader knows them, infinite where nothing bounds a rate."""


@dataclass(frozen=True)
class LinearModel:
    """Latency is a sum of slopes times work.

    Attributes:
        name: as in results.
        label: for readers.
        design: work to columns `(n, p)`.
        tell: parameters to coefficients.
    """

    name: str
    label: str
    design: Callable[[Work], Floats]
    tell: Callable[[Floats], list[Values]]
    is_yardstick: bool = False

    def why_not(self, work: Work) -> str | None:
        """See `LatencyModel`."""
        return why_not(self.design(work))

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        """See `LatencyModel`."""
        return fit_nonnegative(self.design(work), latencies_ms)

    def predict(self, theta: Floats, work: Work) -> Floats:
        """See `LatencyModel`."""
        return theta @ self.design(work).T

    def num_parameters(self, theta: Floats) -> int:
        """See `LatencyModel`."""
        return theta.shape[1]

    def coefficients(self, theta: Floats) -> list[Values]:
        """See `LatencyModel`."""
        return self.tell(theta)


def _with_ones(column: Floats) -> Floats:
    return np.stack([np.ones_like(column), column], axis=1)


PUBLISHED = LinearModel(
    "flops_published",
    "FLOPs, as published",
    lambda work: work.published_flops[:, None],
    lambda theta: [rate("flops_per_s", "FLOP/s", theta[:, 0])],
)

PROPORTIONAL = LinearModel(
    "flops_proportional",
    "FLOPs, fc once per round",
    lambda work: work.flops[:, None],
    lambda theta: [rate("flops_per_s", "FLOP/s", theta[:, 0])],
)

AFFINE_FLOPS = LinearModel(
    "flops_affine",
    "t0 + F/P",
    lambda work: _with_ones(work.flops),
    lambda theta: [launch_time(theta), rate("flops_per_s", "FLOP/s", theta[:, 1])],
)

AFFINE_BYTES = LinearModel(
    "bytes_affine",
    "t0 + B/W",
    lambda work: _with_ones(work.total_bytes),
    lambda theta: [launch_time(theta), rate("bytes_per_s", "byte/s", theta[:, 1])],
)


def all_models(spec: HardwareSpec | None, dtype: str) -> Sequence[LatencyModel]:
    """Every model, the paper's first and the yardstick last.

    Args:
        spec: of the device; without one, the roofline has no data sheet, and only a fitted cache is tried. A
            draft has what the target that runs in between leaves of a cache, which may be far less than all.
        dtype: of the arithmetic, as torch names it.
    """
    return (
        PUBLISHED,
        PROPORTIONAL,
        AFFINE_FLOPS,
        AFFINE_BYTES,
        Roofline(),
        DataSheetRoofline(
            peak_flops_per_s=None if spec is None else spec.peak(dtype),
            memory_bytes_per_s=None if spec is None else spec.memory_bytes_per_s,
        ),
        *([] if spec is None or spec.cache_bytes is None else [CacheAware(spec.cache_bytes)]),
        CacheAware(None, "cache_fitted", "t0 + B/W, two W around a fitted cache"),
        Monotone(),
    )


# The yardstick: latency that rises with size, and nothing else assumed.


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


# Models with more than one limit: compute or memory (the roofline), cache or memory.

# FLOPs per byte that differ by less over all sizes leave one limit for all of them.
_ONE_REGIME = 1.05

_ROUGH_ROUNDS, _FULL_ROUNDS = 5, 200

Branch = TypeVar("Branch")


@dataclass(frozen=True)
class Roofline:
    """t0 + max(F/P, B/W), with P and W fitted.

    Where compute binds, arithmetic intensity F/B is high: sizes ordered by it fall into a memory-bound and
    a compute-bound part, and every cut between them is tried. A limit that binds nowhere is not
    determined; its slope is then 0.
    """

    name: str = "roofline"
    label: str = "t0 + max(F/P, B/W), fitted"
    is_yardstick: bool = False

    def why_not(self, work: Work) -> str | None:
        """See `LatencyModel`."""
        reasons = [why_not(design) for design, _ in self._cuts(work)]
        return None if None in reasons else reasons[0]

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        """See `LatencyModel`."""

        def solve_cut(cut: tuple[Floats, list[int]], rows: Floats, rounds: int) -> Floats:
            theta = np.zeros((len(rows), 3))
            theta[:, cut[1]] = fit_nonnegative(cut[0], rows, max_rounds=rounds)
            return theta

        cuts = [cut for cut in self._cuts(work) if why_not(cut[0]) is None]
        return _best_branch(cuts, solve_cut, lambda theta: self.predict(theta, work), latencies_ms)

    def predict(self, theta: Floats, work: Work) -> Floats:
        """See `LatencyModel`."""
        compute, memory = theta[:, 1:2] * work.flops, theta[:, 2:3] * work.total_bytes
        return theta[:, :1] + np.maximum(compute, memory)

    def num_parameters(self, theta: Floats) -> int:
        """See `LatencyModel`."""
        return 1 + int((theta[0, 1:] > 0).sum())

    def coefficients(self, theta: Floats) -> list[Values]:
        """See `LatencyModel`."""
        return [
            launch_time(theta),
            rate("flops_per_s", "FLOP/s", theta[:, 1]),
            rate("bytes_per_s", "byte/s", theta[:, 2]),
        ]

    def _cuts(self, work: Work) -> list[tuple[Floats, list[int]]]:
        """Columns of every way to share the sizes out, and which parameters they belong to."""
        intensity, ones = work.flops / work.total_bytes, np.ones(len(work))
        memory_only = (np.stack([ones, work.total_bytes], axis=1), [0, 2])
        if intensity.max() <= _ONE_REGIME * intensity.min():
            return [memory_only]
        cuts = [memory_only, (np.stack([ones, work.flops], axis=1), [0, 1])]
        for threshold in np.unique(intensity)[1:]:
            compute = intensity >= threshold
            columns = [ones, np.where(compute, work.flops, 0), np.where(compute, 0, work.total_bytes)]
            cuts.append((np.stack(columns, axis=1), [0, 1, 2]))
        return cuts


@dataclass(frozen=True)
class DataSheetRoofline:
    """t0 + max(F/P, B/W), with P and W as the vendor promises; only t0 is fitted.

    Attributes:
        peak_flops_per_s: P; None where unknown.
        memory_bytes_per_s: W; None where unknown.
    """

    peak_flops_per_s: float | None
    memory_bytes_per_s: float | None
    name: str = "roofline_datasheet"
    label: str = "t0 + max(F/P, B/W), data sheet"
    is_yardstick: bool = False

    def why_not(self, work: Work) -> str | None:
        """See `LatencyModel`."""
        if self.peak_flops_per_s is None or self.memory_bytes_per_s is None:
            return "the device has no data sheet with a peak for this dtype"
        return why_not(np.ones((len(work), 1)))

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        """See `LatencyModel`."""
        return fit_nonnegative(np.ones((len(work), 1)), latencies_ms, self._limit_ms(work))

    def predict(self, theta: Floats, work: Work) -> Floats:
        """See `LatencyModel`."""
        return theta + self._limit_ms(work)

    def num_parameters(self, theta: Floats) -> int:
        """See `LatencyModel`."""
        return 1

    def coefficients(self, theta: Floats) -> list[Values]:
        """See `LatencyModel`."""
        return [launch_time(theta)]

    def _limit_ms(self, work: Work) -> Floats:
        assert self.peak_flops_per_s is not None and self.memory_bytes_per_s is not None
        compute, memory = work.flops / self.peak_flops_per_s, work.total_bytes / self.memory_bytes_per_s
        return 1e3 * np.maximum(compute, memory)


@dataclass(frozen=True)
class CacheAware:
    """t0 + B/W_cache, and the weights beyond the cache at the slower W_memory.

    T = t0 + s B + e max(weights - C, 0) with s, e >= 0: W_cache = 1/s, W_memory = 1/(s + e). The part of
    the weights that fits is taken to stay in the cache from one step to the next; where it does not (a
    whole target runs in between, or the cache throws out what is needed next), e is 0 or C meaningless.

    Attributes:
        cache_bytes: C; None to fit it too, among the measured sizes.
    """

    cache_bytes: int | None
    name: str = "cache_aware"
    label: str = "t0 + B/W, two W around the cache"
    is_yardstick: bool = False

    def why_not(self, work: Work) -> str | None:
        """See `LatencyModel`."""
        if self.cache_bytes is not None:
            size = f"the cache of {self.cache_bytes / 2**20:.0f} MiB"
            if work.weight_bytes.max() <= self.cache_bytes:
                return f"the weights of every size fit into {size}"
            if work.weight_bytes.min() >= self.cache_bytes:
                return f"the weights of no size fit into {size}"
        designs = [self._design(work, cache) for cache in self._candidates(work)]
        if not designs:
            return "4 sizes are needed to find where a cache ends; measure more"
        reasons = [why_not(design) for design in designs]
        return None if None in reasons else reasons[0]

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        """See `LatencyModel`."""

        def solve_cache(cache: float, rows: Floats, rounds: int) -> Floats:
            theta = fit_nonnegative(self._design(work, cache), rows, max_rounds=rounds)
            return np.column_stack([theta, np.full(len(theta), cache)])

        caches = [c for c in self._candidates(work) if why_not(self._design(work, c)) is None]
        return _best_branch(caches, solve_cache, lambda theta: self.predict(theta, work), latencies_ms)

    def predict(self, theta: Floats, work: Work) -> Floats:
        """See `LatencyModel`."""
        beyond = np.maximum(work.weight_bytes - theta[:, 3:], 0)
        return theta[:, :1] + theta[:, 1:2] * work.total_bytes + theta[:, 2:3] * beyond

    def num_parameters(self, theta: Floats) -> int:
        """See `LatencyModel`."""
        return 3 if self.cache_bytes is not None else 4

    def coefficients(self, theta: Floats) -> list[Values]:
        """See `LatencyModel`."""
        return [
            launch_time(theta),
            rate("cache_bytes_per_s", "byte/s", theta[:, 1]),
            rate("bytes_per_s", "byte/s", theta[:, 1] + theta[:, 2]),
            Values("cache_bytes", "byte", theta[:, 3]),
        ]

    def _candidates(self, work: Work) -> list[float]:
        if self.cache_bytes is not None:
            return [float(self.cache_bytes)]
        # Two sizes on either side, or a kink is only one size's error.
        return work.weight_bytes[1:-2].tolist()

    def _design(self, work: Work, cache_bytes: float) -> Floats:
        beyond = np.maximum(work.weight_bytes - cache_bytes, 0)
        return np.stack([np.ones(len(work)), work.total_bytes, beyond], axis=1)


def _best_branch(
    branches: list[Branch],
    solve: Callable[[Branch, Floats, int], Floats],
    predict: Callable[[Floats], Floats],
    latencies_ms: Floats,
) -> Floats:
    """Of several fits per resample, the one with the lowest loss `(resamples, p)`.

    All branches are fitted roughly, and for every resample the best of them in full.
    """
    rough = np.stack([solve(branch, latencies_ms, _ROUGH_ROUNDS) for branch in branches])
    losses = np.stack([robust_loss(predict(theta) / latencies_ms - 1) for theta in rough])
    theta, choice = np.empty_like(rough[0]), losses.argmin(axis=0)
    for place in np.unique(choice):
        rows = choice == place
        theta[rows] = solve(branches[place], latencies_ms[rows], _FULL_ROUNDS)
    return theta


# What models share: coefficients as readers know them, and whether sizes can determine a model.

_MS_PER_S = 1e3

# Columns that are more alike than this cannot be told apart by latencies that are good to a percent.
_MOST_CONDITION = 60.0


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
