"""The latency models. Parameters are fitted in bulk, one row per resample.

To add a model, write one class here, with `@latency_model` above it. Fits, judgement, reports and the move to
another device use only what `LatencyModel` declares. A model that is a sum of terms is a `Linear`.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from bench.cost.hardware import DeviceLimits
from bench.errors import FitError
from bench.fit.latency_model import (
    BYTES,
    FLOPS,
    LAUNCHES,
    MODELS,
    MS_PER_S,
    PUBLISHED_FLOPS,
    LatencyModel,
    SumOfTerms,
    Values,
    determined_without_each,
    each_left_out,
    larger_cache,
    latency_model,
    rate,
    slower_compute,
    slower_memory,
    why_undetermined,
)
from bench.fit.series import Work
from bench.stats.robust import Floats, fit_nonnegative, robust_loss

# FLOPs per byte that differ by less over all sizes leave one limit for all of them.
_ONE_REGIME = 1.05

_ROUGH_ROUNDS, _FULL_ROUNDS = 5, 200

# Output rows that kernels of matrix products give one block.
_BLOCK_ROWS = (16, 32, 64, 128, 256)


def all_models(device: DeviceLimits | None) -> Sequence[LatencyModel]:
    """Every model that suits the device, in the order of definition, the yardstick last.

    Args:
        device: None if nothing is known of it: then the data-sheet roofline cannot be fitted, and the model
            with a cache of known size is left out.
    """
    models = [model(device) for model in MODELS if model.suits(device)]
    return sorted(models, key=lambda model: model.is_yardstick)


class Linear(SumOfTerms):
    """Latency is the sum of its terms."""

    def why_not(self, work: Work) -> str | None:
        return why_undetermined(self._design(work))

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        return fit_nonnegative(self._design(work), latencies_ms)

    def predict(self, theta: Floats, work: Work) -> Floats:
        return theta @ self._design(work).T

    def without_each(self, work: Work, medians_ms: Floats) -> Floats | None:
        design = self._design(work)
        if not determined_without_each(design).all():
            return None
        theta = fit_nonnegative(design, each_left_out(medians_ms))
        return np.einsum("np,np->n", theta, design)

    def _design(self, work: Work) -> Floats:
        return np.stack([term.column(work) for term in self.terms], axis=1)


class Branched(LatencyModel):
    """One of several sums of terms, which a number tells apart: the one that fits best."""

    def why_not(self, work: Work) -> str | None:
        reasons = [why_undetermined(self._design(work, branch)) for branch in self._candidates(work)]
        return None if None in reasons else reasons[0]

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        branches = [b for b in self._candidates(work) if why_undetermined(self._design(work, b)) is None]
        return self._best(work, latencies_ms, branches, np.ones((len(branches), len(latencies_ms)), bool))

    def without_each(self, work: Work, medians_ms: Floats) -> Floats | None:
        places = np.arange(len(work))
        tried = [self._candidates(work.take(places != place)) for place in places]
        branches = list(dict.fromkeys(branch for of_place in tried for branch in of_place))
        is_tried = np.array([[branch in of_place for of_place in tried] for branch in branches])
        usable = np.zeros((len(branches), len(work)), bool)
        for row, branch in enumerate(branches):
            usable[row] = is_tried[row] & determined_without_each(self._design(work, branch))
        if not len(branches) or not usable.any(axis=0).all():
            return None
        theta = self._best(work, each_left_out(medians_ms), branches, usable)
        return np.diagonal(self.predict(theta, work)).copy()

    @abstractmethod
    def _candidates(self, work: Work) -> list[float]:
        """Branches to try."""

    @abstractmethod
    def _design(self, work: Work, branch: float) -> Floats:
        """Columns of a branch."""

    def _theta(self, coefficients: Floats, branch: float) -> Floats:
        """Parameters from the coefficients of a branch's columns: these, and the branch last."""
        return np.column_stack([coefficients, np.full(len(coefficients), branch)])

    def _best(
        self, work: Work, latencies_ms: Floats, branches: list[float], usable: NDArray[np.bool_]
    ) -> Floats:
        """Of the branches that a resample may use `(branches, resamples)`, the one with the lowest loss.

        All branches are fitted roughly, and for every resample the best of them in full.
        """

        def solve(branch: float, rows: Floats, rounds: int) -> Floats:
            coefficients = fit_nonnegative(self._design(work, branch), rows, max_rounds=rounds)
            return self._theta(coefficients, branch)

        losses = np.full(usable.shape, np.inf)
        for place in np.flatnonzero(usable.any(axis=1)):
            rows = latencies_ms[usable[place]]
            errors = self.predict(solve(branches[place], rows, _ROUGH_ROUNDS), work) / rows - 1
            losses[place, usable[place]] = robust_loss(errors)
        choice = losses.argmin(axis=0)
        best = {place: choice == place for place in np.unique(choice)}
        order = np.argsort(np.concatenate([np.flatnonzero(rows) for rows in best.values()]))
        solved = [solve(branches[p], latencies_ms[rows], _FULL_ROUNDS) for p, rows in best.items()]
        return np.concatenate(solved)[order]


