"""The host during a run: load of this run and of others, clock, temperature, and energy if readable."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

POWERCAP = Path("/sys/class/powercap")

PRESSURE = Path("/proc/pressure")

# The kernel's counters of memory traffic (resctrl), where it is mounted and the CPU has them.
RESCTRL = Path("/sys/fs/resctrl")

_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


# No CPU package takes more; a counter that rises faster was reset or read wrongly.
_MOST_W = 5000.0

# No CPU has another clock or temperature.
_POSSIBLE = {
    "cpu_clock_mhz": (1.0, 20_000.0),
    "cpu_temperature_c": (-50.0, 150.0),
    "cpu_load": (0.0, 1.5),
    "cpu_steal": (0.0, 1.5),
    "memory_bytes_per_s": (0.0, 1e14),
}

# The kernel counts each CPU in ticks of 10 ms; over a short time one tick more looks like a load above 1.
_TICK_S = 0.01


class Rapl:
    """Energy counters of the CPU packages; each has its own maximum, after which it starts at 0 again.

    After a reset that is no wrap, such as one by a resume from sleep, the sum starts at 0 as well, so that a
    reader of the sum sees it go back.

    Args:
        folder: folder in which the kernel lists them.
    """

    def __init__(self, folder: Path = POWERCAP):
        # intel-rapl:0 is a package (also for AMD). intel-rapl:0:0 is a part of it; psys is the whole
        # platform.
        zones = (zone for zone in folder.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._zones = sorted(zone for zone in zones if _name_of(zone) != "psys")
        self._last: dict[Path, int] = {}
        self._last_s = time.monotonic()
        self._total_uj = 0
        self.impossible: str | None = None  # the first increment that no package can have
        self.why_not: str | None = None if self._zones else "this machine has no RAPL counters"

    def read_j(self) -> float | None:
        """Energy since the first reading, over all packages."""
        if self.why_not:
            return None
        try:
            now_s = time.monotonic()
            passed_s, self._last_s = now_s - self._last_s, now_s
            for zone in self._zones:
                now = int((zone / "energy_uj").read_text())
                moved = rise = now - self._last.get(zone, now)
                if moved < 0:
                    moved += int((zone / "max_energy_range_uj").read_text())
                self._last[zone] = now
                # A millisecond at least: two readings in a row may see an update that is older.
                most_uj = _MOST_W * 1e6 * max(passed_s, 1e-3)
                if rise > most_uj and self.impossible is None:
                    self.impossible = f"{rise / 1e6:.0f} J in {passed_s:.3f} s"
                is_possible = 0 <= moved <= most_uj
                self._total_uj = self._total_uj + moved if is_possible else 0
        except (OSError, ValueError) as error:
            self.why_not = f"RAPL cannot be read: {getattr(error, 'strerror', None) or error}"
            return None
        return self._total_uj / 1e6


class _Growth:
    """How fast a counter grows, between the last two times that it moved.

    Some counters move every two seconds only, however often they are read.

    Args:
        read: the counter.
        most: largest possible growth per second; what a counter held back until the first reading can exceed
            it.
    """

    _STANDS_S = 5.0

    def __init__(self, read: Callable[[], float], most: float = math.inf):
        self._read, self._most = read, most
        self._last: float | None = None
        self._passed_s, self._rate = 0.0, 0.0

    def per_s(self, passed_s: float) -> float | None:
        """Growth per second; None at the first reading.

        Args:
            passed_s: time since the last reading.
        """
        now, before = self._read(), self._last
        self._passed_s += passed_s
        if before is None:
            self._last, self._passed_s = now, 0.0
            return None
        if now == before:
            return self._rate if self._passed_s < self._STANDS_S else 0.0
        self._rate = min((now - before) / max(self._passed_s, _TICK_S), self._most)
        self._last, self._passed_s = now, 0.0
        return self._rate


class Host:
    """Reads the state of the machine, and the load of one process and its threads.

    Attributes:
        unsupported: by field, the reason why it is None. A reading that fails once is not tried again.
        impossible: by field, the first answer that no sensor can give; such answers count as none.
    """

    def __init__(
        self, pid: int, rapl: Rapl | None = None, pressure: Path = PRESSURE, resctrl: Path = RESCTRL
    ):
        """Takes the first reading of the load.

        Args:
            pid: of the process.
            rapl: energy counters.
            pressure: the kernel's folder of stalls.
            resctrl: its folder of memory traffic.

        Raises:
            psutil.NoSuchProcess: the process has ended.
        """
        self._process, self._rapl = psutil.Process(pid), rapl or Rapl()
        self._num_cpus = psutil.cpu_count() or 1
        self.unsupported: dict[str, str] = {}
        self.impossible: dict[str, str] = {}
        self._before: tuple[float, float] | None = self._ask("cpu_load", self._busy_s)
        self._growths = {
            "cpu_steal": _Growth(lambda: _stolen_s() / self._num_cpus),
            "cpu_pressure": _Growth(lambda: _stalled_s(pressure / "cpu"), 1.0),
            "memory_pressure": _Growth(lambda: _stalled_s(pressure / "memory"), 1.0),
            "memory_bytes_per_s": _Growth(lambda: _memory_bytes(resctrl)),
        }
        self._grown(0.0)

    def read(self, passed_s: float) -> dict[str, Any]:
        """Load since the last reading, as a share of all CPUs, and sensors. Takes about a millisecond.

        `cpu_steal` is the share of all CPUs that a hypervisor gave to others; `cpu_pressure` and
        `memory_pressure` are shares of the time in which some task of the machine waited for a CPU, or for
        memory to be freed; `memory_bytes_per_s` is the traffic of all CPUs with memory.

        Args:
            passed_s: time since the last reading.

        Raises:
            psutil.NoSuchProcess: the process has ended.
        """
        return {
            **self._load(passed_s),
            **self._grown(passed_s),
            "cpu_clock_mhz": self._ask("cpu_clock_mhz", _clock_mhz),
            "cpu_temperature_c": self._ask("cpu_temperature_c", _temperature_c),
        }

    def energy_j(self) -> float | None:
        """Energy of the CPU packages since the first reading."""
        energy_j = self._rapl.read_j()
        if self._rapl.why_not:
            self.unsupported["cpu_energy_j"] = self._rapl.why_not
        if self._rapl.impossible:
            self.impossible.setdefault("cpu_energy_j", self._rapl.impossible)
        return energy_j

    def _grown(self, passed_s: float) -> dict[str, float | None]:
        found = {}
        for name, growth in self._growths.items():
            value = self._ask(name, lambda growth=growth: growth.per_s(passed_s))  # type: ignore[misc]
            found[name] = None if value is None else round(value, 4)
        return found

    def _load(self, passed_s: float) -> dict[str, float | None]:
        before, self._before = self._before, self._ask("cpu_load", self._busy_s)
        if before is None or self._before is None:
            self.unsupported["cpu_load_of_others"] = self.unsupported["cpu_load"]
            return {"cpu_load": None, "cpu_load_of_others": None}
        everything, own = (now - then for now, then in zip(self._before, before, strict=True))
        capacity = max(passed_s, _TICK_S) * self._num_cpus
        tick_s = _TICK_S * self._num_cpus
        # The kernel's idle time can go back by a tick too.
        surely = 0.0 if abs(everything) <= tick_s else everything - tick_s
        if self._possible("cpu_load", round(surely / capacity, 4)) is None:
            return {"cpu_load": None, "cpu_load_of_others": None}
        return {
            "cpu_load": round(max(0.0, everything) / capacity, 4),
            "cpu_load_of_others": round(max(0.0, everything - own) / capacity, 4),
        }

    def _busy_s(self) -> tuple[float, float]:
        """CPU seconds spent so far: by all processes, and by this process."""
        times, own = psutil.cpu_times(), self._process.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        return sum(times[:8]) - idle, own.user + own.system

    def _ask(self, field: str, question: Callable[[], Any]) -> Any:
        """The reading; None from then on if it fails. psutil can raise any exception."""
        if field in self.unsupported:
            return None
        try:
            return self._possible(field, question())
        except psutil.NoSuchProcess:
            raise
        except Exception as error:
            self.unsupported[field] = str(error) or type(error).__name__
            return None

    def _possible(self, field: str, answer: Any) -> Any:
        """The answer, if a sensor can give it."""
        if isinstance(answer, int | float) and field in _POSSIBLE:
            least, most = _POSSIBLE[field]
            if not least <= answer <= most:
                self.impossible.setdefault(field, str(answer))
                return None
        return answer


def _stolen_s() -> float:
    """CPU seconds so far that a hypervisor gave to others."""
    times = psutil.cpu_times()
    if not hasattr(times, "steal"):
        raise LookupError("this system does not report it")
    return times.steal


def _stalled_s(path: Path) -> float:
    """Seconds so far in which some task waited, from a file such as `/proc/pressure/cpu`."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise LookupError(f"{path} cannot be read: {error.strerror}") from error
    for line in lines:
        kind, *values = line.split()
        if kind == "some":
            return float(dict(value.split("=") for value in values)["total"]) / 1e6
    raise LookupError(f"{path} has no line for some tasks")


