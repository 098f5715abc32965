"""Which device a run was measured on, and labels that keep apart what is not the same device."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_VENDORS = ("NVIDIA ", "AMD ", "Intel(R) ")
# What environment.json may call a fact, at the top or in one of its groups; the first with a value counts.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "power_limit_w": ("power_limit_w",),
    # Clocks that somebody set come before those that the board could reach.
    "sm_clock_mhz": ("application_sm_clock_mhz", "sm_clock_max_mhz"),
    "memory_clock_mhz": ("memory_clock_max_mhz",),
    "host": ("host",),
    "uuid": ("uuid",),
    "driver": ("driver",),
}


@dataclass(frozen=True)
class DeviceIdentity:
    """What makes two same-named devices different hardware; None where a run does not say.

    Attributes:
        name: as the driver reports it.
        power_limit_w: that it ran under.
        sm_clock_mhz: that was set, else the highest that it may reach.
        memory_clock_mhz: the highest that it may reach.
        host: machine.
    """

    name: str
    power_limit_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    host: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> "DeviceIdentity":
        """What `environment.json` says."""
        return cls(
            str(environment["device_name"]),
            *(
                fact(environment, name)
                for name in ("power_limit_w", "sm_clock_mhz", "memory_clock_mhz", "host")
            ),
        )


def fact(environment: Mapping[str, Any], name: str) -> Any:
    """One fact of the device from `environment.json`; None where it does not say.

    Args:
        environment: the file.
        name: `power_limit_w`, `sm_clock_mhz`, `memory_clock_mhz`, `host`, `uuid` or `driver`.
    """
    groups = [environment, *(group for group in environment.values() if isinstance(group, Mapping))]
    found = (group.get(key) for key in _KEYS[name] for group in groups)
    return next((value for value in found if value is not None), None)


# What is said of a device, in this order, until same-named ones are told apart.
_QUALIFIERS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("power_limit_w", lambda value: "power limit unknown" if value is None else f"{value:.0f} W"),
    ("sm_clock_mhz", lambda value: "clock unknown" if value is None else f"{value:.0f} MHz"),
    ("memory_clock_mhz", lambda v: "memory clock unknown" if v is None else f"memory {v:.0f} MHz"),
    ("host", lambda value: "host unknown" if value is None else f"on {value}"),
)


def device_labels(identities: Iterable[DeviceIdentity]) -> dict[DeviceIdentity, str]:
    """A short name of every device; what same-named devices differ in is added, and nothing else.

    The labels depend on which devices there are, not on their order.
    """
    labels = {}
    by_name: dict[str, set[DeviceIdentity]] = defaultdict(set)
    for identity in identities:
        by_name[_short(identity.name)].add(identity)
    for name, same_named in by_name.items():
        for identity, told in _told_apart(same_named, 0).items():
            labels[identity] = f"{name} ({', '.join(told)})" if told else name
    return labels


def _told_apart(group: set[DeviceIdentity], place: int) -> dict[DeviceIdentity, list[str]]:
    if len(group) == 1 or place == len(_QUALIFIERS):
        return {identity: [] for identity in group}
    field, tell = _QUALIFIERS[place]
    parts: dict[Any, set[DeviceIdentity]] = defaultdict(set)
    for identity in group:
        parts[getattr(identity, field)].add(identity)
    if len(parts) == 1:
        return _told_apart(group, place + 1)
    return {
        identity: [tell(value), *told]
        for value, part in parts.items()
        for identity, told in _told_apart(part, place + 1).items()
    }


def _short(name: str) -> str:
    for vendor in _VENDORS:
        name = name.removeprefix(vendor)
    return name
