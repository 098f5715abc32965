"""Models with more than one limit: compute or memory (the roofline), cache or memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bench.fit.robust import Floats, fit_nonnegative, robust_loss
from bench.fit.series import Work
from bench.fit.values import Values, launch_time, rate, why_not

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
