"""Coefficients of one device on another, by the ratio of their data sheets.

What is assumed: both devices reach the same share of their bandwidth and of their peak, and t0 is the
host's, so that it does not change. A cache is replaced by the other's. The error says how far that holds.
"""

from dataclasses import dataclass, replace

import numpy as np

from bench.cost.hardware import HardwareSpec
from bench.fit.errors import FitError
from bench.fit.fitting import FittedModel
from bench.fit.models import AFFINE_BYTES, AFFINE_FLOPS, PROPORTIONAL, PUBLISHED, LatencyModel
from bench.fit.rooflines import CacheAware, DataSheetRoofline, Roofline
from bench.fit.series import Floats, LatencySeries


@dataclass(frozen=True)
class TransferError:
    """A transferred model against what the other device measured; relative to the measured latency.

    Attributes:
        errors: predicted over measured, less 1, per size `(n,)`.
        mape: mean of their absolute values.
        worst_error: largest of their absolute values.
    """

    errors: Floats
    mape: float
    worst_error: float


def transfer(fitted: FittedModel, source: HardwareSpec, target: HardwareSpec, dtype: str) -> FittedModel:
    """The model of `source` for `target`, of which nothing was measured.

    Args:
        fitted: on `source`.
        source: data sheet or probe of the device that was measured.
        target: of the device to predict.
        dtype: of the arithmetic, as torch names it.

    Raises:
        FitError: the model has no limits of hardware in it, or a peak is unknown.
    """
    slower_memory = source.memory_bytes_per_s / target.memory_bytes_per_s
    model = fitted.model
    if isinstance(model, DataSheetRoofline):
        peak = _peak(target, dtype)
        sheet = replace(model, peak_flops_per_s=peak, memory_bytes_per_s=target.memory_bytes_per_s)
        return replace(fitted, model=sheet)
    if isinstance(model, CacheAware):
        scale = np.array([1.0, slower_memory, slower_memory, _cache_ratio(source, target)])
        cache = None if model.cache_bytes is None else target.cache_bytes
        return _scaled(replace(fitted, model=replace(model, cache_bytes=cache)), scale)
    if model == AFFINE_BYTES:
        return _scaled(fitted, np.array([1.0, slower_memory]))
    if isinstance(model, Roofline) and fitted.theta[1] == 0:
        return _scaled(fitted, np.array([1.0, 1.0, slower_memory]))
    if model.is_yardstick:
        raise FitError(f"{model.label}: it says nothing of hardware and cannot be transferred")
    return _scaled(fitted, _with_compute(model, _peak(source, dtype) / _peak(target, dtype), slower_memory))


def transfer_error(transferred: FittedModel, measured: LatencySeries) -> TransferError:
    """How far a transferred model is from measurements of the device that it is for."""
    errors = transferred.predict(measured.work) / measured.medians_ms - 1
    return TransferError(errors, float(np.abs(errors).mean()), float(np.abs(errors).max()))


def _with_compute(model: LatencyModel, slower_compute: float, slower_memory: float) -> Floats:
    if isinstance(model, Roofline):
        return np.array([1.0, slower_compute, slower_memory])
    if model == AFFINE_FLOPS:
        return np.array([1.0, slower_compute])
    assert model in (PUBLISHED, PROPORTIONAL)
    return np.array([slower_compute])


def _scaled(fitted: FittedModel, scale: Floats) -> FittedModel:
    return replace(fitted, theta=fitted.theta * scale, replicates=fitted.replicates * scale)


def _peak(spec: HardwareSpec, dtype: str) -> float:
    peak = spec.peak(dtype)
    if peak is None:
        raise FitError(f"{spec.name} has no peak for {dtype}; transfer in a dtype that both devices have")
    return peak


def _cache_ratio(source: HardwareSpec, target: HardwareSpec) -> float:
    if source.cache_bytes is None or target.cache_bytes is None:
        raise FitError(
            f"the cache of {source.name} or of {target.name} is unknown; transfer a model without one"
        )
    return target.cache_bytes / source.cache_bytes
