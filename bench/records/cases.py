"""Which case a record is of, and which cases a run has already."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from bench.records.kinds import (
    BaselineRecord,
    CoverageRecord,
    DecodeRecord,
    IsolatedRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    ReplayRecord,
    SampledReplayRecord,
    SteadyRecord,
)
from bench.records.store import Record

Case = tuple[str | int | bool | None, ...]


def case_of(record: Record) -> Case | None:
    """What a record is of: the kind first, then what tells it from others of its kind. None of no case.

    A prompt is probed in random pairs, which may repeat: its cases are told apart by their number alone.
    """
    match record:
        case RankingRecord():
            return ("ranking", record.source)
        case PlanRecord():
            return ("plan", record.domain)
        case ReplayRecord() | SampledReplayRecord():
            return ("replay", record.domain, record.prompt_id, record.source)
        case ProbeRecord():
            kind = "pilot" if record.is_pilot else "probe"
            return (kind, record.domain, record.prompt_id, record.vocab_size, record.draft_length)
        case DecodeRecord():
            return ("decode", record.domain, record.prompt_id, record.vocab_size, record.draft_length)
        case IsolatedRecord():
            how = (record.cache, record.execution)
            return ("isolated", record.part, record.vocab_size, record.num_tokens, *how)
        case SteadyRecord():
            return ("steady", record.domain, record.vocab_size, record.draft_length, record.window)
        case BaselineRecord():
            return ("baseline", record.domain)
        case CoverageRecord():
            return ("coverage",)
        case _:
            return None


class Done:
    """Records of earlier sessions, each handed out once."""

    def __init__(self, records: Iterable[Record] = ()):
        self._left: dict[Case, list[Record]] = defaultdict(list)
        self.num_records = self.last_order = 0
        for record in records:
            self.last_order = max(self.last_order, getattr(record, "order", 0))
            if case := case_of(record):
                self._left[case].append(record)
                self.num_records += 1

    def take(self, case: Case) -> Any:
        """The next record of a case, or None where it is still to be measured."""
        found = self._left.get(case)
        return found.pop(0) if found else None

    def has(self, case: Case) -> bool:
        """Whether there is one that was not handed out yet."""
        return bool(self._left.get(case))
