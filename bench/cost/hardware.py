"""Peak rates of a device, from a data sheet (`bench.config.gpu`) or a probe (`bench.device.probe`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.errors import ConfigError


@dataclass(frozen=True)
class DeviceLimits:
    """Peak rates of one device in one dtype, for latency models.

    Attributes:
        name: of the device, for messages.
        dtype: of the arithmetic, as torch names it.
        flops_per_s: dense peak; None if the device has no unit for the dtype, or the vendor gives no figure.
        bytes_per_s: bandwidth of its memory.
        cache_bytes: last cache before memory; None where unknown.
        num_multiprocessors: that run a kernel's blocks side by side; None where unknown.
    """

    name: str
    dtype: str
    flops_per_s: float | None
    bytes_per_s: float
    cache_bytes: int | None
    num_multiprocessors: int | None = None


@dataclass(frozen=True)
class HardwareSpec:
    """Peak rates of one device, in bytes, FLOP/s and bytes/s.

    Attributes:
        name: of the model, as in `conf/gpu`.
        source: where the values are from.
        name_pattern: regular expression that the whole device name matches; None for a measured device.
        peak_flops_per_s: dense, by torch dtype name (`bfloat16`), and `tfloat32`; without those it lacks.
        memory_bytes_per_s: bandwidth of its memory.
        cache_bytes: last cache before memory; None where unknown.
        memory_bytes: size of its memory; None where unknown.
        num_multiprocessors: that run a kernel's blocks side by side; None where unknown.
    """

    name: str
    source: str
    name_pattern: str | None
    peak_flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float
    cache_bytes: int | None
    memory_bytes: int | None
    num_multiprocessors: int | None = None

    def __post_init__(self) -> None:
        rates = [self.memory_bytes_per_s, *self.peak_flops_per_s.values()]
        if not all(rate > 0 for rate in rates):
            raise ConfigError(f"hardware {self.name}: rates must be above 0, not {rates}")

    def peak(self, dtype: str) -> float | None:
        """Dense FLOP/s in `dtype`; None if the device has no unit for it, or the vendor gives no figure."""
        return self.peak_flops_per_s.get(dtype)

    def limits(self, dtype: str) -> DeviceLimits:
        """The rates of one dtype."""
        peak, rate = self.peak(dtype), self.memory_bytes_per_s
        return DeviceLimits(self.name, dtype, peak, rate, self.cache_bytes, self.num_multiprocessors)

    def with_cache(self, cache_bytes: int) -> "HardwareSpec":
        """The same with the cache size that the device reports, if the data sheet has none."""
        return self if self.cache_bytes is not None else replace(self, cache_bytes=cache_bytes)
