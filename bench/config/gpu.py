"""The device and the data sheets of GPUs: what `conf/gpu/<name>.yaml` may say, and which one a device has.

A file says everything of its GPU: what the driver calls it, the vendor's rates, and what Slurm and Ray
are asked for to get one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from bench.cost.hardware import HardwareSpec
from bench.errors import ConfigError, DeviceError, require

GPU_FOLDER = Path(__file__).resolve().parents[2] / "conf" / "gpu"

_MIB, _GIB = 2**20, 2**30


@dataclass
class PeakConfig:
    """Dense peak rates in TFLOP/s, without sparsity. Null: the GPU has no such unit.

    Attributes:
        float32: without tensor cores, as torch computes float32 by default.
        tfloat32: TF32 tensor cores, as with `torch.set_float32_matmul_precision("high")`.
        bfloat16: tensor cores, accumulating in float32.
        float16: tensor cores, accumulating in float32.
    """

    float32: float | None = None
    tfloat32: float | None = None
    bfloat16: float | None = None
    float16: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            require(
                value is None or value > 0, f"gpu.spec.peak_tflops.{item.name}", value, "above 0, or null"
            )


@dataclass
class SpecConfig:
    """Values of a data sheet, in the vendors' units.

    Attributes:
        source: the name of the data sheet.
        memory_bandwidth_gb_per_s: memory bandwidth, in 10^9 bytes per second.
        memory_gib: size of the GPU's memory.
        cache_mib: size of the last cache before memory (L2; MI300X: Infinity Cache). Null: the vendor does
            not publish it; the size that the device reports is used.
        peak_tflops: dense peak rates.
        multiprocessors: streaming multiprocessors (compute units on AMD GPUs); null where unknown.
    """

    source: str
    memory_bandwidth_gb_per_s: float
    memory_gib: float
    cache_mib: float | None = None
    peak_tflops: PeakConfig = field(default_factory=PeakConfig)
    multiprocessors: int | None = None

    def __post_init__(self) -> None:
        for name in ("memory_bandwidth_gb_per_s", "memory_gib", "cache_mib", "multiprocessors"):
            value = getattr(self, name)
            absent = value is None and name in ("cache_mib", "multiprocessors")
            require(absent or value > 0, f"gpu.spec.{name}", value, "above 0")
        require(bool(self.source.strip()), "gpu.spec.source", "''", "the name of the data sheet")

    def hardware(self, name: str, name_pattern: str) -> HardwareSpec:
        """The same in bytes and FLOP/s.

        Args:
            name: of the GPU model.
            name_pattern: of the device's name.
        """
        peaks = {item.name: getattr(self.peak_tflops, item.name) for item in fields(PeakConfig)}
        return HardwareSpec(
            name=name,
            source=self.source,
            name_pattern=name_pattern,
            peak_flops_per_s={dtype: rate * 1e12 for dtype, rate in peaks.items() if rate is not None},
            memory_bytes_per_s=self.memory_bandwidth_gb_per_s * 1e9,
            cache_bytes=None if self.cache_mib is None else int(self.cache_mib * _MIB),
            memory_bytes=int(self.memory_gib * _GIB),
            num_multiprocessors=self.multiprocessors,
        )


@dataclass
class SlurmConfig:
    """What a job on this device requests from Slurm (`hydra/launcher=slurm`).

    Attributes:
        gres: generic resource, such as gpu:h100:1; null: none.
        constraint: required feature of the node; null: any node.
        cpus_per_task: CPU cores; null: Slurm decides.
        additional_parameters: further options of sbatch; true for an option without a value.
    """

    gres: str | None = "gpu:1"
    constraint: str | None = None
    cpus_per_task: int | None = 8
    additional_parameters: dict[str, bool | int | str] = field(default_factory=dict)


@dataclass
class RayConfig:
    """What a job on this device requests from Ray (`hydra/launcher=ray_cluster`).

    Attributes:
        num_gpus: number of GPUs.
        accelerator_type: Ray's name of the kind of GPU; null: any kind, if Ray has no name for it. The run
            then refuses another kind itself.
        resources: custom resources by name, as declared by the nodes of the cluster.
    """

    num_gpus: float = 1
    accelerator_type: str | None = None
    resources: dict[str, float] = field(default_factory=dict)


@dataclass
class GpuConfig:
    """The device.

    Attributes:
        device: `auto`, `cpu` or `cuda:<index>`.
        name_pattern: regular expression that must match the whole name of the device; null: any device.
        spec: data sheet of the GPU; null if the kind of GPU is not known beforehand.
        slurm: what a job requests from Slurm.
        ray: what a job requests from Ray.
    """

    device: str = "auto"
    name_pattern: str | None = None
    spec: SpecConfig | None = None
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        kind, _, index = self.device.partition(":")
        known = self.device in ("auto", "cpu") or (kind == "cuda" and index.isdecimal())
        require(known, "gpu.device", self.device, "auto, cpu or cuda:<index>")
        try:
            re.compile(self.name_pattern or "")
        except re.error:
            require(False, "gpu.name_pattern", self.name_pattern, "a regular expression")


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


def data_sheet(gpu: GpuConfig) -> HardwareSpec:
    """The data sheet of a GPU that the configuration names, present or not.

    Raises:
        ConfigError: the configuration names a family of cards, or a card without a data sheet.
    """
    pattern = gpu.name_pattern or ""
    name = _file_of(pattern)
    if gpu.spec is not None:
        return gpu.spec.hardware(name, pattern)
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
    name = _file_of(name_pattern)
    if device_name is None:
        raise DeviceError(
            f"gpu={name} is not here: this machine has no GPU, or none that this torch can use; use gpu=auto "
            f"or gpu=cpu to measure, or task=predict to model a {name}"
        )
    raise DeviceError(
        f"gpu={name} is not the device here, which is {device_name}; use gpu=auto to measure, or "
        f"task=predict to model a {name}"
    )


def _file_of(name_pattern: str) -> str:
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
        return SpecConfig(**given, peak_tflops=peaks).hardware(name, pattern)
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise ConfigError(f"conf/gpu/{name}.yaml is not a GPU's data sheet: {error}") from error
