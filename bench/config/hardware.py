"""Data-sheet values of a GPU, as `conf/gpu/<model>.yaml` holds them, in the vendors' units."""

from dataclasses import dataclass, field, fields

from bench.config.check import require


@dataclass
class PeakConfig:
    """Dense peak rates in TFLOP/s, without sparsity; null where the GPU has no such unit.

    Attributes:
        float32: outside tensor cores, as torch computes float32 by default.
        tfloat32: tensor cores on float32, with `torch.set_float32_matmul_precision("high")`.
        bfloat16: tensor cores, accumulated in float32.
        float16: as `bfloat16`.
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
    """What a data sheet says.

    Attributes:
        source: the data sheet's name.
        peak_tflops: dense peak rates.
        memory_bandwidth_gb_per_s: of the GPU's memory, 10^9 bytes per second.
        cache_mib: the last cache before memory (L2; MI300X: Infinity Cache); null where the vendor does
            not say, then the device's own figure is taken when it is present.
        memory_gib: size of the GPU's memory.
    """

    source: str
    memory_bandwidth_gb_per_s: float
    memory_gib: float
    cache_mib: float | None = None
    peak_tflops: PeakConfig = field(default_factory=PeakConfig)

    def __post_init__(self) -> None:
        for name in ("memory_bandwidth_gb_per_s", "memory_gib", "cache_mib"):
            value = getattr(self, name)
            absent = value is None and name == "cache_mib"
            require(absent or value > 0, f"gpu.spec.{name}", value, "above 0")
        require(bool(self.source.strip()), "gpu.spec.source", "''", "the name of the data sheet")
