"""Energy of a stretch of time from samples, and how it was found. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A stretch must hold this many refreshes of a sensor, so that one more or less at its ends is under a tenth.
_LEAST_REFRESHES = 10


@dataclass(frozen=True)
class Energy:
    """Energy of a stretch.

    Attributes:
        energy_j: whole energy, idle power included; None where it cannot be known.
        method: `counter` (the GPU's total-energy counter), `integrated` (its power over time) or `rapl` (the
            CPU packages' counters); None without energy.
        reason: why there is none; None where there is.
    """

    energy_j: float | None
    method: str | None = None
    reason: str | None = None


def long_enough_s(interval_s: float) -> float:
    """The shortest stretch whose energy can be known when sensors are read that often, with some to spare."""
    return 1.5 * _LEAST_REFRESHES * interval_s


_SOURCES = (("energy_j", "counter"), ("power_w", "integrated"), ("cpu_energy_j", "rapl"))


def energy_between(
    samples: Sequence[dict[str, Any]], start_s: float, end_s: float, of_gpu: bool = False
) -> Energy:
    """Energy between two moments, by the best sensor that the samples hold.

    Args:
        samples: in order of `time_s`; those of a GPU have `energy_j` or `power_w`, where it tells.
        start_s: on the clock of the samples.
        end_s: as `start_s`.
        of_gpu: whether a GPU did the work, even where nothing was sampled of it.
    """
    is_gpu = of_gpu or any("power_w" in sample for sample in samples)
    reason = "nothing was sampled that tells energy"
    for field, method in _SOURCES:
        if is_gpu and method == "rapl":
            break  # energy of the host is not that of the GPU
        times, values = _series(samples, field)
        if len(times) < 2:
            continue
        if times[0] > start_s or times[-1] < end_s:
            reason = "sampling began after it or ended before it"
            continue
        refresh_s = _refresh_s(times, values)
        if end_s - start_s < _LEAST_REFRESHES * refresh_s:
            reason = (
                f"it lasted {end_s - start_s:.2f} s, and the sensor changes every {refresh_s:.2f} s; "
                f"{_LEAST_REFRESHES} changes are needed"
            )
            continue
        if method == "integrated":
            return Energy(_integral(times, values, start_s, end_s), method)
        at_start, at_end = np.interp([start_s, end_s], times, values)
        if at_end >= at_start:
            return Energy(float(at_end - at_start), method)
        # A driver that was loaded again starts from nothing.
        reason = "the energy counter went back"
    return Energy(None, None, reason)


def _series(samples: Sequence[dict[str, Any]], field: str) -> tuple[Floats, Floats]:
    known = [(s["time_s"], s[field]) for s in samples if s.get(field) is not None]
    table = np.array(known, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _refresh_s(times: Floats, values: Floats) -> float:
    """Median time between readings that differ; the sampling interval is the least that can be seen."""
    changes = times[1:][np.diff(values) != 0]
    if len(changes) < 2:
        return float(np.median(np.diff(times)))
    return float(np.median(np.diff(changes)))


def _integral(times: Floats, power_w: Floats, start_s: float, end_s: float) -> float:
    inside = (times > start_s) & (times < end_s)
    at = np.concatenate([[start_s], times[inside], [end_s]])
    power = np.interp(at, times, power_w)
    return float(np.sum(np.diff(at) * (power[1:] + power[:-1]) / 2))
