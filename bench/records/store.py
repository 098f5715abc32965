"""Writes and reads `records.jsonl`: one JSON line per measured case, appended when it was measured.

Records have raw samples. All numbers of a report are derived from them.

Format history:
    1: vocab, decode and baseline records; every vocabulary size was decoded.
    2: ranking, plan, replay, probe and isolated records; few variants are decoded. Sessions, failures and an
        end are recorded, so that an unfinished run can be recognised and resumed. Runs of `task=draft` have
        isolated records, with the part `draft_step`, and at most one coverage record.
    3: the fields that a kind names as `packed` are objects with one key, `zlib`: their value as JSON,
        compressed, in base64. They are most of a run and nobody reads them by eye; timings stay plain.
        Format 2 is read as well.
"""

import json
import os
import zlib
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import OutputError
from bench.records.kinds import KINDS, Case, Record

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, 3)

FILE_NAME = "records.jsonl"

_PACKED = "zlib"  # key of a packed value


class RecordWriter:
    """Appends records to a run. Each is on disk when `append` returns."""

    def __init__(self, folder: Path):
        self._path = folder / FILE_NAME
        try:
            # Unbuffered: after an error of a full disk, closing must not write again.
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        self.num_written = 0

    def append(self, record: Record) -> None:
        """Writes one line and waits until it is on disk.

        Raises:
            OutputError: the disk refuses; earlier records are kept.
        """
        line = {"schema": SCHEMA_VERSION, "kind": record.kind, **asdict(record)}
        line |= {name: _packed(line[name]) for name in record.packed if line[name] is not None}
        left = memoryview((json.dumps(line) + "\n").encode())
        try:
            while left:  # a disk that is nearly full can accept a part
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; the {self.num_written} records that this "
                "process wrote are kept; the same command resumes the run"
            ) from error
        self.num_written += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def cut_torn_line(folder: Path) -> bool:
    """Removes an incomplete last line, left by a kill or a full disk; returns whether there was one.

    Raises:
        OutputError: the file cannot be read or written.
    """
    path = folder / FILE_NAME
    try:
        with path.open("r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole == len(content):
                return False
            file.truncate(whole)
            os.fsync(file.fileno())
            return True
    except OSError as error:
        raise OutputError(f"cannot repair {path}: {error.strerror}") from error


def read_records(folder: Path) -> Iterator[Record]:
    """All records of a run, in the order in which they were measured.

    An incomplete last line, left by a kill, is skipped.

    Raises:
        OutputError: there are no records, or they have another version.
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
            raise OutputError(
                f"{path}, line {number}: not valid JSON ({error}); copy the run again"
            ) from error
        if not isinstance(values, dict):
            raise OutputError(f"{path}, line {number}: not a record")
        version, kind = values.pop("schema", None), values.pop("kind", None)
        if version not in READABLE_VERSIONS or kind not in list(KINDS):
            raise OutputError(
                f"{path}, line {number}: schema {version}, kind {kind!r}; this version reads schema "
                f"{' and '.join(map(str, READABLE_VERSIONS))}"
            )
        try:
            packed = {name: _unpacked(values[name]) for name in KINDS[kind].packed if name in values}
            yield KINDS[kind](**{**values, **packed})
        except (TypeError, ValueError, zlib.error) as error:
            raise OutputError(f"{path}, line {number}: not a {kind} record ({error})") from error


def _packed(value: Any) -> dict[str, str]:
    text = json.dumps(value, separators=(",", ":"))
    return {_PACKED: b64encode(zlib.compress(text.encode(), 9)).decode()}


def _unpacked(value: Any) -> Any:
    """The value of a packed field; records of format 2 have it as it is."""
    if not isinstance(value, dict):
        return value
    if list(value) != [_PACKED]:
        raise ValueError(f"a packed field has the one key {_PACKED}, not {', '.join(value)}")
    return json.loads(zlib.decompress(b64decode(value[_PACKED], validate=True)))


class Done:
    """Records of earlier sessions; each is returned once."""

    def __init__(self, records: Iterable[Record] = ()):
        self._left: dict[Case, list[Record]] = defaultdict(list)
        self.num_records = self.last_order = 0
        for record in records:
            self.last_order = max(self.last_order, getattr(record, "order", 0))
            if case := record.identity:
                self._left[case].append(record)
                self.num_records += 1

    def take(self, case: Case) -> Any:
        """The next record of a case; None if it must be measured."""
        found = self._left.get(case)
        return found.pop(0) if found else None

    def has(self, case: Case) -> bool:
        """Whether there is a record that was not returned yet."""
        return bool(self._left.get(case))
