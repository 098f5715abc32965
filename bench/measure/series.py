"""Samples of one variant: while they grow, and when they are done."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from bench.config.timing import TimingConfig
from bench.measure.stats import median


class Stopped(StrEnum):
    """Why a variant was sampled no further."""

    precise = "precise"
    budget = "budget"
    max_samples = "max_samples"


@dataclass(frozen=True)
class TimedSeries:
    """All samples of one variant; every time is per call.

    Attributes:
        name: the variant.
        device_ms: device time of every sample, in the order in which they were taken.
        wall_ms: synchronised wall time, as many; taken in the same blocks but not of the same calls.
        num_warmup: calls before the first sample.
        warmup_stable: whether the median had settled by then; else the warm-up ran out of time.
        calls_per_sample: calls that share one sample, because one would be too short to time.
        stopped: why there are no more samples.
        relative_half_width: half of the 95% interval of the median device time, over the median.
        cache: `cold` or `warm`.
        blocks_ns: begin and end of every block on the host's clock (`time.perf_counter_ns`), for telemetry.
    """

    name: str
    device_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    num_warmup: int
    warmup_stable: bool
    calls_per_sample: int
    stopped: Stopped
    relative_half_width: float
    cache: str
    blocks_ns: tuple[tuple[int, int], ...]


def relative_half_width(samples_ms: list[float]) -> float:
    """Half of the 95% interval of the median over the median; infinite when the clock saw no time pass."""
    estimate = median(np.asarray(samples_ms))
    if estimate.value <= 0:
        return float("inf")
    return (estimate.ci_high - estimate.ci_low) / 2 / estimate.value


@dataclass(eq=False)
class Growing:
    """A series that is being measured; attributes as of `TimedSeries`."""

    name: str
    call: Callable[[], object]
    num_warmup: int
    warmup_stable: bool
    calls_per_sample: int
    device_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    blocks_ns: list[tuple[int, int]] = field(default_factory=list)
    half_width: float = float("inf")
    stopped: Stopped | None = None

    def spent_s(self) -> float:
        """Time of all blocks."""
        return sum(end - start for start, end in self.blocks_ns) / 1e9

    def freeze(self, config: TimingConfig) -> TimedSeries:
        """The series, which has stopped."""
        assert self.stopped is not None
        return TimedSeries(
            name=self.name,
            device_ms=tuple(self.device_ms),
            wall_ms=tuple(self.wall_ms),
            num_warmup=self.num_warmup,
            warmup_stable=self.warmup_stable,
            calls_per_sample=self.calls_per_sample,
            stopped=self.stopped,
            relative_half_width=self.half_width,
            cache=config.cache.name,
            blocks_ns=tuple(self.blocks_ns),
        )
