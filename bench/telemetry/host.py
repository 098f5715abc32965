"""The host during a run: load, of this run and of others; clock, temperature, and energy where readable."""

from pathlib import Path
from typing import Any

import psutil

_RAPL = Path("/sys/class/powercap")
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class Rapl:
    """Energy counters of the CPU packages; each wraps at its own range.

    Args:
        folder: where the kernel lists them.
    """

    def __init__(self, folder: Path = _RAPL):
        # intel-rapl:0 is a package (AMD's too); intel-rapl:0:0 a part of it.
        self._zones = sorted(zone for zone in folder.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._last: dict[Path, int] = {}
        self._total_uj = 0
        self.why_not: str | None = None if self._zones else "this machine has no RAPL counters"

    def read_j(self) -> float | None:
        """Energy since the first reading, over all packages."""
        if self.why_not:
            return None
        try:
            for zone in self._zones:
                now = int((zone / "energy_uj").read_text())
                moved = now - self._last.get(zone, now)
                if moved < 0:
                    moved += int((zone / "max_energy_range_uj").read_text())
                self._last[zone] = now
                self._total_uj += moved
        except (OSError, ValueError) as error:
            self.why_not = f"RAPL cannot be read: {getattr(error, 'strerror', None) or error}"
            return None
        return self._total_uj / 1e6


class Host:
    """Reads the machine, and how much of it one process and its threads take.

    Attributes:
        unsupported: by field, why it is None.
    """

    def __init__(self, pid: int, rapl: Rapl | None = None):
        self._process, self._rapl = psutil.Process(pid), rapl or Rapl()
        self._num_cpus = psutil.cpu_count() or 1
        self.unsupported: dict[str, str] = {}
        self._before = self._busy_s()

    def read(self, passed_s: float) -> dict[str, Any]:
        """Load as a share of all CPUs since the reading before, `passed_s` ago.

        Raises:
            psutil.NoSuchProcess: the process has ended.
        """
        before, self._before = self._before, self._busy_s()
        everything, own = (now - then for now, then in zip(self._before, before, strict=True))
        capacity = max(passed_s, 1e-9) * self._num_cpus
        energy_j = self._rapl.read_j()
        if self._rapl.why_not:
            self.unsupported["cpu_energy_j"] = self._rapl.why_not
        return {
            "cpu_load": round(everything / capacity, 4),
            "cpu_load_of_others": round(max(0.0, everything - own) / capacity, 4),
            "cpu_clock_mhz": self._clock_mhz(),
            "cpu_temperature_c": self._temperature_c(),
            "cpu_energy_j": energy_j,
        }

    def _busy_s(self) -> tuple[float, float]:
        """CPU seconds spent so far: by everything, and by the process."""
        times, own = psutil.cpu_times(), self._process.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        return sum(times[:8]) - idle, own.user + own.system

    def _clock_mhz(self) -> float | None:
        if "cpu_clock_mhz" in self.unsupported:
            return None
        frequency = psutil.cpu_freq()
        if frequency is None:
            self.unsupported["cpu_clock_mhz"] = "this machine does not tell"
            return None
        return round(frequency.current, 1)

    def _temperature_c(self) -> float | None:
        if "cpu_temperature_c" in self.unsupported:
            return None
        found = psutil.sensors_temperatures()
        readings = [item.current for name in _SENSORS for item in found.get(name, [])]
        if not readings:
            self.unsupported["cpu_temperature_c"] = "this machine has no sensor that psutil knows"
            return None
        return max(readings)
