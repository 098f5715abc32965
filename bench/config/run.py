"""Values of one measured run: pair, vocabulary sizes, effort."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bench.errors import require

FULL = "full"

OWN, POOLED = "own", "pooled"

# What pairs that come with this program are called in results.
_SHIPPED = {("smollm2-135m-instruct", "smollm2-135m-eagle3"): "smollm2-135m"}


@dataclass
class PairConfig:
    """A target and its draft.

    Attributes:
        name: as it appears in results; None names the pair after its target and draft.
        target: catalogue name, local folder or hub id; empty where a draft is only measured on its own.
        target_revision: hub revision, a commit for results that repeat.
        draft: shipped name, local folder or hub id of an EAGLE-3 checkpoint; for task=draft catalogue name,
            local folder or hub id of a decoder LM.
        draft_revision: as `target_revision`.
        trust_remote_code: lets the repository of the target, or of a decoder-LM draft, run its own Python.
            Off unless you set it.
    """

    name: str | None
    target: str
    draft: str
    target_revision: str | None = None
    draft_revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.name is None:
            # A pair of which one half was exchanged must not go by the name of the whole.
            derived = "+".join(_base(model) for model in (self.target, self.draft) if model)
            self.name = _SHIPPED.get((self.target, self.draft), derived)
        valid = bool(re.fullmatch(r"[\w.+-]+", self.name))
        require(valid, "pair.name", self.name, "made of letters, digits, dots, plus, minus and underscores")

    @property
    def label(self) -> str:
        """`name`, which is always known once the values are."""
        assert self.name is not None
        return self.name


def _base(model: str) -> str:
    """The last part of a folder or hub id, as it may stand in the name of a folder."""
    name = Path(model).name if Path(model).name not in ("", "..") else Path(model).resolve().name
    return re.sub(r"[^\w.-]+", "_", name) or "model"


@dataclass
class VocabConfig:
    """Which draft vocabularies to measure.

    Attributes:
        sizes: at which latency is measured: numbers of tokens, or `full`, which is always measured. Between
            them latency follows straight lines; acceptance is known at every size.
        source: what the vocabularies are ranked on: `own` for each domain itself, `pooled` for all together,
            or the name of one of the run's domains or corpora.
        ranking_answers: answers of the target that a ranking needs; it writes them where they are not
            known yet.
        split_seed: of the split into ranking and held-out prompts.
        held_out_share: share of the prompts that only judge.
    """

    sizes: list[str]
    source: str = OWN
    ranking_answers: int = 64
    split_seed: int = 0
    held_out_share: float = 0.2

    def __post_init__(self) -> None:
        for size in self.sizes:
            valid = size == FULL or (size.isdecimal() and int(size) >= 1)
            require(valid, "vocab.sizes", size, "a number of tokens of at least 1, or full")
        require(self.ranking_answers >= 1, "vocab.ranking_answers", self.ranking_answers, "at least 1")
        require(0 < self.held_out_share < 1, "vocab.held_out_share", self.held_out_share, "between 0 and 1")

    def trimmed_sizes(self) -> list[int]:
        """The sizes other than `full`, largest first."""
        return sorted({int(size) for size in self.sizes if size != FULL}, reverse=True)


@dataclass
class MeasureConfig:
    """How to measure.

    Attributes:
        draft_lengths: gammas to choose from, tokens drafted per round.
        also_decode: further "k:gamma" to prove by decoding, beside those that every run proves.
        num_prompts: held-out prompts per domain.
        max_new_tokens: longest answer.
        warmup_rounds: speculative rounds of every size before anything is kept.
        probe_rounds: rounds in which the latency of a round's parts is measured, for each of the sizes and
            draft lengths on every prompt twice or more.
        pilot_prompts: prompts probed beforehand, from which the variants to decode are chosen.
        bootstrap_samples: resamples behind every interval.
        temperature: at which the target samples and the draft proposes; 0 is greedy.
        top_k: the target samples from so many of its likeliest tokens; null from all.
        top_p: the target samples from its likeliest tokens that together reach this; null from all.
        seed: of prompt order, variant order, sampling and bootstrap.
        num_threads: CPU threads; null leaves torch its default, one per core.
    """

    draft_lengths: list[int]
    num_prompts: int
    max_new_tokens: int
    warmup_rounds: int = 2
    probe_rounds: int = 5
    pilot_prompts: int = 2
    bootstrap_samples: int = 2000
    seed: int = 0
    num_threads: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    also_decode: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(len(self.draft_lengths) > 0, "measure.draft_lengths", "[]", "a list with at least one number")
        for gamma in self.draft_lengths:
            require(
                gamma >= 1, "measure.draft_lengths", gamma, "at least 1 (plain decoding is always measured)"
            )
        for name, least in (
            ("num_prompts", 1),
            ("max_new_tokens", 2),
            ("warmup_rounds", 1),
            ("probe_rounds", 2),
            ("pilot_prompts", 1),
            ("bootstrap_samples", 100),
            ("seed", 0),
        ):
            require(getattr(self, name) >= least, f"measure.{name}", getattr(self, name), f"at least {least}")
        threads = self.num_threads
        require(threads is None or threads >= 1, "measure.num_threads", threads, "at least 1, or null")
        require(self.temperature >= 0, "measure.temperature", self.temperature, "0 (greedy) or above")
        top_k, top_p = self.top_k, self.top_p
        require(top_k is None or top_k >= 1, "measure.top_k", top_k, "at least 1, or null")
        require(top_p is None or 0 < top_p <= 1, "measure.top_p", top_p, "above 0 and at most 1, or null")
        greedy_cut = self.temperature == 0 and (top_k is not None or top_p is not None)
        require(not greedy_cut, "measure.temperature", 0, "above 0 beside measure.top_k or measure.top_p")
        for pair in self.also_decode:
            size, _, length = pair.partition(":")
            valid = size.isdecimal() and length.isdecimal() and int(size) >= 1
            require(
                valid and int(length) in self.draft_lengths,
                "measure.also_decode",
                pair,
                "k:gamma such as 2048:3, with gamma among measure.draft_lengths",
            )

    def also(self) -> list[tuple[int, int]]:
        """`also_decode` as numbers."""
        return [(int(size), int(gamma)) for size, gamma in (pair.split(":") for pair in self.also_decode)]


@dataclass
class DiffConfig:
    """How two runs are judged against each other.

    Attributes:
        threshold: slowdown that matters, a share of the time before; smaller ones never fail.
    """

    threshold: float = 0.02

    def __post_init__(self) -> None:
        require(0 <= self.threshold < 1, "diff.threshold", self.threshold, "at least 0 and below 1")


# Whether power, clocks and load are sampled beside a run.


class TelemetryMode(Enum):
    """Names are what a user writes."""

    auto = "auto"
    required = "required"
    off = "off"


@dataclass
class TelemetryConfig:
    """What is sampled beside a run.

    Attributes:
        mode: `auto` samples what the machine tells; `required` refuses to run on a CPU, and where NVML does
            not answer; `off` samples nothing.
        interval_ms: between samples.
        steady_s: how long each proved variant decodes without a pause, twice, on a device that tells its
            energy, so that energy per token is known; sensors are too slow for single decodes. It is never
            shorter than sensors that are read at this interval need, and left out on a CPU whose decodes are
            long enough for its counters. 0 leaves it out.
    """

    mode: TelemetryMode = TelemetryMode.auto
    interval_ms: int = 100
    steady_s: float = 3.0

    def __post_init__(self) -> None:
        require(self.interval_ms >= 10, "telemetry.interval_ms", self.interval_ms, "at least 10")
        require(self.steady_s >= 0, "telemetry.steady_s", self.steady_s, "at least 0")


# Values of isolated timing: cache state, execution, precision wanted, effort allowed.


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
