"""Rows of a local file, one at a time: JSON Lines, JSON or Parquet, by what the file is called."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import DomainError

KNOWN = ".jsonl, .ndjson, .json (also with .gz) and .parquet"


class Row(NamedTuple):
    """A row and where it stands."""

    place: str
    number: int
    value: Any


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of `path`; no more than one is held at a time, but for the text of a JSON array.

    Raises:
        DomainError: the file cannot be read, holds nothing, or has a broken row.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        if suffixes[-1:] == [".parquet"]:
            rows = _parquet(path)
        elif ".json" in suffixes[-2:]:
            rows = _json(path)
        else:
            rows = _lines(path)
        first = next(rows, None)
        if first is None:
            raise DomainError(f"{path} holds no prompts; write one JSON object a line")
        yield first
        yield from rows
    except (OSError, UnicodeDecodeError) as error:
        mend = f"give a UTF-8 JSON Lines file, or one of {KNOWN}"
        raise DomainError(f"domain.path={path} cannot be read: {error}; {mend}") from error


def _open(path: Path):
    # Some editors begin files with a BOM; only \n ends a line, as a JSON text may hold U+2028 and its like.
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="\n")


def _lines(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{path}, line {number}"
                yield Row(place, number, _parse(line, place))


def _parse(text: str, place: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DomainError(f"{place}: not valid JSON ({error})") from error
    if "\\u" in text:
        check_unicode(value, place)
    return value


def check_unicode(value: Any, place: str) -> None:
    """Refuses half an emoji, which cut-off text has: it is JSON, but no tokenizer takes it.

    Raises:
        DomainError: there is one.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DomainError(f"{place}: not valid Unicode ({error.reason})") from error


def _json(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        start = file.read(4096).lstrip()
    if start.startswith("["):
        yield from _array(path)
    elif _is_whole(start.partition("\n")[0]) or not start:
        yield from _lines(path)
    else:
        yield from _object(path)


def _is_whole(line: str) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return not (isinstance(value, dict) and isinstance(value.get("data"), list))


def _array(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        text = file.read()
    decoder, at, number = json.JSONDecoder(), text.index("[") + 1, 0
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return
        number += 1
        place = f"{path}, row {number}"
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise DomainError(f"{place}: not valid JSON ({error})") from error
        check_unicode(value, place)
        yield Row(place, number, value)
        at = _skip(text, at)
        if text[at : at + 1] not in (",", "]"):
            raise DomainError(f"{place}: not valid JSON (expected a comma or the end of the list)")
        at += text[at] == ","


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _object(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        value = _parse(file.read(), str(path))
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        raise DomainError(f'{path}: expected a list of rows, {{"data": [...]}}, or one JSON object a line')
    for number, row in enumerate(rows, start=1):
        yield Row(f"{path}, row {number}", number, row)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", number, row)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DomainError(
            f"domain.path={path} cannot be read: {reason}; give a whole Parquet file"
        ) from error
