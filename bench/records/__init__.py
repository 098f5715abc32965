"""Records, the measurements of a run: kinds.py defines them, store.py writes and reads them."""

from bench.records.kinds import (
    BaselineRecord,
    CoverageRecord,
    DecodeRecord,
    EndRecord,
    FailureRecord,
    IsolatedRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    Record,
    ReplayRecord,
    SampledReplayRecord,
    ServedRecord,
    SessionRecord,
    SteadyRecord,
)
from bench.records.store import FILE_NAME, SCHEMA_VERSION, RecordWriter, cut_torn_line, read_records

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
    "ServedRecord",
    "SessionRecord",
    "SteadyRecord",
    "cut_torn_line",
    "read_records",
]
