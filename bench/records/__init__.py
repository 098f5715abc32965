"""What a run writes down: kinds.py says what of each case, store.py how it is kept."""

from bench.records.kinds import (
    BaselineRecord,
    DecodeRecord,
    IsolatedRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    ReplayRecord,
    SampledReplayRecord,
)
from bench.records.store import FILE_NAME, SCHEMA_VERSION, Record, RecordWriter, read_records

__all__ = [
    "BaselineRecord",
    "DecodeRecord",
    "FILE_NAME",
    "IsolatedRecord",
    "PlanRecord",
    "ProbeRecord",
    "RankingRecord",
    "Record",
    "RecordWriter",
    "ReplayRecord",
    "SCHEMA_VERSION",
    "SampledReplayRecord",
    "read_records",
]
