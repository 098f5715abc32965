"""Rows of a local file, one at a time: JSON Lines, JSON or Parquet, depending on the file name."""

import gzip
import json
import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import DomainError
from bench.text.odd_rows import RowError

KNOWN = ".jsonl, .ndjson, .json (also with .gz) and .parquet"

_LINES = (".jsonl", ".ndjson")

# First bytes of files that are no text in UTF-8, and what to do with them.
_FOREIGN = {
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it",
    b"\xfd7zXZ\x00": "is compressed with xz; decompress it",
    b"BZh": "is compressed with bzip2; decompress it",
    b"PK\x03\x04": "is a zip archive; extract the file",
    b"\xff\xfe": "is text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16; save it as UTF-8",
}

_BLANK = re.compile(r"[ \t\r\n]*")

_ROWS_UNDER_DATA = re.compile(r'"data"\s*:\s*\[')

_decoder = json.JSONDecoder()


class Row(NamedTuple):
    """A row and its location; `error` if only this row cannot be read."""

    place: str
    number: int
    value: Any
    error: RowError | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of `path`. Only one row is in memory at a time; of a JSON array, also its whole text.

    Raises:
        DomainError: the file cannot be read, or is empty.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        check_file(path)
        if suffixes[-1:] == [".parquet"]:
            rows = _parquet(path)
        elif ".json" in suffixes[-2:]:
            rows = _json(path)
        elif any(suffix in _LINES for suffix in suffixes[-2:]):
            rows = _lines(path)
        else:
            rows = _guessed(path)
        first = next(rows, None)
        if first is None:
            raise DomainError(f"{path} holds no prompts; write one JSON object per line")
        yield first
        yield from rows
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise cannot_be_read(path, error) from error


def check_file(path: Path) -> None:
    """Refuses what is no text file, before anything reads it.

    Raises:
        DomainError: it is a pipe or a device, which cannot be read twice, or of a format that is not read.
        OSError: it cannot be read.
    """
    if not path.is_dir() and path.exists() and not path.is_file():
        raise DomainError(f"domain.path={path} is a pipe or a device; write its content to a file first")
    with path.open("rb") as file:
        start = file.read(8)
    why = next((why for magic, why in _FOREIGN.items() if start.startswith(magic)), None)
    if start.startswith(b"PAR1") and path.suffix.lower() != ".parquet":
        why = "is a Parquet file; end its name in .parquet"
    if start.startswith(b"\x1f\x8b") and path.suffix.lower() != ".gz":
        why = "is compressed with gzip; end its name in .gz"
    if why:
        raise DomainError(f"domain.path={path} {why}")


def cannot_be_read(path: Path | str | None, error: Exception) -> DomainError:
    """The error for a user's file that cannot be read, with the formats that can."""
    fix = f"give a UTF-8 JSON Lines file, or one of {KNOWN}"
    return DomainError(f"domain.path={path} cannot be read: {error}; {fix}")


def _open(path: Path):
    # Some editors start files with a BOM. Only \n ends a line: JSON text may contain U+2028 and similar
    # characters. Bytes that are not UTF-8 become surrogates, so only the row that has them is set aside.
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def _lines(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _row(f"{path}, line {number}", number, line)


def _row(place: str, number: int, line: str) -> Row:
    try:
        return Row(place, number, _parse(line, place))
    except RowError as error:
        return Row(place, number, None, error)


def _guessed(path: Path) -> Iterator[Row]:
    rows = _lines(path)
    first = next(rows, None)
    if first is not None:
        if first.error:
            raise DomainError(
                f"{first.error}; a file that is not JSON Lines must end in one of {KNOWN}"
            ) from first.error
        yield first
        yield from rows


def _parse(text: str, place: str) -> Any:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise RowError("not valid JSON: nested too deeply", place=place) from error
    except ValueError as error:
        raise RowError(f"not valid JSON: {_what(error)}", place=place) from error
    if "\\ud" in text or "\\uD" in text:
        check_unicode(value, place)
    elif not text.isascii():
        check_unicode(text, place)
    return value


def _what(error: ValueError) -> str:
    """What the parser says, without the column, which differs from row to row."""
    said = getattr(error, "msg", None) or str(error)
    return "a number has too many digits" if "int_max_str_digits" in said else said


def check_unicode(value: Any, place: str) -> None:
    """Refuses half a character, of truncated text or of another encoding: no tokenizer accepts it.

    Raises:
        RowError: the text has one.
    """
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError as error:
        raise RowError(
            "not valid Unicode", "write the file in UTF-8, with whole characters", place
        ) from error


def _json(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        filled = (line.strip() for line in file if line.strip())
        first, second = next(filled, ""), next(filled, "")
    goes_on = second.startswith((",", "}"))
    is_row = first.endswith("}") and not goes_on and (second or not _ROWS_UNDER_DATA.search(first))
    if not first or (is_row and not first.startswith("[")):
        yield from _lines(path)
    else:
        yield from _document(path)


def _document(path: Path) -> Iterator[Row]:
    """Rows of a JSON array, or of the array under `data`; each is decoded when it is needed."""
    with _open(path) as file:
        text = file.read()
    start = _blank(text, 0)
    if text[start] != "[":
        start = _find_data(text, start, path)
    end = yield from _elements(text, start, path)
    # The text around the rows must be JSON too.
    _parse(f"{text[:start]}[]{text[end:]}", str(path))


def _elements(text: str, start: int, path: Path) -> Generator[Row, None, int]:
    """The elements of the array at `start`; returns the end of the array."""
    number, at = 0, _blank(text, start + 1)
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        number += 1
        place = f"{path}, row {number}"
        value, at = _decode(text, at, place)
        yield _checked(place, number, value)
        if text[at : at + 1] == "]":
            return at + 1
        if text[at : at + 1] != ",":
            raise DomainError(f"{place}: not valid JSON (expected a comma or the end of the list)")
        at = _blank(text, at + 1)


def _checked(place: str, number: int, value: Any) -> Row:
    try:
        check_unicode(value, place)
    except RowError as error:
        return Row(place, number, None, error)
    return Row(place, number, value)


def _find_data(text: str, start: int, path: Path) -> int:
    """The start of the array under the key `data` of the object at `start`."""
    at = _blank(text, start + 1)
    while text[start] == "{" and text[at : at + 1] == '"':
        key, at = _decode(text, at, str(path))
        if text[at : at + 1] != ":":
            raise DomainError(f"{path}: not valid JSON (expected a colon after {key!r})")
        at = _blank(text, at + 1)
        if key == "data" and text[at : at + 1] == "[":
            return at
        _, at = _decode(text, at, str(path))
        at = _blank(text, at + 1) if text[at : at + 1] == "," else at
    _parse(text, str(path))
    raise DomainError(f'{path}: expected a list of rows, {{"data": [...]}}, or one JSON object per line')


def _decode(text: str, at: int, place: str) -> tuple[Any, int]:
    # Where one value of a document is broken, nobody knows where the next begins.
    try:
        value, at = _decoder.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise DomainError(f"{place}: not valid JSON ({error})") from error
    return value, _blank(text, at)


def _blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", number, row)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DomainError(
            f"domain.path={path} cannot be read: {reason}; give a complete Parquet file"
        ) from error
