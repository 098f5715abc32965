"""Latency models: what a size costs, from its work. One interface; parameters are fitted in bulk.

Times are in ms, F in FLOPs, B in bytes; slopes are fitted, and told as rates per second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.cost.hardware import HardwareSpec
from bench.fit.monotone import Monotone
from bench.fit.robust import fit_nonnegative
from bench.fit.rooflines import CacheAware, DataSheetRoofline, Roofline
from bench.fit.series import Floats, Work
from bench.fit.values import Values, launch_time, rate, why_not

__all__ = [
    "AFFINE_BYTES", "AFFINE_FLOPS", "PROPORTIONAL", "PUBLISHED", "CacheAware", "DataSheetRoofline",
    "LatencyModel", "LinearModel", "Monotone", "Roofline", "all_models",
]  # fmt: skip


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
