"""What a run writes down: kinds.py what of each case, store.py how it is kept, cases.py what is there."""

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
from bench.records.life import EndRecord, FailureRecord, SessionRecord
from bench.records.store import (
    FILE_NAME,
    SCHEMA_VERSION,
    Record,
    RecordWriter,
    cut_torn_line,
    read_records,
)

__all__ = [
    "BaselineRecord",
    "CoverageRecord",
    "DecodeRecord",
    "EndRecord",
    "FILE_NAME",
    "FailureRecord",
    "IsolatedRecord",
    "PlanRecord",
    "ProbeRecord",
    "RankingRecord",
    "Record",
    "RecordWriter",
    "ReplayRecord",
    "SCHEMA_VERSION",
    "SampledReplayRecord",
    "SessionRecord",
    "SteadyRecord",
    "cut_torn_line",
    "read_records",
]
