"""The kinds of records, and the cases of a run.

A case is one thing to measure: the kind of record, and the values that distinguish it from others of that
kind. The identity of a record is its case. A new kind of record is one subclass of `Record` in this file, or
in one that it imports.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bench.acceptance import Intervals, Ratios
from bench.records.imported import ImportedRecord as ImportedRecord
from bench.records.record import Case, Record
from bench.records.served import ServedPartsRecord as ServedPartsRecord
from bench.records.served import ServedRecord as ServedRecord
from bench.variant import PlannedDecode, Variant
from bench.vocab.ranking import Ranking

# First element of the case of a probe that the plan does not rest on.
PILOT, CHECK = "pilot", "check"


@dataclass(frozen=True)
class RankingRecord(Record):
    """The order in which tokens enter a vocabulary.

    Attributes:
        source: text that ranks the tokens: a domain, or the pool of all.
        seen_ids: the must-keep tokens and all counted tokens, in order. All other tokens of the draft follow,
            by increasing id.
        seen_counts: count of each of them, or its share in the pool.
        num_must_keep: number of tokens at the front that are in every vocabulary.
        candidate_ids: tokens of the draft; None if it has all tokens of the target.
    """

    kind = "ranking"
    named_by = ("source",)
    packed = ("seen_ids", "seen_counts", "candidate_ids")

    source: str
    seen_ids: list[int]
    seen_counts: list[float]
    num_must_keep: int
    candidate_ids: list[int] | None

    def ranking(self, full_size: int) -> Ranking:
        """The ranking, including the tokens that were never counted, by increasing id."""
        everything = np.arange(full_size) if self.candidate_ids is None else np.array(self.candidate_ids)
        order = np.concatenate([self.seen_ids, np.setdiff1d(everything, self.seen_ids)]).astype(np.int64)
        counts = np.zeros(len(order))
        counts[: len(self.seen_counts)] = self.seen_counts
        return Ranking(order, counts, len(self.seen_ids), self.num_must_keep)


@dataclass(frozen=True)
class PlanRecord(Record):
    """The variants to decode for one domain.

    Attributes:
        domain: domain of the prompts.
        source: source of the ranking.
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
    """The vocabulary sizes for which the draft is right, at every position and depth of one answer.

    Attributes:
        domain: domain of the prompt.
        prompt_id: id of the prompt.
        source: source of the ranking.
        token_ids: the target's answer.
        low: see `bench.acceptance.Intervals`.
        high: see `bench.acceptance.Intervals`.
        replay_ms: wall time of the pass, which is shared by all rankings.
    """

    kind = "replay"
    named_by = ("domain", "prompt_id", "source")
    packed = ("token_ids", "low", "high")

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
    """The acceptance probability of each token of one sampled answer, for drafts of several sizes.

    Attributes:
        domain: domain of the prompt.
        prompt_id: id of the prompt.
        source: source of the ranking.
        token_ids: the target's answer.
        sizes: vocabulary sizes.
        ratios: see `bench.acceptance.Ratios`.
        replay_ms: wall time of the pass, which is shared by all rankings.
    """

    kind = "sampled_replay"
    case_kind = "replay"
    named_by = ("domain", "prompt_id", "source")
    packed = ("token_ids", "ratios")

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
    """A few speculative rounds, to time their parts.

    Attributes:
        domain: domain of the prompt.
        prompt_id: id of the prompt.
        vocab_size: k.
        draft_length: gamma.
        is_pilot: from a pilot, as runs of earlier versions had it; it is left out of every estimate.
        order: place in the run's randomised order.
        laps_ms: duration of every step by name, in order.
        num_repeats: earlier attempts that were disturbed by something else on the machine.
        start_s: start time, on the clock of the telemetry (`bench.telemetry.samples`).
        end_s: end time.
        is_check: taken among the decodes that test the plan, to judge the prediction at their speed of the
            machine; the plan and what it buys do not rest on it.
        process: number of the process that took it, from 0; see `measure.repeats`.
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
    is_check: bool = False
    process: int = 0

    @property
    def variant(self) -> Variant:
        """The probed variant."""
        return Variant(self.vocab_size, self.draft_length)

    @property
    def identity(self) -> Case:
        """Also says what it was taken for. Random pairs can repeat, so a case can have several records."""
        kind = PILOT if self.is_pilot else CHECK if self.is_check else self.kind
        return (kind, self.domain, self.prompt_id, self.vocab_size, self.draft_length)


@dataclass(frozen=True)
class DecodeRecord(Record):
    """One prompt decoded with one variant.

    Attributes:
        domain: domain of the prompt.
        prompt_id: id of the prompt.
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        order: position in the run's randomised order.
        num_prompt_tokens: number of tokens before the answer.
        token_ids: the answer.
        accepted: number of accepted draft tokens of every round.
        decode_ms: from the end of the target's prefill to the end of the answer, on the device's clock.
        wall_ms: the same on the host's clock.
        laps_ms: duration of every step by name, in order.
        num_repeats: earlier attempts that were disturbed, as for a probe.
        start_s: start time, as for a probe.
        end_s: end time, as for a probe.
        process: number of the process, as for a probe.
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
    process: int = 0

    @property
    def variant(self) -> Variant:
        """How it was decoded."""
        return Variant(self.vocab_size, self.draft_length)


