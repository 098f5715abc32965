"""The samples of a run: reads the file that the sampler writes."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

FILE_NAME = "telemetry.jsonl"

RUN_ENDED, RUN_KILLED = "the run ended", "the run was killed"

NO_WORD = "the sampling process ended without giving a reason"


@dataclass(frozen=True)
class Samples:
    """The samples of a run.

    Attributes:
        rows: one per sample, in order of time.
        ended: why sampling ended, one per session; `RUN_ENDED` without an error.
        lost: why a GPU stopped answering; sampling of the host continued.
        unsupported: by field, the reason why it is None.
        impossible: by field, the first answer that no sensor can give; such answers are None in `rows`.
        unreadable: numbers of the lines that are no sample, from 1. A kill can cut a session's last line.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)
    unreadable: list[int] = field(default_factory=list)


def open_samples(path: Path) -> TextIO:
    """Opens the file for appending. Ends an incomplete last line first, which a kill can leave."""
    file = path.open("a+", encoding="utf-8", errors="replace")
    file.seek(0)
    content = file.read()
    if content and not content.endswith("\n"):
        file.write("\n")
    return file


def read_samples(folder: Path) -> Samples:
    """The samples of all sessions; empty without telemetry."""
    found, is_open = Samples(), False
    try:
        lines = (folder / FILE_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return found
    except OSError as error:
        return Samples(ended=[f"{FILE_NAME} cannot be read: {error.strerror}"])
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict) or not isinstance(values.get("time_s"), int | float):
            found.unreadable.append(number)
            continue
        if "began" in values:
            found.ended.extend([NO_WORD] if is_open else [])
            is_open = True
        elif "ended" in values:
            found.ended.append(values["ended"])
            found.unsupported.update(values.get("unsupported", {}))
            found.impossible.update(values.get("impossible", {}))
            is_open = False
        elif "gpu_lost" in values:
            found.lost.append(values["gpu_lost"])
        else:
            found.rows.append(values)
    found.ended.extend([NO_WORD] if is_open else [])
    found.rows.sort(key=lambda row: row["time_s"])
    return found


# One clock for samples and measurements: the time of day, which processes and sessions share.

_OFFSET_S = time.time() - time.perf_counter()


def now_s(offset_s: float = _OFFSET_S) -> float:
    """Seconds since the epoch.

    Args:
        offset_s: clock offset of another process on this machine, for its time.
    """
    return offset_s + time.perf_counter()


def offset_s() -> float:
    """Difference between the time of day and the monotonic clock of this process."""
    return _OFFSET_S
