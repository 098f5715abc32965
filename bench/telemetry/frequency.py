"""How the CPUs' clock is set: what the kernel lets move it."""

from pathlib import Path
from typing import Any

_SYSFS = Path("/sys/devices/system/cpu")


def cpu_frequency(sysfs: Path = _SYSFS) -> dict[str, Any]:
    """`governor` (several by a comma), `turbo` (`on` or `off`), and under `why_not` why one is None.

    Args:
        sysfs: the kernel's folder of CPUs.
    """
    governor, turbo = _governor(sysfs), _turbo(sysfs)
    why_not = {}
    if governor is None:
        why_not["governor"] = "the kernel tells none, as in a virtual machine"
    if turbo is None:
        why_not["turbo"] = "the kernel does not tell"
    return {"governor": governor, "turbo": turbo, "why_not": why_not}


def _governor(sysfs: Path) -> str | None:
    found = {_read(path) for path in sysfs.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {None}
    return ",".join(sorted(map(str, found))) or None


def _turbo(sysfs: Path) -> str | None:
    # Intel's own driver has a switch of its own, which says the opposite of everybody else's.
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
