"""The typed configuration: what every YAML value means and which values are possible."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bench.errors import ConfigError, DomainError

FULL = "full"
DTYPES = ("auto", "bfloat16", "float32")
DEVICES_HINT = "auto, cpu or cuda:<index>"


class Task(Enum):
    """What one invocation does; names are what a user writes, as Hydra reads enums by name."""

    bench = "bench"
    report = "report"


class Source(Enum):
    """Where a domain's prompts come from; named as `Task` is."""

    human_eval = "human_eval"
    bfcl = "bfcl"
    writing_bench = "writing_bench"
    jsonl = "jsonl"


@dataclass
class PairConfig:
    """A target and its draft.

    Attributes:
        name: as it appears in results.
        target: catalogue name, local folder or hub id.
        target_revision: hub revision, a commit for results that repeat.
        draft: shipped name, local folder or hub id of an EAGLE-3 checkpoint.
        draft_revision: as `target_revision`.
        trust_remote_code: lets the target's repository run its own Python. Off unless you set it.
    """

    name: str
    target: str
    draft: str
    target_revision: str | None = None
    draft_revision: str | None = None
    trust_remote_code: bool = False


@dataclass
class DomainSource:
    """One domain.

    Attributes:
        name: as it appears in results.
        source: which loader reads it.
        path: the file of a `jsonl` domain.
        max_prompt_tokens: longer prompts are left out.
    """

    name: str
    source: Source
    path: str | None = None
    max_prompt_tokens: int = 512

    def __post_init__(self) -> None:
        _require(
            self.max_prompt_tokens >= 1, "domain.max_prompt_tokens", self.max_prompt_tokens, "at least 1"
        )
        if self.source is Source.jsonl and not self.path:
            raise DomainError("domain=jsonl needs the file to read: add domain.path=FILE.jsonl")


@dataclass
class DomainConfig:
    """What `domain=` chose: one domain, or a named set that is measured in one run.

    Attributes:
        name: as it appears in the run's name.
        source: as in `DomainSource`; empty for a set.
        path: as in `DomainSource`.
        max_prompt_tokens: as in `DomainSource`.
        members: the domains of a set, by name.
    """

    name: str
    source: Source | None = None
    path: str | None = None
    max_prompt_tokens: int = 512
    members: dict[str, DomainSource] = field(default_factory=dict)

    def sources(self) -> list[DomainSource]:
        """The domains to measure."""
        if self.members:
            return list(self.members.values())
        if self.source is None:
            raise ConfigError(f"domain {self.name!r} names neither a source nor members")
        return [DomainSource(self.name, self.source, self.path, self.max_prompt_tokens)]


@dataclass
class GpuConfig:
    """The device.

    Attributes:
        device: `auto`, `cpu` or `cuda:<index>`.
    """

    device: str = "auto"

    def __post_init__(self) -> None:
        kind, _, index = self.device.partition(":")
        known = self.device in ("auto", "cpu") or (kind == "cuda" and index.isdecimal())
        _require(known, "gpu.device", self.device, DEVICES_HINT)


@dataclass
class VocabConfig:
    """Which draft vocabularies to measure.

    Attributes:
        sizes: numbers of tokens, or `full`; the full vocabulary is always measured, as the baseline.
        ranking_answers: answers of the target that a ranking needs; it writes them where they are not
            known yet.
        split_seed: of the split into ranking and held-out prompts.
        held_out_share: share of the prompts that only judge.
    """

    sizes: list[str]
    ranking_answers: int = 64
    split_seed: int = 0
    held_out_share: float = 0.2

    def __post_init__(self) -> None:
        for size in self.sizes:
            valid = size == FULL or (size.isdecimal() and int(size) >= 1)
            _require(valid, "vocab.sizes", size, "a number of tokens of at least 1, or full")
        _require(self.ranking_answers >= 1, "vocab.ranking_answers", self.ranking_answers, "at least 1")
        _require(0 < self.held_out_share < 1, "vocab.held_out_share", self.held_out_share, "between 0 and 1")

    def trimmed_sizes(self) -> list[int]:
        """The sizes other than `full`, largest first."""
        return sorted({int(size) for size in self.sizes if size != FULL}, reverse=True)


@dataclass
class MeasureConfig:
    """How to measure.

    Attributes:
        draft_lengths: gammas, tokens drafted per round.
        num_prompts: held-out prompts per domain.
        max_new_tokens: longest answer.
        warmup_tokens: tokens decoded by every variant before anything is kept.
        bootstrap_samples: resamples behind every interval.
        seed: of prompt order, variant order and bootstrap.
        num_threads: CPU threads; null leaves torch its default, one per core.
    """

    draft_lengths: list[int]
    num_prompts: int
    max_new_tokens: int
    warmup_tokens: int = 8
    bootstrap_samples: int = 2000
    seed: int = 0
    num_threads: int | None = None

    def __post_init__(self) -> None:
        _require(
            len(self.draft_lengths) > 0, "measure.draft_lengths", "[]", "a list with at least one number"
        )
        for gamma in self.draft_lengths:
            _require(
                gamma >= 1, "measure.draft_lengths", gamma, "at least 1 (plain decoding is always measured)"
            )
        for name, least in (
            ("num_prompts", 1),
            ("max_new_tokens", 2),
            ("warmup_tokens", 2),
            ("bootstrap_samples", 100),
            ("seed", 0),
        ):
            _require(
                getattr(self, name) >= least, f"measure.{name}", getattr(self, name), f"at least {least}"
            )
        threads = self.num_threads
        _require(threads is None or threads >= 1, "measure.num_threads", threads, "at least 1, or null")


@dataclass
class Config:
    """Everything one run depends on."""

    pair: PairConfig
    domain: DomainConfig
    gpu: GpuConfig
    vocab: VocabConfig
    measure: MeasureConfig
    task: Task = Task.bench
    dtype: str = "auto"
    results_dir: str = "results"
    run: str = "latest"

    def __post_init__(self) -> None:
        _require(self.dtype in DTYPES, "dtype", self.dtype, " or ".join(DTYPES))

    @property
    def runs_dir(self) -> Path:
        """Where runs are kept."""
        return Path(self.results_dir) / "runs"


def _require(condition: bool, name: str, value: object, possible: str) -> None:
    if not condition:
        raise ConfigError(f"{name}={value} is impossible: it must be {possible}")
