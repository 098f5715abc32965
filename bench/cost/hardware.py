"""What a GPU could do at best: data-sheet rates, found by the name that the driver reports.

The values live in `conf/gpu/<model>.yaml`, in the vendors' units; here they are bytes, FLOP/s and bytes/s.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from bench.config.run import PeakConfig, SpecConfig
from bench.errors import ConfigError, DeviceError

GPU_FOLDER = Path(__file__).resolve().parents[2] / "conf" / "gpu"

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class HardwareSpec:
    """Peak rates of one device.

    Attributes:
        name: of the model, as in `conf/gpu`.
        source: where the values are from.
        name_pattern: regular expression that the whole device name matches; None for a measured device.
        peak_flops_per_s: dense, by torch dtype name (`bfloat16`), and `tfloat32`; without those it lacks.
        memory_bytes_per_s: bandwidth of its memory.
        cache_bytes: last cache before memory; None where unknown.
        memory_bytes: size of its memory; None where unknown.
    """

    name: str
    source: str
    name_pattern: str | None
    peak_flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float
    cache_bytes: int | None
    memory_bytes: int | None

    def __post_init__(self) -> None:
        rates = [self.memory_bytes_per_s, *self.peak_flops_per_s.values()]
        if not all(rate > 0 for rate in rates):
            raise ConfigError(f"hardware {self.name}: rates must be above 0, not {rates}")

    @classmethod
    def from_config(cls, name: str, name_pattern: str, spec: SpecConfig) -> "HardwareSpec":
        """Converts the vendors' units."""
        peaks = {item.name: getattr(spec.peak_tflops, item.name) for item in fields(PeakConfig)}
        return cls(
            name=name,
            source=spec.source,
            name_pattern=name_pattern,
            peak_flops_per_s={dtype: rate * 1e12 for dtype, rate in peaks.items() if rate is not None},
            memory_bytes_per_s=spec.memory_bandwidth_gb_per_s * 1e9,
            cache_bytes=None if spec.cache_mib is None else int(spec.cache_mib * _MIB),
            memory_bytes=int(spec.memory_gib * _GIB),
        )

    def peak(self, dtype: str) -> float | None:
        """Dense FLOP/s in `dtype`; None where the device has no unit for it or the vendor no figure."""
        return self.peak_flops_per_s.get(dtype)

    def with_cache(self, cache_bytes: int) -> "HardwareSpec":
        """The same where the data sheet says nothing of the cache and the device does."""
        return self if self.cache_bytes is not None else replace(self, cache_bytes=cache_bytes)


def read_specs(folder: Path = GPU_FOLDER) -> list[HardwareSpec]:
    """Every GPU model of `folder`, by name; files that only choose a device are passed over.

    Raises:
        ConfigError: a file is broken, or has a wrong or unknown value.
    """
    read = {path.stem: _read(path) for path in sorted(folder.glob("*.yaml"))}
    return [_spec(name, values) for name, values in read.items() if values.get("spec") is not None]


def match(device_name: str, specs: list[HardwareSpec] | None = None) -> HardwareSpec | None:
    """The model of a device, by the name that torch and NVML report; None for one that is not known.

    A slice of a GPU (MIG) is not the GPU: its name has more in it, and the whole name must match.

    Args:
        device_name: such as "NVIDIA A100-SXM4-80GB".
        specs: models to choose from; by default those of `conf/gpu`.
    """
    for spec in read_specs() if specs is None else specs:
        if spec.name_pattern is not None and re.fullmatch(spec.name_pattern, device_name):
            return spec
    return None


def data_sheet(name_pattern: str, spec: SpecConfig | None) -> HardwareSpec:
    """The data sheet of a GPU that the configuration names, present or not.

    Args:
        name_pattern: of the device's name, which tells the file that it is from.
        spec: what the configuration says of it.

    Raises:
        ConfigError: the configuration names a family of cards, or a card without a data sheet.
    """
    name = _named(name_pattern)
    if spec is not None:
        return HardwareSpec.from_config(name, name_pattern, spec)
    cards = [found.name for found in read_specs() if found.name.startswith(f"{name}-")]
    if cards:
        raise ConfigError(f"gpu={name} is several cards: choose {' or '.join(cards)}")
    raise ConfigError(f"gpu={name} has no data sheet: give gpu.spec, or choose a card of conf/gpu")


def require_present(name_pattern: str, device_name: str | None) -> None:
    """Refuses to measure on one GPU in the name of another.

    Args:
        name_pattern: of the GPU that is asked for.
        device_name: of the device here; None where there is no GPU.

    Raises:
        DeviceError: they do not match.
    """
    if device_name is not None and re.fullmatch(name_pattern, device_name):
        return
    name = _named(name_pattern)
    if device_name is None:
        raise DeviceError(
            f"gpu={name} is not here: this machine has no GPU, or none that this torch can use; use gpu=auto "
            f"or gpu=cpu to measure, or task=predict to model a {name}"
        )
    raise DeviceError(
        f"gpu={name} is not the device here, which is {device_name}; use gpu=auto to measure, or "
        f"task=predict to model a {name}"
    )


def _named(name_pattern: str) -> str:
    """The GPU as its file in `conf/gpu` is called; the pattern itself where there is none."""
    for path in sorted(GPU_FOLDER.glob("*.yaml")):
        if _read(path).get("name_pattern") == name_pattern:
            return path.stem
    return f"'{name_pattern}'"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values")
    return values


def _spec(name: str, values: Mapping[str, Any]) -> HardwareSpec:
    try:
        pattern = re.compile(values["name_pattern"]).pattern
        given = dict(values["spec"])
        peaks = PeakConfig(**given.pop("peak_tflops", {}))
        return HardwareSpec.from_config(name, pattern, SpecConfig(**given, peak_tflops=peaks))
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise ConfigError(f"conf/gpu/{name}.yaml is not a GPU's data sheet: {error}") from error
