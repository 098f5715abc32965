"""Values of a measured run: pair, vocabulary sizes, effort, timing, telemetry."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from bench.config.paths import expand_paths, path_key
from bench.errors import require
from bench.variant import Variant

FULL = "full"

OWN, POOLED = "own", "pooled"

# How `transformers` can spread a model over GPUs.
_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

# Names, in results, of the pairs that come with this program.
_SHIPPED = {
    ("smollm2-135m-instruct", "smollm2-135m-eagle3"): "smollm2-135m",
    ("smollm2-135m-instruct", "smollm2-135m-mtp"): "smollm2-135m-mtp",
    ("smollm2-135m-instruct", "smollm2-135m-sibling"): "smollm2-135m-sibling",
    ("", "gemma-3-270m"): "gemma3-270m",
}


@dataclass
class PairConfig:
    """A target and its draft.

    Attributes:
        name: the name in results; null names the pair after its target and draft.
        target: shipped name, local folder or hub id; empty if only the draft is timed.
        draft: shipped name, local folder or hub id of an EAGLE checkpoint, an MTP module, or a decoder LM
            with the target's tokenizer; `mtp`: the module in the target's own files; for `task=draft`, a
            decoder LM.
        target_revision: hub revision of the target; a commit for reproducible results.
        draft_revision: hub revision of the draft.
        trust_remote_code: lets the repository of the target, or of a decoder-LM draft, run its own Python
            code.
        device_map: `auto` spreads the target over all GPUs, for a target that one cannot hold, from the first
            on; null loads it on `gpu.device`.
        layer_ids: the target's layers that the draft reads, if its configuration names some: as `vllm` takes
            the ids (state after so many layers), as `sglang` does (one later, from `eagle_config` only), or a
            list of layers.
        ignore_keys: keys to ignore in a configuration that is refused because of them.
    """

    name: str | None
    target: str = path_key(may_be_empty=True)
    draft: str = path_key()
    target_revision: str | None = None
    draft_revision: str | None = None
    trust_remote_code: bool = False
    device_map: str | None = None
    layer_ids: Any = "vllm"
    ignore_keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        expand_paths(self, "pair.")
        valid = self.device_map in (None, *_DEVICE_MAPS)
        require(valid, "pair.device_map", self.device_map, f"{', '.join(_DEVICE_MAPS)} or null")
        self._check_layer_ids()
        self._is_derived = self.name is None
        if self.name is None:
            # If one of the two was replaced, the pair needs another name.
            derived = "+".join(_base(model) for model in (self.target, self.draft) if model)
            self.name = _SHIPPED.get((self.target, self.draft), derived)
        valid = bool(re.fullmatch(r"[\w.+-]+", self.name))
        require(valid, "pair.name", self.name, "made of letters, digits, dots, plus, minus and underscores")

    def measure_alone(self) -> None:
        """Names a pair without a name of its own after its draft, as nothing of the target is measured."""
        if self._is_derived:
            self.name = _SHIPPED.get(("", self.draft), _base(self.draft))

    def _check_layer_ids(self) -> None:
        ids = self.layer_ids
        is_list = (
            isinstance(ids, list | tuple) and all(type(i) is int and i >= 0 for i in ids) and len(ids) > 0
        )
        possible = "vllm, sglang or a list of layers such as [2,15,27]"
        require(ids in ("vllm", "sglang") or is_list, "pair.layer_ids", ids, possible)

    @property
    def label(self) -> str:
        """`name`, which is never None after `__post_init__`."""
        assert self.name is not None
        return self.name


def _base(model: str) -> str:
    """The last part of a folder or hub id, safe for use in a folder name."""
    name = Path(model).name if Path(model).name not in ("", "..") else Path(model).resolve().name
    return re.sub(r"[^\w.-]+", "_", name) or "model"


@dataclass
class VocabConfig:
    """The draft vocabularies to measure.

    Attributes:
        sizes: the sizes k at which latency is measured: numbers of tokens, or `full`, which is always
            measured. Between them latency is interpolated linearly. Acceptance is known at every size.
        source: the text that ranks the tokens: `own`: each domain ranks its own; `pooled`: all domains
            together; or the name of one domain or corpus of the run.
        ranking_answers: number of answers of the target that rank the tokens. The target writes those that
            are not in the cache.
        split_seed: seed of the split into ranking and held-out prompts.
        multiple: multiple that an advised size must be of; null takes 64 on a GPU, where matrix kernels work
            in tiles, and 1 on a CPU.
        held_out_share: share of the prompts that are held out for measuring and never rank tokens.
        id_prefix: the page compares with a vocabulary that needs no text: the token ids below this, and what
            every vocabulary must keep. Drafts of no more tokens have no such vocabulary; null: none.
        published: the page compares with a list of tokens that somebody published: an EAGLE-3 draft with a
            trimmed head (folder or hub id), or a file of token ids, as `make export` writes them; null: none.
    """

    sizes: list[str]
    source: str = OWN
    ranking_answers: int = 64
    split_seed: int = 0
    held_out_share: float = 0.2
    multiple: int | None = None
    id_prefix: int | None = 65536
    published: str | None = path_key(None)

    def __post_init__(self) -> None:
        expand_paths(self, "vocab.")
        for size in self.sizes:
            valid = size == FULL or (size.isdecimal() and int(size) >= 1)
            require(valid, "vocab.sizes", size, "a number of tokens of at least 1, or full")
        valid = self.multiple is None or self.multiple >= 1
        require(valid, "vocab.multiple", self.multiple, "at least 1, or null")
        prefix = self.id_prefix
        require(prefix is None or prefix >= 1, "vocab.id_prefix", prefix, "at least 1, or null")
        require(self.ranking_answers >= 1, "vocab.ranking_answers", self.ranking_answers, "at least 1")
        require(0 < self.held_out_share < 1, "vocab.held_out_share", self.held_out_share, "between 0 and 1")

    def trimmed_sizes(self) -> list[int]:
        """The sizes other than `full`, largest first."""
        return sorted({int(size) for size in self.sizes if size != FULL}, reverse=True)


class Execution(Enum):
    """How rounds, or their parts, are executed."""

    auto = "auto"
    eager = "eager"
    compiled = "compiled"
    graph = "graph"


class AdviceRule(Enum):
    """Which of the variants that are as good is advised; see `bench.surface.choice.advise`."""

    fastest = "fastest"
    robust = "robust"
    smallest = "smallest"


@dataclass
class VllmConfig:
    """How `engine=own,vllm` decodes the planned variants again in vLLM.

    Attributes:
        concurrency: requests in flight; all prompts are decoded once at each.
        num_processes: fresh processes of every variant; their order is reversed every second time.
        num_servers: fresh servers (`vllm serve`) of every variant, each loaded by `vllm bench serve` at every
            concurrency; 0: none. A server takes about two minutes on two CPU cores.
        port: that servers listen on, on this machine alone; null: any free one.
        temperatures: further sampling temperatures at which all prompts are decoded; each takes as long
            as all of `concurrency`.
        contexts: further context lengths in tokens: other prompts of the domain are put before each prompt.
            Each takes at least as long as all of `concurrency`.
    """

    concurrency: list[int] = field(default_factory=lambda: [1, 4, 8])
    num_processes: int = 4
    num_servers: int = 0
    port: int | None = None
    temperatures: list[float] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        valid = len(self.concurrency) > 0 and min(self.concurrency) >= 1
        require(valid, "vllm.concurrency", self.concurrency, "a list of numbers of at least 1")
        require(self.num_processes >= 2, "vllm.num_processes", self.num_processes, "at least 2")
        require(self.num_servers >= 0, "vllm.num_servers", self.num_servers, "at least 0")
        valid = self.port is None or 1 <= self.port <= 65535
        require(valid, "vllm.port", self.port, "from 1 to 65535, or null")
        valid = all(temperature > 0 for temperature in self.temperatures)
        require(valid, "vllm.temperatures", self.temperatures, "a list of numbers above 0")
        valid = all(length >= 1 for length in self.contexts)
        require(valid, "vllm.contexts", self.contexts, "a list of numbers of at least 1")
        for name in ("concurrency", "temperatures", "contexts"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"vllm.{name}", values, "a list without repetitions")


@dataclass
class MeasureConfig:
    """The effort of a measurement.

    Attributes:
        draft_lengths: the draft lengths gamma to choose from: tokens drafted per round.
        num_prompts: held-out prompts per domain that are decoded.
        max_new_tokens: longest answer, in tokens.
        warmup_rounds: speculative rounds of every size before measurements count.
        acceptance_prompts: held-out prompts whose acceptance is replayed, `num_prompts` among them, as far as
            a domain has so many; null takes those alone. For the others the target writes answers of up to
            192 tokens once, which are kept. Sampled answers are replayed on `num_prompts` only.
        latency_prompts: held-out prompts on which latency is probed, at least the `num_prompts`, which are
            among them; the others are among those whose acceptance is replayed. null takes `num_prompts`
            alone.
        probe_rounds: rounds of one probe, which times the parts of a round. Every prompt has at least two
            probes of each size and each draft length.
        bootstrap_samples: resamples of the intervals of latencies and of fitted models.
        repeats: fresh processes that probe and decode everything, one after the other, into one run; every
            second one has the reverse order of variants. Intervals then hold between processes; with three,
            they are wide. The first process makes the plan, the acceptance and the parts in isolation.
        seed: seed of prompt order, decoding order, sampling and bootstrap.
        num_threads: CPU threads; null: torch's default, one per core.
        temperature: sampling temperature of target and draft; 0 is greedy decoding.
        top_k: the target samples from this many of its most likely tokens; null: from all.
        top_p: the target samples from its most likely tokens whose probabilities add up to this; null: from
            all.
        also_decode: further pairs "k:gamma" to decode, besides those that every run decodes.
        execution: how rounds are executed. `eager` launches one kernel after the other; `graph` replays CUDA
            graphs, one for the draft's chain and one for the verification, as serving engines do; `compiled`
            runs layers on a CPU as their matrix products and compiled functions between them; `auto` is
            `graph` on a CUDA GPU and `compiled` on a CPU, where target and draft can be executed so, and
            `eager` elsewhere.
    """

    draft_lengths: list[int]
    num_prompts: int
    max_new_tokens: int
    warmup_rounds: int = 2
    acceptance_prompts: int | None = None
    latency_prompts: int | None = None
    probe_rounds: int = 5
    bootstrap_samples: int = 2000
    repeats: int = 1
    seed: int = 0
    num_threads: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    also_decode: list[str] = field(default_factory=list)
    execution: Execution = Execution.auto

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
            ("bootstrap_samples", 100),
            ("repeats", 1),
            ("seed", 0),
        ):
            require(getattr(self, name) >= least, f"measure.{name}", getattr(self, name), f"at least {least}")
        threads = self.num_threads
        require(threads is None or threads >= 1, "measure.num_threads", threads, "at least 1, or null")
        for name in ("acceptance_prompts", "latency_prompts"):
            wanted = getattr(self, name)
            require(wanted is None or wanted >= 1, f"measure.{name}", wanted, "at least 1, or null")
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

    def also(self) -> list[Variant]:
        """`also_decode` as variants."""
        return [Variant(*map(int, pair.split(":"))) for pair in self.also_decode]


@dataclass
class DiffConfig:
    """How two runs are compared.

    Attributes:
        threshold: smallest slowdown that counts, as a share of the time before. A smaller one never fails.
    """

    threshold: float = 0.02

    def __post_init__(self) -> None:
        require(0 <= self.threshold < 1, "diff.threshold", self.threshold, "at least 0 and below 1")


@dataclass
class LimitsConfig:
    """Limits beyond which a figure is INVALID. A run keeps those that it was started with.

    Each is judged on one domain. Past a limit, the figures that it touches are INVALID, the report says what
    to do, and the program exits with 1. Null: the condition is not judged.

    Attributes:
        drift: change of the time of plain decoding from the first half of a domain's decodes to the second.
            It touches tokens/s, predictions and the speed over plain decoding. The ratio of two drafts, which
            are interleaved, survives it.
        disturbed: share of the probes and decodes that other work disturbed and that were repeated. It
            touches every figure.
        foreign_load: share of the measuring time in which other programs took more of the CPUs than
            `foreign_load_above`, or of the time from the first measurement to the last, whichever is more. It
            touches every figure of a run on the CPU; it is not judged on a GPU.
        foreign_load_above: share of all CPUs.
        throttled: share of the measuring time in which power, temperature or a fault slowed the GPU down. It
            touches what `drift` touches.
        launch_ratio: time of a round launched kernel by kernel, over what it computes without waiting for
            launches, where rounds are executed eagerly on a GPU. It touches tokens/s and both speedups. Of
            runs of earlier versions it is the ratio of an LM head or a draft step.
        half_width: half of the interval of a speedup, as a share of it. It touches that speedup.
        residual: how far the expected speedup lies outside the interval of the decoded one, as a share. It
            touches that speedup and predictions.
    """

    drift: float | None = 0.2
    disturbed: float | None = 0.2
    foreign_load: float | None = 0.1
    foreign_load_above: float = 0.25
    throttled: float | None = 0.1
    launch_ratio: float | None = 1.1
    half_width: float | None = 0.25
    residual: float | None = 0.1

    def __post_init__(self) -> None:
        for name in ("drift", "half_width", "residual"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, f"limits.{name}", limit, "above 0, or null")
        for name in ("disturbed", "foreign_load", "throttled"):
            limit = getattr(self, name)
            require(limit is None or 0 <= limit <= 1, f"limits.{name}", limit, "from 0 to 1, or null")
        ratio = self.launch_ratio
        require(ratio is None or ratio >= 1, "limits.launch_ratio", ratio, "at least 1, or null")
        above = self.foreign_load_above
        require(0 < above < 1, "limits.foreign_load_above", above, "between 0 and 1")


class TelemetryMode(Enum):
    """Whether power, clocks and load are sampled during a run."""

    auto = "auto"
    required = "required"
    off = "off"


@dataclass
class TelemetryConfig:
    """What is sampled during a run.

    Attributes:
        mode: `auto` samples what the machine offers; `required` refuses to run on a CPU, or without NVML;
            `off` samples nothing.
        interval_ms: time between samples.
        steady_s: length of an energy window. Energy sensors are too slow for a single decode, so each planned
            decode runs without a pause for this long, twice. The window is made longer if the sensors need
            it. There is none on a device without an energy reading, or on a CPU whose decodes are long enough
            for its counters. 0: no windows.
    """

    mode: TelemetryMode = TelemetryMode.auto
    interval_ms: int = 100
    steady_s: float = 3.0

    def __post_init__(self) -> None:
        require(self.interval_ms >= 10, "telemetry.interval_ms", self.interval_ms, "at least 10")
        require(self.steady_s >= 0, "telemetry.steady_s", self.steady_s, "at least 0")


class CacheState(Enum):
    """What is in the device's cache when a sample begins."""

    cold = "cold"
    warm = "warm"