def _memory_bytes(resctrl: Path) -> float:
    """Bytes so far between all CPUs and memory."""
    counters = sorted(resctrl.glob("mon_data/mon_L3_*/mbm_total_bytes"))
    if not counters:
        raise LookupError(f"no counters of memory traffic in {resctrl}: not mounted, or the CPU has none")
    return float(sum(int(counter.read_text()) for counter in counters))


def _clock_mhz() -> float:
    """Clock of the fastest CPU; idle CPUs may have a lower clock."""
    clocks = [frequency.current for frequency in psutil.cpu_freq(percpu=True) or []]
    if not clocks:
        raise LookupError("this machine does not report it")
    return round(max(clocks), 1)


def _temperature_c() -> float:
    if not hasattr(psutil, "sensors_temperatures"):
        raise LookupError("psutil reads no temperature on this system")
    found = psutil.sensors_temperatures()
    readings = [item.current for name in _SENSORS for item in found.get(name, [])]
    if not readings:
        raise LookupError("psutil finds no sensor on this machine")
    return max(readings)


def _name_of(zone: Path) -> str | None:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return None


# How the clock of the CPUs is controlled.

_SYSFS = Path("/sys/devices/system/cpu")


def cpu_frequency(sysfs: Path = _SYSFS) -> dict[str, Any]:
    """`governor` (several with commas), `turbo` (`on` or `off`), and in `why_not` the reason if one is None.

    Args:
        sysfs: the kernel's folder of CPUs.
    """
    governor, turbo = _governor(sysfs), _turbo(sysfs)
    why_not = {}
    if governor is None:
        why_not["governor"] = "the kernel reports none, as in a virtual machine"
    if turbo is None:
        why_not["turbo"] = "the kernel does not report it"
    return {"governor": governor, "turbo": turbo, "why_not": why_not}


def _governor(sysfs: Path) -> str | None:
    found = {_read(path) for path in sysfs.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {None}
    return ",".join(sorted(map(str, found))) or None


def _turbo(sysfs: Path) -> str | None:
    # Intel's driver has another file, with the opposite meaning.
    if (off := _read(sysfs / "intel_pstate" / "no_turbo")) is not None:
        return "off" if off == "1" else "on"
    if (on := _read(sysfs / "cpufreq" / "boost")) is not None:
        return "on" if on == "1" else "off"
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
