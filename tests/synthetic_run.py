"""The one writer of run folders that tests make up; the recipes beside the tests say what is in them.

`report/synthetic.py` has timings chosen by hand, `analysis/synthetic.py` devices with a latency law,
`report/synthetic_draft.py` a draft without a target, and `page/twin.py` the example run on another device.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from bench.records import EndRecord, Record, RecordWriter

ENDED_AT = "2026-01-01T00:10:00+00:00"

ENVIRONMENT = {
    "pair": "synthetic-pair",
    "device_name": "synthetic device",
    "dtype": "float32",
    "started_at": "2026-01-01T00:00:00+00:00",
    "target_runner": "lean",
    "packages": {"torch": "0", "transformers": "0"},
}


def write_run_folder(
    folder: Path, config: dict[str, Any], environment: dict[str, Any], records: Iterable[Record]
) -> Path:
    """A finished run: configuration, `ENVIRONMENT` with the given values, and `records`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT | environment))
    # Nobody waits for a disk to have what does not exist.
    with patch("os.fsync"):
        append_records(folder, [*records, EndRecord(ENDED_AT)])
    return folder


def append_records(folder: Path, records: Iterable[Record]) -> None:
    """Adds records to a run folder."""
    writer = RecordWriter(folder)
    for record in records:
        writer.append(record)
    writer.close()
