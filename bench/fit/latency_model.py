"""What a latency model is, what its parameters mean, and how they change from one device to another.

Times are in ms, F in FLOPs, B in bytes; slopes are fitted, in ms per piece of work, and shown as rates per
second.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.cost.hardware import DeviceLimits
from bench.errors import FitError
from bench.fit.series import Work
from bench.stats.robust import Floats

MS_PER_S = 1e3

# Largest condition number of a design: beyond it, columns are too alike for latencies known to a percent.
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


@dataclass(frozen=True)
class LatencyModel(ABC):
    """One model. `theta` holds one row of parameters per resample `(resamples, p)`.

    Attributes:
        device: that it is fitted on; None where nothing is known of it.
        name: as in results.
        label: for readers.
        is_yardstick: whether it explains nothing and only shows how well a model could do.
        precedence: decides which model is the best of those with the same error on held-out sizes and the
            same number of parameters: the one with the lowest precedence.
    """

    device: DeviceLimits | None = None
    name: ClassVar[str]
    label: ClassVar[str]
    is_yardstick: ClassVar[bool] = False
    precedence: ClassVar[int] = 5

    @classmethod
    def suits(cls, device: DeviceLimits | None) -> bool:
        """Whether a fit tries the model on this device."""
        return True

    @abstractmethod
    def why_not(self, work: Work) -> str | None:
        """Why these sizes cannot determine the parameters; None if they can."""

    @abstractmethod
    def solve(self, work: Work, latencies_ms: Floats) -> Floats:
        """Parameters for latencies `(resamples, n)`."""

    @abstractmethod
    def predict(self, theta: Floats, work: Work) -> Floats:
        """Latencies in ms `(resamples, m)`."""

    @abstractmethod
    def coefficients(self, theta: Floats) -> list[Values]:
        """The parameters in units for readers; infinite if nothing bounds a rate."""

    @abstractmethod
    def factors(self, theta: Floats, here: DeviceLimits, there: DeviceLimits) -> Floats:
        """How much larger every parameter is on another device, according to the limits of both `(p,)`.

        Args:
            theta: fitted parameters `(p,)`.
            here: the device of the fit.
            there: the other device.

        Raises:
            FitError: the model does not depend on the hardware, or a limit that it needs is unknown.
        """

    def num_parameters(self, theta: Floats) -> int:
        """Free parameters of the fit in the first row."""
        return theta.shape[1]

    def without_each(self, work: Work, medians_ms: Floats) -> Floats | None:
        """What a fit to all other sizes predicts for each `(n,)`; None if they cannot determine it."""
        found = np.empty(len(work))
        for place in range(len(work)):
            rest = np.arange(len(work)) != place
            if self.why_not(work.take(rest)) is not None:
                return None
            theta = self.solve(work.take(rest), medians_ms[None, rest])
            found[place] = self.predict(theta, work.take(~rest))[0, 0]
        return found


# The classes of all models that a fit tries, in the order of their definition.
MODELS: list[type[LatencyModel]] = []

Model = TypeVar("Model", bound=type[LatencyModel])


def latency_model(model: Model) -> Model:
    """Class decorator: every fit tries this model."""
    MODELS.append(model)
    return model


@dataclass(frozen=True)
class Term:
    """A parameter times a part of the work.

    Attributes:
        name: of the coefficient, as in results.
        unit: of the coefficient.
        column: the part of the work `(n,)`.
        factor: how much larger the parameter is on another device, given both.
    """

    name: str
    unit: str
    column: Callable[[Work], Floats]
    factor: Callable[[DeviceLimits, DeviceLimits], float]

    def values(self, parameters: Floats) -> Values:
        """The parameter `(resamples,)` as a reader knows it: slopes as rates."""
        if self.unit == "ms":
            return Values(self.name, self.unit, parameters)
        return rate(self.name, self.unit, parameters)


def rate(name: str, unit: str, slopes_ms: Floats) -> Values:
    """Slopes in ms per piece of work as pieces per second."""
    with np.errstate(divide="ignore"):
        return Values(name, unit, MS_PER_S / slopes_ms)


def slower_memory(here: DeviceLimits, there: DeviceLimits) -> float:
    """Time per byte there over time per byte here."""
    return here.bytes_per_s / there.bytes_per_s


def slower_compute(here: DeviceLimits, there: DeviceLimits) -> float:
    """Time per FLOP there over time per FLOP here.

    Raises:
        FitError: one of them has no peak in its dtype.
    """
    for device in (here, there):
        if device.flops_per_s is None:
            raise FitError(
                f"{device.name} has no peak for {device.dtype}; transfer in a dtype that both devices have"
            )
    assert here.flops_per_s is not None and there.flops_per_s is not None
    return here.flops_per_s / there.flops_per_s


def larger_cache(here: DeviceLimits, there: DeviceLimits) -> float:
    """Size of the cache there over its size here.

    Raises:
        FitError: one of them is unknown.
    """
    if here.cache_bytes is None or there.cache_bytes is None:
        raise FitError(
            f"the cache of {here.name} or of {there.name} is unknown; transfer a model without one"
        )
    return there.cache_bytes / here.cache_bytes


# t0: kernel launches, Python and everything else that does not depend on the size.
LAUNCHES = Term("t0_ms", "ms", lambda work: np.ones(len(work)), lambda here, there: 1.0)
PUBLISHED_FLOPS = Term("flops_per_s", "FLOP/s", lambda work: work.published_flops, slower_compute)
FLOPS = Term("flops_per_s", "FLOP/s", lambda work: work.flops, slower_compute)
BYTES = Term("bytes_per_s", "byte/s", lambda work: work.total_bytes, slower_memory)


class SumOfTerms(LatencyModel):
    """A model whose parameters are those of `terms`, in their order."""

    terms: ClassVar[tuple[Term, ...]]

    def coefficients(self, theta: Floats) -> list[Values]:
        return [term.values(column) for term, column in zip(self.terms, theta.T, strict=True)]

    def factors(self, theta: Floats, here: DeviceLimits, there: DeviceLimits) -> Floats:
        # A limit that never binds need not be known.
        pairs = zip(self.terms, theta, strict=True)
        return np.array([term.factor(here, there) if slope else 1.0 for term, slope in pairs])


def why_undetermined(design: Floats) -> str | None:
    """Why `design` `(n, p)` cannot determine its parameters; None where it can."""
    num_sizes, num_columns = design.shape
    if num_sizes <= num_columns:
        return f"{num_sizes} sizes cannot judge {num_columns} parameters; measure at least {num_columns + 1}"
    if not _separates(design[None])[0]:
        return "over these sizes its parts grow in the same way, so that they cannot be separated"
    return None


def determined_without_each(design: Floats) -> NDArray[np.bool_]:
    """Whether `design` `(n, p)` determines its parameters without each of its sizes `(n,)`."""
    num_sizes, num_columns = design.shape
    if num_sizes - 1 <= num_columns:
        return np.zeros(num_sizes, dtype=bool)
    places = np.arange(num_sizes)
    rest = np.stack([np.delete(places, place) for place in places])
    return _separates(design[rest])


def _separates(designs: Floats) -> NDArray[np.bool_]:
    """Of many designs `(many, n, p)`, which have columns that are not alike `(many,)`."""
    scale = designs.max(axis=1)
    there = (scale > 0).all(axis=1)
    scaled = designs / np.where(scale > 0, scale, 1.0)[:, None, :]
    return there & (np.linalg.cond(scaled) <= _MOST_CONDITION)


def each_left_out(medians_ms: Floats) -> Floats:
    """Latencies `(n, n)` of `n` fits, each without one size: a fit takes no notice of an infinite one."""
    return np.where(np.eye(len(medians_ms), dtype=bool), np.inf, medians_ms[None])