@latency_model
class Published(Linear):
    """The paper's weight: latency is proportional to its FLOPs."""

    name, label = "flops_published", "FLOPs, as published"
    terms = (PUBLISHED_FLOPS,)


@latency_model
class Proportional(Linear):
    """Latency is proportional to the FLOPs that engines run."""

    name, label = "flops_proportional", "FLOPs, fc once per round"
    terms = (FLOPS,)


@latency_model
class AffineFlops(Linear):
    """Launches, then arithmetic."""

    name, label, precedence = "flops_affine", "t0 + F/P", 1
    terms = (LAUNCHES, FLOPS)


@latency_model
class AffineBytes(Linear):
    """Launches, then memory traffic."""

    name, label, precedence = "bytes_affine", "t0 + B/W", 0
    terms = (LAUNCHES, BYTES)


@latency_model
class Roofline(Branched, SumOfTerms):
    """t0 + max(F/P, B/W), with P and W fitted.

    Sizes with a high arithmetic intensity F/B are bound by compute, the others by memory; every cut between
    the two is tried. A limit that never binds is not determined, and its slope is 0.
    """

    name, label, precedence = "roofline", "t0 + max(F/P, B/W), fitted", 3
    terms = (LAUNCHES, FLOPS, BYTES)

    def predict(self, theta: Floats, work: Work) -> Floats:
        compute, memory = theta[:, 1:2] * work.flops, theta[:, 2:3] * work.total_bytes
        return theta[:, :1] + np.maximum(compute, memory)

    def num_parameters(self, theta: Floats) -> int:
        return 1 + int((theta[0, 1:] > 0).sum())

    def _candidates(self, work: Work) -> list[float]:
        """From which intensity on sizes are bound by compute."""
        intensity = work.flops / work.total_bytes
        if intensity.max() <= _ONE_REGIME * intensity.min():
            return [np.inf]
        return [np.inf, -np.inf, *np.unique(intensity)[1:].tolist()]

    def _design(self, work: Work, branch: float) -> Floats:
        compute = work.flops / work.total_bytes >= branch
        flops, moved = np.where(compute, work.flops, 0), np.where(compute, 0, work.total_bytes)
        columns = [np.ones(len(work)), flops, moved]
        return np.stack([columns[place] for place in _of_cut(branch)], axis=1)

    def _theta(self, coefficients: Floats, branch: float) -> Floats:
        theta = np.zeros((len(coefficients), 3))
        theta[:, _of_cut(branch)] = coefficients
        return theta


def _of_cut(intensity: float) -> list[int]:
    """Which parameters of a roofline a cut determines."""
    return [0, 1, 2] if np.isfinite(intensity) else [0, 2] if intensity > 0 else [0, 1]


