"""What a run writes down: one JSON line per measured case, appended as it is measured.

Records hold raw samples; every figure that a report shows is derived from them when it is read.

Format history:
    1: vocab, decode and baseline records; every vocabulary size was decoded.
    2: ranking, plan, replay, probe and isolated records; few variants are decoded. Sessions, failures and
        an end are recorded, so that an unfinished run is known as one and can be resumed. Runs of task=draft
        have isolated records, with the part `draft_step`, and at most one coverage record.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench.errors import OutputError
from bench.records.kinds import KINDS, Record

SCHEMA_VERSION = 2

FILE_NAME = "records.jsonl"


class RecordWriter:
    """Appends records to a run; each is on disk when `append` returns."""

    def __init__(self, folder: Path):
        self._path = folder / FILE_NAME
        try:
            # Unbuffered: what a full disk refuses must not be tried again on closing.
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        self.num_written = 0

    def append(self, record: Record) -> None:
        """Writes one line and waits until the disk has it.

        Raises:
            OutputError: the disk refuses; what was written before is kept.
        """
        line = {"schema": SCHEMA_VERSION, "kind": record.kind, **asdict(record)}
        left = memoryview((json.dumps(line) + "\n").encode())
        try:
            while left:  # a disk that is nearly full takes a part
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; the {self.num_written} records that this "
                "process wrote are kept, and the same command resumes the run"
            ) from error
        self.num_written += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def cut_torn_line(folder: Path) -> bool:
    """Removes what a killed process or a full disk left of a line; returns whether there was any.

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
        raise OutputError(f"cannot mend {path}: {error.strerror}") from error


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
        if version != SCHEMA_VERSION or kind not in list(KINDS):
            raise OutputError(
                f"{path}, line {number}: schema {version}, kind {kind!r}; this version reads schema "
                f"{SCHEMA_VERSION}"
            )
        try:
            yield KINDS[kind](**values)
        except TypeError as error:
            raise OutputError(f"{path}, line {number}: not a {kind} record ({error})") from error
