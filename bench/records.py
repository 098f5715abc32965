"""What a run writes down: one JSON line per measured case, appended as it is measured.

Records hold raw samples; every figure that a report shows is derived from them when it is read.

Format history:
    1: vocab, decode and baseline records; every vocabulary size was decoded.
    2: ranking, plan, replay and probe records; few variants are decoded.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.acceptance.expected import Ratios
from bench.acceptance.intervals import Intervals
from bench.errors import OutputError

SCHEMA_VERSION = 2
FILE_NAME = "records.jsonl"


@dataclass(frozen=True)
class RankingRecord:
    """The order in which tokens enter a vocabulary.

    Attributes:
        source: what it was ranked on: a domain, or the pool of all.
        seen_ids: the must-keep tokens and all that were counted, in order; every other token that the draft
            has follows by rising id.
        seen_counts: how often each of them was counted, or its expected share in a pool.
        num_must_keep: tokens at the front that every size holds.
        candidate_ids: tokens that the draft has; None when it has all of the target's.
    """

    source: str
    seen_ids: list[int]
    seen_counts: list[float]
    num_must_keep: int
    candidate_ids: list[int] | None


@dataclass(frozen=True)
class PlanRecord:
    """What a domain's proof decodes, chosen from a pilot.

    Attributes:
        domain: of the prompts.
        source: of the ranking that the vocabularies follow.
        variants: (vocabulary size, draft length, role) of each.
    """

    domain: str
    source: str
    variants: list[tuple[int, int, str]]

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "variants", [(k, gamma, role) for k, gamma, role in self.variants])


@dataclass(frozen=True)
class ReplayRecord:
    """For which vocabulary sizes the draft is right, at every place and depth of one answer.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        source: of the ranking.
        token_ids: the target's answer.
        low: as `bench.acceptance.intervals.Intervals`.
        high: as `low`.
        replay_ms: wall time of the pass, which serves all rankings.
    """

    domain: str
    prompt_id: str
    source: str
    token_ids: list[int]
    low: list[list[int]]
    high: list[list[int]]
    replay_ms: float

    def replayed(self) -> Intervals:
        """As arrays; the answer must go on after its first token."""
        return Intervals(np.array(self.low, dtype=np.int64), np.array(self.high, dtype=np.int64))


@dataclass(frozen=True)
class SampledReplayRecord:
    """How likely a draft of each size would have had each token of one sampled answer accepted.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        source: of the ranking.
        token_ids: the target's answer.
        sizes: vocabulary sizes.
        ratios: as `bench.acceptance.expected.Ratios`.
        replay_ms: wall time of the pass, which serves all rankings.
    """

    domain: str
    prompt_id: str
    source: str
    token_ids: list[int]
    sizes: list[int]
    ratios: list[list[list[float]]]
    replay_ms: float

    def replayed(self) -> Ratios:
        """As arrays; the answer must go on after its first token."""
        return Ratios(np.array(self.ratios), np.array(self.sizes))


@dataclass(frozen=True)
class ProbeRecord:
    """A few speculative rounds, timed for the latency of their parts.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        vocab_size: k.
        draft_length: gamma.
        is_pilot: from before the plan; it informs the choice, not the report.
        order: place in the run's randomised order.
        laps_ms: duration of every step by name, in order.
        num_repeats: attempts before this one that something else on the machine held up.
    """

    domain: str
    prompt_id: str
    vocab_size: int
    draft_length: int
    is_pilot: bool
    order: int
    laps_ms: dict[str, list[float]]
    num_repeats: int = 0


@dataclass(frozen=True)
class DecodeRecord:
    """One prompt decoded by one variant.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        order: place in the run's randomised order.
        num_prompt_tokens: tokens before the answer.
        token_ids: the answer.
        accepted: accepted draft tokens of every round.
        decode_ms: from the end of the target's prefill to the end of the answer, on the device's clock.
        wall_ms: the same on the host's clock.
        laps_ms: duration of every step by name, in order.
        num_repeats: as of a probe.
    """

    domain: str
    prompt_id: str
    vocab_size: int
    draft_length: int
    order: int
    num_prompt_tokens: int
    token_ids: list[int]
    accepted: list[int]
    decode_ms: float
    wall_ms: float
    laps_ms: dict[str, list[float]]
    num_repeats: int = 0


@dataclass(frozen=True)
class BaselineRecord:
    """The plain loop against `transformers.generate`, on the same weights and prompt.

    Attributes:
        domain: of the prompt.
        prompt_id: of the prompt.
        num_tokens: new tokens, the same for both.
        plain_ms: wall time of the plain loop, prefill included.
        generate_ms: wall time of `generate`, prefill included.
    """

    domain: str
    prompt_id: str
    num_tokens: int
    plain_ms: float
    generate_ms: float


Record = (
    RankingRecord
    | PlanRecord
    | ReplayRecord
    | SampledReplayRecord
    | ProbeRecord
    | DecodeRecord
    | BaselineRecord
)
_KINDS: dict[str, type[Any]] = {
    "ranking": RankingRecord,
    "plan": PlanRecord,
    "replay": ReplayRecord,
    "sampled_replay": SampledReplayRecord,
    "probe": ProbeRecord,
    "decode": DecodeRecord,
    "baseline": BaselineRecord,
}
_NAMES = {record_type: kind for kind, record_type in _KINDS.items()}


class RecordWriter:
    """Appends records to a run; each is on disk when `append` returns."""

    def __init__(self, folder: Path):
        self._path = folder / FILE_NAME
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        self.num_written = 0

    def append(self, record: Record) -> None:
        """Writes one line and waits until the disk has it.

        Raises:
            OutputError: the disk refuses; what was written before is kept.
        """
        line = {"schema": SCHEMA_VERSION, "kind": _NAMES[type(record)], **asdict(record)}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; its {self.num_written} records are kept"
            ) from error
        self.num_written += 1

    def close(self) -> None:
        """Closes the file; a line that a full disk refused was already reported by `append`."""
        with contextlib.suppress(OSError):
            self._file.close()


def read_records(folder: Path) -> Iterator[Record]:
    """All records of a run, in the order they were measured.

    A torn last line, left by a killed run, is left out.

    Raises:
        OutputError: there are no records, or another version wrote them.
    """
    path = folder / FILE_NAME
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path} cannot be read: {error}; is {folder} a run?") from error
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise OutputError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(values, dict):
            raise OutputError(f"{path}, line {number}: not a record")
        version, kind = values.pop("schema", None), values.pop("kind", None)
        if version != SCHEMA_VERSION or kind not in list(_KINDS):
            raise OutputError(
                f"{path}, line {number}: schema {version}, kind {kind!r}; this version reads schema "
                f"{SCHEMA_VERSION}"
            )
        try:
            yield _KINDS[kind](**values)
        except TypeError as error:
            raise OutputError(f"{path}, line {number}: not a {kind} record ({error})") from error
