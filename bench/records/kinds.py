"""The kinds of records: what a run writes down of each case, and which cases a run has.

A case names what is measured: the kind of measurement first, then what tells it from others of its kind; a
record's identity is the case that it is of. A new kind of record is one subclass of `Record` here.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from bench.acceptance import Intervals, Ratios
from bench.variant import PlannedDecode, Variant
from bench.vocab.ranking import Ranking

Case = tuple[str | int | bool | None, ...]

# What the case of a pilot's probe begins with.
PILOT = "pilot"


@dataclass(frozen=True)
class Record:
    """One line of a run's file; every field is a value of JSON.

    Attributes:
        kind: as the file says it.
        named_by: fields that tell a record from others of its kind; None where nothing is measured.
        case_kind: what its case begins with; the kind unless given.
    """

    kind: ClassVar[str]
    named_by: ClassVar[tuple[str, ...] | None] = None
    case_kind: ClassVar[str | None] = None

    @classmethod
    def case_of(cls, *names: str | int | None) -> Case:
        """The case of the record that these fields will name, in the order of `named_by`."""
        return (cls.case_kind or cls.kind, *names)

    @property
    def identity(self) -> Case | None:
        """The case that it is of; None where nothing is measured."""
        if self.named_by is None:
            return None
        return self.case_of(*(getattr(self, name) for name in self.named_by))


@dataclass(frozen=True)
class RankingRecord(Record):
    """The order in which tokens enter a vocabulary.

    Attributes:
        source: what it was ranked on: a domain, or the pool of all.
        seen_ids: the must-keep tokens and all that were counted, in order; every other token that the draft
            has follows by rising id.
        seen_counts: how often each of them was counted, or its expected share in a pool.
        num_must_keep: tokens at the front that every size holds.
        candidate_ids: tokens that the draft has; None when it has all of the target's.
    """

    kind = "ranking"
    named_by = ("source",)

    source: str
    seen_ids: list[int]
    seen_counts: list[float]
    num_must_keep: int
    candidate_ids: list[int] | None

    def ranking(self, full_size: int) -> Ranking:
        """With the tokens that were never counted, by rising id."""
        everything = np.arange(full_size) if self.candidate_ids is None else np.array(self.candidate_ids)
        order = np.concatenate([self.seen_ids, np.setdiff1d(everything, self.seen_ids)]).astype(np.int64)
        counts = np.zeros(len(order))
        counts[: len(self.seen_counts)] = self.seen_counts
        return Ranking(order, counts, len(self.seen_ids), self.num_must_keep)


@dataclass(frozen=True)
class PlanRecord(Record):
    """What is decoded of a domain, chosen from a pilot.

    Attributes:
        domain: of the prompts.
        source: of the ranking that the vocabularies follow.
        variants: (vocabulary size, draft length, role) of each.
    """

    kind = "plan"
    named_by = ("domain",)

    domain: str
    source: str
    variants: list[tuple[int, int, str]]

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "variants", [(k, gamma, role) for k, gamma, role in self.variants])

    @classmethod
    def of(cls, domain: str, source: str, planned: Iterable[PlannedDecode]) -> "PlanRecord":
        """Of what is to be decoded."""
        decodes = [(item.variant.vocab_size, item.variant.draft_length, item.role) for item in planned]
        return cls(domain, source, decodes)

    @property
    def planned(self) -> list[PlannedDecode]:
        """What is decoded, in the order of the plan."""
        return [PlannedDecode(Variant(k, gamma), role) for k, gamma, role in self.variants]


@dataclass(frozen=True)
class ReplayRecord(Record):
    """For which vocabulary sizes the draft is right, at every place and depth of one answer.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        source: of the ranking.
        token_ids: the target's answer.
        low: as `bench.acceptance.Intervals`.
        high: as `low`.
        replay_ms: wall time of the pass, which serves all rankings.
    """

    kind = "replay"
    named_by = ("domain", "prompt_id", "source")

    domain: str
    prompt_id: str
    source: str
    token_ids: list[int]
    low: list[list[int]]
    high: list[list[int]]
    replay_ms: float

    def replayed(self) -> Intervals:
        """As arrays; the answer must have more than one token."""
        return Intervals(np.array(self.low, dtype=np.int64), np.array(self.high, dtype=np.int64))


@dataclass(frozen=True)
class SampledReplayRecord(Record):
    """How likely a draft of each size would have had each token of one sampled answer accepted.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        source: of the ranking.
        token_ids: the target's answer.
        sizes: vocabulary sizes.
        ratios: as `bench.acceptance.Ratios`.
        replay_ms: wall time of the pass, which serves all rankings.
    """

    kind = "sampled_replay"
    case_kind = "replay"
    named_by = ("domain", "prompt_id", "source")

    domain: str
    prompt_id: str
    source: str
    token_ids: list[int]
    sizes: list[int]
    ratios: list[list[list[float]]]
    replay_ms: float

    def replayed(self) -> Ratios:
        """As arrays; the answer must have more than one token."""
        return Ratios(np.array(self.ratios), np.array(self.sizes))


@dataclass(frozen=True)
class ProbeRecord(Record):
    """A few speculative rounds, timed for the latency of their parts.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        vocab_size: k.
        draft_length: gamma.
        is_pilot: from before the plan; it informs the choice, not the report.
        order: place in the run's randomised order.
        laps_ms: duration of every step by name, in order.
        num_repeats: attempts before this one that something else on the machine disturbed.
        start_s: when it began, on the clock of the telemetry (`bench.telemetry.samples`).
        end_s: when it ended.
    """

    kind = "probe"
    named_by = ("domain", "prompt_id", "vocab_size", "draft_length")

    domain: str
    prompt_id: str
    vocab_size: int
    draft_length: int
    is_pilot: bool
    order: int
    laps_ms: dict[str, list[float]]
    num_repeats: int = 0
    start_s: float | None = None
    end_s: float | None = None

    @property
    def variant(self) -> Variant:
        """What was probed."""
        return Variant(self.vocab_size, self.draft_length)

    @property
    def identity(self) -> Case:
        """Of the pilot or not. Random pairs may repeat, so that a case has several records."""
        kind = PILOT if self.is_pilot else self.kind
        return (kind, self.domain, self.prompt_id, self.vocab_size, self.draft_length)


@dataclass(frozen=True)
class DecodeRecord(Record):
    """One prompt decoded by one variant.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        order: place in the run's randomised order.
        num_prompt_tokens: tokens before the answer.
        token_ids: the answer.
        accepted: accepted draft tokens of every round.
        decode_ms: from the end of the target's prefill to the end of the answer, on the device's clock.
        wall_ms: the same on the host's clock.
        laps_ms: duration of every step by name, in order.
        num_repeats: as of a probe.
        start_s: as of a probe.
        end_s: as of a probe.
    """

    kind = "decode"
    named_by = ("domain", "prompt_id", "vocab_size", "draft_length")

    domain: str
    prompt_id: str
    vocab_size: int
    draft_length: int
    order: int
    num_prompt_tokens: int
    token_ids: list[int]
    accepted: list[int]
    decode_ms: float
    wall_ms: float
    laps_ms: dict[str, list[float]]
    num_repeats: int = 0
    start_s: float | None = None
    end_s: float | None = None

    @property
    def variant(self) -> Variant:
        """How it was decoded."""
        return Variant(self.vocab_size, self.draft_length)


@dataclass(frozen=True)
class SteadyRecord(Record):
    """One variant decoding prompt after prompt without a pause, for sensors that are slow.

    Attributes:
        domain: of the prompts.
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        num_tokens: tokens after the first of every answer. The prompts were read before.
        start_s: when it began, on the clock of the telemetry.
        end_s: when it ended.
        window: which of the variant's windows, from 0.
    """

    kind = "steady"
    named_by = ("domain", "vocab_size", "draft_length", "window")

    domain: str
    vocab_size: int
    draft_length: int
    num_tokens: int
    start_s: float
    end_s: float
    window: int = 0

    @property
    def variant(self) -> Variant:
        """How it was decoded."""
        return Variant(self.vocab_size, self.draft_length)


@dataclass(frozen=True)
class IsolatedRecord(Record):
    """One part of a round, timed on its own.

    Attributes:
        part: name of the part, as of the laps.
        vocab_size: k, for parts whose cost depends on it.
        num_tokens: tokens taken in at once, for parts whose cost depends on that.
        cache: `cold` or `warm` when a sample begins.
        device_ms: device time of every sample.
        wall_ms: synchronised wall time of as many.
        calls_per_sample: calls that share one sample.
        stopped: why there are no more samples: `precise`, `budget` or `max_samples`.
        relative_half_width: half of the 95% interval of the median over the median.
        execution: `eager` as the decoding loops do, `compiled`, or `graph`, a CUDA graph.
        num_warmup: calls before the first sample; None where it was not recorded.
        warmup_stable: whether times had settled by then; None where it was not recorded.
        block_start_s: when every block of samples began, on the clock of the telemetry.
    """

    kind = "isolated"
    named_by = ("part", "vocab_size", "num_tokens", "cache", "execution")

    part: str
    vocab_size: int | None
    num_tokens: int | None
    cache: str
    device_ms: list[float]
    wall_ms: list[float]
    calls_per_sample: int
    stopped: str
    relative_half_width: float
    execution: str = "eager"
    num_warmup: int | None = None
    warmup_stable: bool | None = None
    block_start_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class CoverageRecord(Record):
    """What share of tokens k tokens cover, as the user gave it to a run that has no domain.

    Attributes:
        origin: where it is from.
        sizes: vocabulary sizes, ascending.
        coverage: of each.
    """

    kind = "coverage"
    named_by = ()

    origin: str
    sizes: list[int]
    coverage: list[float]


@dataclass(frozen=True)
class BaselineRecord(Record):
    """The plain loop against `transformers.generate`, on the same weights and prompt.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        num_tokens: new tokens, the same for both.
        plain_ms: wall time of the plain loop, prefill included.
        generate_ms: wall time of `generate`, prefill included.
    """

    kind = "baseline"
    named_by = ("domain",)

    domain: str
    prompt_id: str
    num_tokens: int
    plain_ms: float
    generate_ms: float


@dataclass(frozen=True)
class SessionRecord(Record):
    """A process began to work on the run; a run that was killed has several.

    Attributes:
        started_at: UTC.
        host: machine.
        pid: process.
    """

    kind = "session"

    started_at: str
    host: str
    pid: int


@dataclass(frozen=True)
class FailureRecord(Record):
    """A case that could not be measured; the others were.

    Attributes:
        case: as its record would have named it.
        error: class of the error.
        message: its first line.
        was_asked_for: whether the run is less than what was asked for without it; what was only tried, such
            as a graph beside an eager part, is shown and fails no run.
    """

    kind = "failure"

    case: list[str | int | bool | None]
    error: str
    message: str
    was_asked_for: bool = True


@dataclass(frozen=True)
class EndRecord(Record):
    """Everything was measured; what comes after this line belongs to no run.

    Attributes:
        ended_at: UTC.
    """

    kind = "end"

    ended_at: str


KINDS: dict[str, type[Record]] = {record_type.kind: record_type for record_type in Record.__subclasses__()}


class Done:
    """Records of earlier sessions, each handed out once."""

    def __init__(self, records: Iterable[Record] = ()):
        self._left: dict[Case, list[Record]] = defaultdict(list)
        self.num_records = self.last_order = 0
        for record in records:
            self.last_order = max(self.last_order, getattr(record, "order", 0))
            if case := record.identity:
                self._left[case].append(record)
                self.num_records += 1

    def take(self, case: Case) -> Any:
        """The next record of a case, or None where it is still to be measured."""
        found = self._left.get(case)
        return found.pop(0) if found else None

    def has(self, case: Case) -> bool:
        """Whether there is one that was not handed out yet."""
        return bool(self._left.get(case))
