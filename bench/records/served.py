"""Records of what another engine decoded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.records.record import Record
from bench.variant import Variant


@dataclass(frozen=True)
class ServedRecord(Record):
    """All prompts of a domain decoded with one variant by another engine, in a process of its own.

    Attributes:
        engine: name of the engine.
        domain: domain of the prompts.
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        concurrency: number of requests in flight.
        process: index of the process of this variant, from 0.
        engine_version: version of the engine.
        load_s: time that it took to load target and draft.
        wall_ms: from the first request to the end of the last.
        prompt_ids: ids of the prompts.
        token_ids: the answer to each of them.
        num_new: of each of them, the tokens of every step that brought some; 1 + accepted for a round.
        at_ms: when these tokens came, from the moment that the request was added.
        counters: the engine's own counts of drafting, by its names for them.
        texts: the answers, where the engine gives text alone; `token_ids` and `num_new` are then empty.
        num_tokens: of each of these answers.
        temperature: of sampling; None: that of the run.
        context_tokens: length to which earlier prompts were put before each prompt; None: nothing was.
    """

    kind = "served"
    named_by = (
        *("engine", "domain", "vocab_size", "draft_length", "concurrency", "process"),
        *("temperature", "context_tokens"),
    )

    engine: str
    domain: str
    vocab_size: int
    draft_length: int
    concurrency: int
    process: int
    engine_version: str
    load_s: float
    wall_ms: float
    prompt_ids: list[str]
    token_ids: list[list[int]]
    num_new: list[list[int]]
    at_ms: list[list[float]]
    counters: dict[str, Any]
    texts: list[str] | None = None
    num_tokens: list[int] | None = None
    temperature: float | None = None
    context_tokens: int | None = None

    @property
    def variant(self) -> Variant:
        """How it was decoded."""
        return Variant(self.vocab_size, self.draft_length)

    @property
    def num_output_tokens(self) -> int:
        """Of all answers."""
        return sum(map(len, self.token_ids) if self.num_tokens is None else self.num_tokens)


@dataclass(frozen=True)
class ServedPartsRecord(Record):
    """The parts of another engine's steps, while it decoded some prompts one at a time.

    Attributes:
        engine: name of the engine.
        domain: domain of the prompts.
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        process: index of the process of this variant, from 0.
        reason: why the engine does not say it; empty if it does.
        round_ms: time between the arrivals of two steps' tokens, of all answers.
        num_tokens: tokens that the target took in, of every step; prompts and rounds that drafted less are
            among them.
        parts_ms: time of each part of every step, by the engine's name for it; 0 where a step has none.
        num_threads: CPU threads that compute; None if it is not known.
    """

    kind = "served_parts"
    named_by = ("engine", "domain", "vocab_size", "draft_length", "process")

    engine: str
    domain: str
    vocab_size: int
    draft_length: int
    process: int
    reason: str
    round_ms: list[float]
    num_tokens: list[int]
    parts_ms: dict[str, list[float]]
    num_threads: int | None = None

    @property
    def variant(self) -> Variant:
        """How it was decoded."""
        return Variant(self.vocab_size, self.draft_length)


Of = TypeVar("Of", ServedRecord, ServedPartsRecord)


def by_domain(records: Sequence[Of], domains: Iterable[str]) -> dict[str, list[Of]]:
    """Records of the domains that have some."""
    found = {domain: [record for record in records if record.domain == domain] for domain in domains}
    return {domain: ours for domain, ours in found.items() if ours}
