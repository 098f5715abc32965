"""Energy of a time window, computed from samples. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A window needs this many updates of the sensor: one more or less at its ends is then less than a tenth.
_LEAST_REFRESHES = 10

# No device takes more: a counter that rises faster is wrong.
_MOST_W = 5000.0

# A power sensor with one answer in so many samples, at rest and under load, stands still.
_MANY, _REST, _LOAD = 30, 0.2, 0.7

# Counter and power of one GPU must agree this well. On an H100 they agree to 5% over one second, 3% over two.
_AGREEMENT = 0.1


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


def energy_between(
    samples: Sequence[dict[str, Any]], start_s: float, end_s: float, of_gpu: bool = False
) -> Energy:
    """Energy between two points in time, from the best sensor in the samples.

    The increments of a counter are added up. A counter of a GPU is compared with its power over time; if they
    disagree, neither is believed.

    Args:
        samples: in order of `time_s`; those of a GPU have `energy_j` or `power_w`, if it reports them.
        start_s: start, on the clock of the samples.
        end_s: end, on the clock of the samples.
        of_gpu: whether a GPU did the work, even if it was not sampled.
    """
    window = (start_s, end_s)
    power = _Sensor.of(samples, "power_w", "integrated")
    by_power = Energy(None, None, STUCK_POWER) if is_power_stuck(samples) else power.integral(*window)
    by_counter = _Sensor.of(samples, "energy_j", "counter").increments(*window, power)
    if by_counter.energy_j is not None and by_power.energy_j is not None:
        return _agreed(by_counter, by_power)
    if by_counter.energy_j is not None:
        return by_counter
    if by_power.energy_j is not None or of_gpu or any("power_w" in sample for sample in samples):
        # Energy of the host is not that of the GPU.
        return by_power if by_power.reason != _NOT_SAMPLED else by_counter
    by_rapl = _Sensor.of(samples, "cpu_energy_j", "rapl").increments(*window)
    return by_rapl if by_rapl.reason != _NOT_SAMPLED else by_counter


STUCK_POWER = "the power sensor gives the same answer at rest and under load"


def is_power_stuck(samples: Sequence[dict[str, Any]]) -> bool:
    """Whether the power of a GPU never changed although its load did."""
    known = [s for s in samples if s.get("power_w") is not None and s.get("utilization") is not None]
    if len(known) < _MANY or len({s["power_w"] for s in known}) > 1:
        return False
    loads = [s["utilization"] for s in known]
    return min(loads) <= _REST and max(loads) >= _LOAD


def _agreed(by_counter: Energy, by_power: Energy) -> Energy:
    counted, integrated = by_counter.energy_j or 0.0, by_power.energy_j or 0.0
    if abs(counted - integrated) <= _AGREEMENT * max(counted, integrated):
        return by_counter
    return Energy(
        None,
        None,
        f"the energy counter says {counted:.1f} J and power over time {integrated:.1f} J, which is more than "
        f"{_AGREEMENT:.0%} apart",
    )


_NOT_SAMPLED = "no energy or power was sampled"


_JUMPED = "the energy counter rose by more than any device takes"


@dataclass(frozen=True)
class _Sensor:
    """Readings of one sensor, without those that cannot be."""

    times: Floats
    values: Floats
    method: str

    @classmethod
    def of(cls, samples: Sequence[dict[str, Any]], field: str, method: str) -> "_Sensor":
        known = [(s["time_s"], s[field]) for s in samples if s.get(field) is not None]
        table = np.array(known, dtype=np.float64).reshape(-1, 2)
        table = table[np.isfinite(table[:, 1]) & (table[:, 1] >= 0)]
        return cls(table[:, 0], table[:, 1], method)

    def integral(self, start_s: float, end_s: float) -> Energy:
        """Energy of a power sensor."""
        if reason := self._why_not(start_s, end_s):
            return Energy(None, None, reason)
        gap_s = self._longest_gap_s(start_s, end_s)
        if gap_s > max(3 * float(np.median(np.diff(self.times))), (end_s - start_s) / 10):
            return Energy(None, None, f"power was not read for {gap_s:.2f} s of the window")
        energy_j = _integral(self.times, self.values, start_s, end_s)
        if energy_j == 0:
            return Energy(None, None, "the power sensor says 0 W")
        return Energy(energy_j, self.method)

    def increments(self, start_s: float, end_s: float, power: "_Sensor | None" = None) -> Energy:
        """Energy of a counter; the interval of a reset or a wrong rise is filled with `power` over time."""
        if reason := self._why_not(start_s, end_s):
            return Energy(None, None, reason)
        increments = np.diff(self.values)
        # Readings can be closer together than updates.
        most = _MOST_W * (np.diff(self.times) + _refresh_s(self.times, self.values))
        for i in np.flatnonzero((increments < 0) | (increments > most)):
            # A driver that is loaded again starts counting at 0.
            begin, end = self.times[i], self.times[i + 1]
            is_outside = end <= start_s or begin >= end_s
            if not is_outside and (power is None or not power.covers(begin, end)):
                return Energy(None, None, "the energy counter was reset" if increments[i] < 0 else _JUMPED)
            increments[i] = (
                0.0 if is_outside or power is None else _integral(power.times, power.values, begin, end)
            )
        total = np.concatenate([[0.0], np.cumsum(increments)])
        at_start, at_end = np.interp([start_s, end_s], self.times, total)
        if at_end <= at_start:
            return Energy(None, None, "the energy counter did not move")
        return Energy(float(at_end - at_start), self.method)

    def covers(self, start_s: float, end_s: float) -> bool:
        """Whether there are readings from before the start to after the end."""
        return len(self.times) > 1 and self.times[0] <= start_s and self.times[-1] >= end_s

    def _why_not(self, start_s: float, end_s: float) -> str | None:
        if len(self.times) < 2:
            return _NOT_SAMPLED
        if not self.covers(start_s, end_s):
            return "the samples do not cover the window"
        refresh_s = _refresh_s(self.times, self.values)
        if end_s - start_s < _LEAST_REFRESHES * refresh_s:
            return (
                f"the window lasted {end_s - start_s:.2f} s and the sensor updates every {refresh_s:.2f} s; "
                f"{_LEAST_REFRESHES} updates are needed"
            )
        return None

    def _longest_gap_s(self, start_s: float, end_s: float) -> float:
        first = np.searchsorted(self.times, start_s, side="right") - 1
        last = np.searchsorted(self.times, end_s, side="left")
        return float(np.diff(self.times[first : last + 1]).max())


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
