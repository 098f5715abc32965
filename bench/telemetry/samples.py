"""The samples of a run: the file that the sampler appends to, read back."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

FILE_NAME = "telemetry.jsonl"

RUN_ENDED, RUN_KILLED = "the run ended", "the run was killed"

NO_WORD = "the sampling process stopped without a word"


@dataclass(frozen=True)
class Samples:
    """What was sampled beside a run.

    Attributes:
        rows: one per sample, in order of time.
        ended: why sampling ended, one per session; `RUN_ENDED` where all went well.
        lost: why a GPU stopped answering; the host was sampled on.
        unsupported: by field, why it is None.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)


def open_samples(path: Path) -> TextIO:
    """For appending lines; what a kill left of one is closed first, so that it spoils no other."""
    file = path.open("a+", encoding="utf-8")
    file.seek(0)
    content = file.read()
    if content and not content.endswith("\n"):
        file.write("\n")
    return file


def read_samples(folder: Path) -> Samples:
    """All sessions' samples; none where a run has no telemetry. A torn line, left by a kill, is left out."""
    found, is_open = Samples(), False
    try:
        lines = (folder / FILE_NAME).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if "began" in values:
            found.ended.extend([NO_WORD] if is_open else [])
            is_open = True
        elif "ended" in values:
            found.ended.append(values["ended"])
            found.unsupported.update(values.get("unsupported", {}))
            is_open = False
        elif "gpu_lost" in values:
            found.lost.append(values["gpu_lost"])
        else:
            found.rows.append(values)
    found.ended.extend([NO_WORD] if is_open else [])
    found.rows.sort(key=lambda row: row["time_s"])
    return found


# One clock for samples and measurements: the time of day, which two processes and two sessions share.

_OFFSET_S = time.time() - time.perf_counter()


def now_s(offset_s: float = _OFFSET_S) -> float:
    """Seconds since the epoch.

    Args:
        offset_s: of another process on this machine, to tell its time.
    """
    return offset_s + time.perf_counter()


def offset_s() -> float:
    """What this process adds to its monotonic clock."""
    return _OFFSET_S