@dataclass(frozen=True)
class SteadyRecord(Record):
    """An energy window: one variant decodes prompt after prompt without a pause, because sensors are slow.

    Attributes:
        domain: domain of the prompts.
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        num_tokens: number of tokens after the first one of every answer. Prefills are outside the window.
        start_s: start time, on the clock of the telemetry.
        end_s: end time.
        window: index of the window of this variant, from 0.
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
    """One part of a round, timed in isolation.

    Attributes:
        part: name of the part, as in the laps.
        vocab_size: k, if the cost of the part depends on it.
        num_tokens: number of input tokens, if the cost of the part depends on it.
        cache: state of the cache at the start of a sample: `cold` or `warm`.
        device_ms: device time of every sample.
        wall_ms: synchronised wall time of as many samples.
        calls_per_sample: number of calls in one sample.
        stopped: why sampling stopped: `precise`, `budget` or `max_samples`.
        relative_half_width: half-width of the median's 95% interval, divided by the median.
        execution: `eager` as in the decoding loop, `compiled`, or `graph`, a CUDA graph.
        num_warmup: number of calls before the first sample; None if not recorded.
        warmup_stable: whether times were stable by then; None if not recorded.
        block_start_s: start time of every block of samples, on the clock of the telemetry.
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
    """A coverage curve given by the user, for a run without a domain.

    Attributes:
        origin: source of the curve.
        sizes: vocabulary sizes, ascending.
        coverage: coverage of each size.
    """

    kind = "coverage"
    named_by = ()

    origin: str
    sizes: list[int]
    coverage: list[float]


@dataclass(frozen=True)
class BaselineRecord(Record):
    """The plain loop compared with `transformers.generate`, on the same weights and prompt.

    Attributes:
        domain: domain of the prompt.
        prompt_id: id of the prompt.
        num_tokens: number of new tokens, the same for both.
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


# Records about the run itself: its processes, its failures, its end.


@dataclass(frozen=True)
class SessionRecord(Record):
    """A process started to work on the run. A run that was resumed has several.

    Attributes:
        started_at: start time, UTC.
        host: name of the machine.
        pid: process id.
        process: number of the process, as for a probe; a process that was resumed has several sessions.
    """

    kind = "session"

    started_at: str
    host: str
    pid: int
    process: int = 0


@dataclass(frozen=True)
class FailureRecord(Record):
    """A case that could not be measured. The other cases are measured.

    Attributes:
        case: the case, as its record would have had it.
        error: class of the error.
        message: first line of the error.
        was_asked_for: whether the user requested the case. If not, as for a CUDA graph where `auto` then
            takes eager execution, the failure is reported but does not fail the run.
    """

    kind = "failure"

    case: list[str | int | float | bool | None]
    error: str
    message: str
    was_asked_for: bool = True


@dataclass(frozen=True)
class EndRecord(Record):
    """The end of a run: everything was measured.

    Attributes:
        ended_at: end time, UTC.
    """

    kind = "end"

    ended_at: str


KINDS: dict[str, type[Record]] = {record_type.kind: record_type for record_type in Record.__subclasses__()}
