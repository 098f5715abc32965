"""Values of isolated timing: cache state, execution, precision wanted, effort allowed."""

from dataclasses import dataclass
from enum import Enum

from bench.config.check import require


class CacheState(Enum):
    """What is in the device's cache when a sample begins; names are what a user writes."""

    cold = "cold"
    warm = "warm"


class Execution(Enum):
    """How a part is executed; names are what a user writes."""

    auto = "auto"
    eager = "eager"
    compiled = "compiled"
    graph = "graph"


@dataclass
class TimingConfig:
    """How the parts of a round are timed in isolation.

    Attributes:
        isolated: whether a run times them, beside the rounds themselves.
        cache: `cold` evicts the cache before every sample, as the rest of a round does in real decoding;
            `warm` repeats the same work, whose weights may then still be in the cache.
        execution: `eager` launches kernel by kernel, as the decoding loops do; `compiled` is `torch.compile`;
            `graph` is a CUDA graph, whose time is that of the kernels alone; `auto` is eager, and on a CUDA
            GPU as a graph too, because launches may take longer there than the work and hide its cost.
        target_half_width: half of the 95% interval of the median over the median, at which a part is done.
        min_samples: fewest samples that may be called precise.
        max_samples: samples after which a part is done, precise or not.
        samples_per_block: samples of one part before the next part has its turn.
        budget_s: longest sampling of one part, evictions included.
        min_sample_ms: calls shorter than this are repeated within a sample (warm only: a repeated call
            is not cold).
        warmup_tolerance: relative change between the medians of two warm-up windows that is called stable.
        min_warmup_s: shortest warm-up of one part; clocks need time to rise.
        max_warmup_s: longest warm-up of one part.
    """

    isolated: bool = True
    cache: CacheState = CacheState.cold
    execution: Execution = Execution.auto
    target_half_width: float = 0.01
    min_samples: int = 30
    max_samples: int = 1000
    samples_per_block: int = 5
    budget_s: float = 5.0
    min_sample_ms: float = 0.2
    warmup_tolerance: float = 0.02
    min_warmup_s: float = 0.05
    max_warmup_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("target_half_width", "warmup_tolerance"):
            require(0 < getattr(self, name) < 1, f"timing.{name}", getattr(self, name), "between 0 and 1")
        # Below six samples the interval of a median is their whole range, whatever they are.
        require(self.min_samples >= 6, "timing.min_samples", self.min_samples, "at least 6")
        fits = self.max_samples >= self.min_samples
        require(fits, "timing.max_samples", self.max_samples, f"at least min_samples, {self.min_samples}")
        require(self.samples_per_block >= 1, "timing.samples_per_block", self.samples_per_block, "at least 1")
        require(self.budget_s > 0, "timing.budget_s", self.budget_s, "above 0")
        require(self.min_sample_ms >= 0, "timing.min_sample_ms", self.min_sample_ms, "at least 0")
        require(self.min_warmup_s >= 0, "timing.min_warmup_s", self.min_warmup_s, "at least 0")
        fits = self.max_warmup_s >= self.min_warmup_s
        require(fits, "timing.max_warmup_s", self.max_warmup_s, f"at least min_warmup_s, {self.min_warmup_s}")
