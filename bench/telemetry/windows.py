"""Energy of a time window, computed from samples. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A window needs this many updates of the sensor: one more or less at its ends is then less than a tenth.
_LEAST_REFRESHES = 10


@dataclass(frozen=True)
class Energy:
    """Energy of a time window.

    Attributes:
        energy_j: total energy, idle power included; None if it is not known.
        method: `counter` (the GPU's energy counter), `integrated` (its power over time) or `rapl` (the
            counters of the CPU packages); None without energy.
        reason: why it is not known; else None.
    """

    energy_j: float | None
    method: str | None = None
    reason: str | None = None


def long_enough_s(interval_s: float) -> float:
    """The shortest window whose energy can be known with sensors that are read this often, plus a margin."""
    return 1.5 * _LEAST_REFRESHES * interval_s


_SOURCES = (("energy_j", "counter"), ("power_w", "integrated"), ("cpu_energy_j", "rapl"))


def energy_between(
    samples: Sequence[dict[str, Any]], start_s: float, end_s: float, of_gpu: bool = False
) -> Energy:
    """Energy between two points in time, from the best sensor in the samples.

    Args:
        samples: in order of `time_s`; those of a GPU have `energy_j` or `power_w`, if it reports them.
        start_s: start, on the clock of the samples.
        end_s: end, on the clock of the samples.
        of_gpu: whether a GPU did the work, even if it was not sampled.
    """
    is_gpu = of_gpu or any("power_w" in sample for sample in samples)
    reason = "no energy or power was sampled"
    for field, method in _SOURCES:
        if is_gpu and method == "rapl":
            break  # energy of the host is not that of the GPU
        times, values = _series(samples, field)
        if len(times) < 2:
            continue
        if times[0] > start_s or times[-1] < end_s:
            reason = "the samples do not cover the window"
            continue
        refresh_s = _refresh_s(times, values)
        if end_s - start_s < _LEAST_REFRESHES * refresh_s:
            reason = (
                f"the window lasted {end_s - start_s:.2f} s and the sensor updates every {refresh_s:.2f} s; "
                f"{_LEAST_REFRESHES} updates are needed"
            )
            continue
        if method == "integrated":
            return Energy(_integral(times, values, start_s, end_s), method)
        at_start, at_end = np.interp([start_s, end_s], times, values)
        if at_end >= at_start:
            return Energy(float(at_end - at_start), method)
        # A driver that is loaded again starts counting at 0.
        reason = "the energy counter was reset"
    return Energy(None, None, reason)


def _series(samples: Sequence[dict[str, Any]], field: str) -> tuple[Floats, Floats]:
    known = [(s["time_s"], s[field]) for s in samples if s.get(field) is not None]
    table = np.array(known, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _refresh_s(times: Floats, values: Floats) -> float:
    """Median time between readings that differ; it is at least the sampling interval."""
    changes = times[1:][np.diff(values) != 0]
    if len(changes) < 2:
        return float(np.median(np.diff(times)))
    return float(np.median(np.diff(changes)))


def _integral(times: Floats, power_w: Floats, start_s: float, end_s: float) -> float:
    inside = (times > start_s) & (times < end_s)
    at = np.concatenate([[start_s], times[inside], [end_s]])
    power = np.interp(at, times, power_w)
    return float(np.sum(np.diff(at) * (power[1:] + power[:-1]) / 2))
