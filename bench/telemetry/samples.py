"""The samples of a run read back."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "telemetry.jsonl"


@dataclass(frozen=True)
class Samples:
    """What was sampled beside a run.

    Attributes:
        rows: one per sample, in order of time.
        ended: why sampling ended, one per session; "the run ended" where all went well.
        unsupported: by field, why it is None.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)


def read_samples(folder: Path) -> Samples:
    """All sessions' samples; none where a run has no telemetry. A torn line, left by a kill, is left out."""
    found = Samples()
    try:
        lines = (folder / FILE_NAME).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if "ended" in values:
            found.ended.append(values["ended"])
            found.unsupported.update(values.get("unsupported", {}))
        else:
            found.rows.append(values)
    found.rows.sort(key=lambda row: row["time_s"])
    return found