@dataclass
class TimingConfig:
    """How the parts of a round are timed in isolation.

    Attributes:
        isolated: times the parts in isolation, besides the timing inside rounds.
        cache: `cold` evicts the cache before every sample, as the rest of a round does in real decoding;
            `warm` repeats the same work, whose weights may still be in the cache.
        execution: `eager` launches one kernel after the other, as the decoding loop does; `compiled` uses
            `torch.compile`; `graph` replays a CUDA graph, so that only the kernels take time; `auto` is
            `graph` on a CUDA GPU, where launches can take longer than the kernels and hide them, and `eager`
            elsewhere.
        target_half_width: stops timing a part once the half-width of the median's 95% interval is this share
            of the median.
        min_samples: smallest number of samples before a part can count as precise.
        max_samples: largest number of samples of a part.
        samples_per_block: samples of one part before the next part has its turn.
        budget_s: longest time to sample one part, cache evictions included.
        min_sample_ms: shorter calls are repeated within one sample (only `warm`: a repeated call is not
            cold).
        warmup_tolerance: a warm-up is stable if the medians of two windows differ by less than this share.
        min_warmup_s: shortest warm-up of a part; clocks need time to rise.
        max_warmup_s: longest warm-up of a part.
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
        # With fewer than six samples, the interval of the median is always their whole range.
        require(self.min_samples >= 6, "timing.min_samples", self.min_samples, "at least 6")
        fits = self.max_samples >= self.min_samples
        require(fits, "timing.max_samples", self.max_samples, f"at least min_samples, {self.min_samples}")
        require(self.samples_per_block >= 1, "timing.samples_per_block", self.samples_per_block, "at least 1")
        require(self.budget_s > 0, "timing.budget_s", self.budget_s, "above 0")
        require(self.min_sample_ms >= 0, "timing.min_sample_ms", self.min_sample_ms, "at least 0")
        require(self.min_warmup_s >= 0, "timing.min_warmup_s", self.min_warmup_s, "at least 0")
        fits = self.max_warmup_s >= self.min_warmup_s
        require(fits, "timing.max_warmup_s", self.max_warmup_s, f"at least min_warmup_s, {self.min_warmup_s}")
