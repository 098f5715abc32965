"""Records, the measurements of a run: kinds.py defines them, store.py writes and reads them.

record.py is what they have in common, served.py the records of another engine, imported.py the record of
another tool's result.
"""

from bench.records.kinds import (
    BaselineRecord,
    CoverageRecord,
    DecodeRecord,
    EndRecord,
    FailureRecord,
    ImportedRecord,
    IsolatedRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    Record,
    ReplayRecord,
    SampledReplayRecord,
    SessionRecord,
    SteadyRecord,
)
from bench.records.served import ServedPartsRecord, ServedRecord
from bench.records.store import (
    FILE_NAME,
    READABLE_VERSIONS,
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
    "ImportedRecord",
    "IsolatedRecord",
    "PlanRecord",
    "ProbeRecord",
    "READABLE_VERSIONS",
    "RankingRecord",
    "Record",
    "RecordWriter",
    "ReplayRecord",
    "SampledReplayRecord",
    "ServedPartsRecord",
    "ServedRecord",
    "SessionRecord",
    "SteadyRecord",
    "cut_torn_line",
    "read_records",
]