@latency_model
class DataSheetRoofline(SumOfTerms):
    """t0 + max(F/P, B/W), with P and W from the data sheet; only t0 is fitted."""

    name, label, precedence = "roofline_datasheet", "t0 + max(F/P, B/W), data sheet", 2
    terms = (LAUNCHES,)

    def why_not(self, work: Work) -> str | None:
        if self.device is None or self.device.flops_per_s is None:
            return "the device has no data sheet with a peak for this dtype"
        return why_undetermined(np.ones((len(work), 1)))

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        return fit_nonnegative(np.ones((len(work), 1)), latencies_ms, self._limit_ms(work))

    def predict(self, theta: Floats, work: Work) -> Floats:
        return theta + self._limit_ms(work)

    def without_each(self, work: Work, medians_ms: Floats) -> Floats | None:
        ones = np.ones((len(work), 1))
        if self.why_not(work) is not None or not determined_without_each(ones).all():
            return None
        limit = self._limit_ms(work)
        return fit_nonnegative(ones, each_left_out(medians_ms), limit)[:, 0] + limit

    def factors(self, theta: Floats, here: DeviceLimits, there: DeviceLimits) -> Floats:
        slower_compute(here, there)  # Refuses a device without a peak.
        return super().factors(theta, here, there)

    def _limit_ms(self, work: Work) -> Floats:
        assert self.device is not None and self.device.flops_per_s is not None
        compute, memory = work.flops / self.device.flops_per_s, work.total_bytes / self.device.bytes_per_s
        return MS_PER_S * np.maximum(compute, memory)


@latency_model
class CacheAware(Branched):
    """t0 + B/W_cache, and the weights beyond the cache at the slower W_memory.

    T = t0 + s B + e max(weights - C, 0) with s, e >= 0: W_cache = 1/s, W_memory = 1/(s + e). This assumes
    that weights up to C stay in the cache from one step to the next. If they do not (the target runs in
    between, or the cache evicts what is needed next), e is 0 or C is meaningless.
    """

    name, label, precedence = "cache_aware", "t0 + B/W, two W around the cache", 4

    @classmethod
    def suits(cls, device: DeviceLimits | None) -> bool:
        return device is not None and device.cache_bytes is not None

    def why_not(self, work: Work) -> str | None:
        cache = self._cache_bytes
        if cache is not None:
            size = f"the cache of {cache / 2**20:.0f} MiB"
            if work.weight_bytes.max() <= cache:
                return f"the weights of every size fit into {size}"
            if work.weight_bytes.min() >= cache:
                return f"the weights of no size fit into {size}"
        if not self._candidates(work):
            return "4 sizes are needed to find where a cache ends; measure more"
        return super().why_not(work)

    def predict(self, theta: Floats, work: Work) -> Floats:
        beyond = np.maximum(work.weight_bytes - theta[:, 3:], 0)
        return theta[:, :1] + theta[:, 1:2] * work.total_bytes + theta[:, 2:3] * beyond

    def num_parameters(self, theta: Floats) -> int:
        return 4 if self._cache_bytes is None else 3

    def coefficients(self, theta: Floats) -> list[Values]:
        return [
            LAUNCHES.values(theta[:, 0]),
            rate("cache_bytes_per_s", "byte/s", theta[:, 1]),
            rate("bytes_per_s", "byte/s", theta[:, 1] + theta[:, 2]),
            Values("cache_bytes", "byte", theta[:, 3]),
        ]

    def factors(self, theta: Floats, here: DeviceLimits, there: DeviceLimits) -> Floats:
        slower = slower_memory(here, there)
        return np.array([1.0, slower, slower, larger_cache(here, there)])

    @property
    def _cache_bytes(self) -> int | None:
        """C; None: C is fitted too, among the measured sizes."""
        return None if self.device is None else self.device.cache_bytes

    def _candidates(self, work: Work) -> list[float]:
        cache, weights = self._cache_bytes, work.weight_bytes
        if cache is not None:
            return [float(cache)] if weights.min() < cache < weights.max() else []
        # At least two sizes on either side: a kink at the end would follow the error of one size.
        return weights[1:-2].tolist()

    def _design(self, work: Work, branch: float) -> Floats:
        beyond = np.maximum(work.weight_bytes - branch, 0)
        return np.stack([np.ones(len(work)), work.total_bytes, beyond], axis=1)


@latency_model
class CacheFitted(CacheAware):
    """`CacheAware` with a fitted C: the target, which runs in between, leaves a draft less than all of it."""

    name, label, precedence = "cache_fitted", "t0 + B/W, two W around a fitted cache", 5

    @classmethod
    def suits(cls, device: DeviceLimits | None) -> bool:
        return True

    @property
    def _cache_bytes(self) -> int | None:
        return None


@latency_model
class Waves(Branched):
    """t0 + B/W, and what a last wave of blocks that does not fill the device leaves idle.

    A kernel gives each multiprocessor a block of the head's rows at a time. T = t0 + s B + q I, with I the
    rows that the last wave could have taken besides, and s, q >= 0. The rows of a block are fitted too.
    """

    name, label, precedence = "waves", "t0 + B/W + idle part of the last wave", 4

    @classmethod
    def suits(cls, device: DeviceLimits | None) -> bool:
        return device is not None and device.num_multiprocessors is not None

    def why_not(self, work: Work) -> str | None:
        if work.weight_bytes[0] == work.weight_bytes[-1]:
            return "its weights are the same at every size"
        return super().why_not(work)

    def predict(self, theta: Floats, work: Work) -> Floats:
        idle = _idle_rows(work, theta[:, 3:])
        return theta[:, :1] + theta[:, 1:2] * work.total_bytes + theta[:, 2:3] * idle

    def coefficients(self, theta: Floats) -> list[Values]:
        return [
            LAUNCHES.values(theta[:, 0]),
            rate("bytes_per_s", "byte/s", theta[:, 1]),
            Values("idle_row_ms", "ms", theta[:, 2]),
            Values("rows_per_wave", "rows", theta[:, 3]),
        ]

    def factors(self, theta: Floats, here: DeviceLimits, there: DeviceLimits) -> Floats:
        if here.num_multiprocessors is None or there.num_multiprocessors is None:
            raise FitError(f"the multiprocessors of {here.name} or of {there.name} are not known")
        slower = slower_memory(here, there)
        return np.array([1.0, slower, slower, there.num_multiprocessors / here.num_multiprocessors])

    def _candidates(self, work: Work) -> list[float]:
        assert self.device is not None and self.device.num_multiprocessors is not None
        return [float(rows * self.device.num_multiprocessors) for rows in _BLOCK_ROWS]

    def _design(self, work: Work, branch: float) -> Floats:
        return np.stack([np.ones(len(work)), work.total_bytes, _idle_rows(work, branch)], axis=1)


def _idle_rows(work: Work, wave: Floats | float) -> Floats:
    """Rows that the last of the waves of `wave` rows could have taken besides."""
    return np.ceil(work.sizes / wave) * wave - work.sizes


@latency_model
class Monotone(LatencyModel):
    """The yardstick: latency that rises with size, and nothing else assumed.

    Isotonic regression of the medians, interpolated by a monotone cubic in log size and log latency, and
    extrapolated with the slope of the last two sizes. `theta` holds the log latencies of the fitted sizes,
    then the logs of these sizes.
    """

    name, label, is_yardstick = "monotone", "monotone, no model", True

    def why_not(self, work: Work) -> str | None:
        return None if len(work) > 2 else f"{len(work)} sizes make no curve; measure at least 3"

    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        logs = np.stack([isotonic_regression(row).x for row in np.log(latencies_ms)])
        return np.hstack([logs, np.broadcast_to(np.log(work.sizes), logs.shape)])

    def predict(self, theta: Floats, work: Work) -> Floats:
        half = theta.shape[1] // 2
        at = np.log(work.sizes)
        return np.exp(np.stack([_curve(row[half:], row[:half], at) for row in theta]))

    def num_parameters(self, theta: Floats) -> int:
        return len(np.unique(theta[0, : theta.shape[1] // 2]))

    def coefficients(self, theta: Floats) -> list[Values]:
        return []

    def factors(self, theta: Floats, here: DeviceLimits, there: DeviceLimits) -> Floats:
        raise FitError(f"{self.label}: it says nothing of hardware and cannot be transferred")


def _curve(x: Floats, y: Floats, at: Floats) -> Floats:
    inside = PchipInterpolator(x, y)(np.clip(at, x[0], x[-1]))
    first, last = (np.diff(y) / np.diff(x))[[0, -1]]
    return inside + first * np.minimum(at - x[0], 0) + last * np.maximum(at - x[-1], 0)
