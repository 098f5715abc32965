"""Reads the fields of another tool's JSON: each is used, known to be of no interest, or named as left out."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import ResultFileError

QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0}

# Between what the time of `ImportedRecord.inter_token_ms` is.
ARRIVALS, TOKENS, STEPS, REQUESTS = "arrivals", "tokens", "steps", "mean of a request"


class Fields:
    """The fields of one JSON object. It notes which were read.

    Attributes:
        where: file and place, for errors.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = ""):
        self._values, self.where, self._prefix = values, where, prefix
        self._read: set[str] = set()
        self._inner: list[tuple[Fields, Collection[str]]] = []

    def has(self, name: str) -> bool:
        """Whether there is a value, which may be null."""
        return name in self._values

    def names(self) -> list[str]:
        """Of all fields."""
        return [str(name) for name in self._values]

    def get(self, name: str) -> Any:
        """A value of any kind; None if there is none."""
        self._read.add(name)
        return self._values.get(name)

    def number(self, name: str, least: float = 0.0) -> float | None:
        """A finite number of at least `least`; None if there is none.

        Raises:
            ResultFileError: it is another value.
        """
        value = self.get(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < least:
            raise ResultFileError(
                f"{self.where}: {self._prefix}{name} is {_short(value)}, not a number of at least {least:g}"
            )
        return float(value)

    def needed(self, name: str, least: float = 0.0) -> float:
        """The same; a missing number is an error."""
        value = self.number(name, least)
        if value is None:
            raise ResultFileError(
                f"{self.where}: it has no {self._prefix}{name}; is it of another version, or was it edited?"
            )
        return value

    def count(self, name: str) -> int | None:
        """A whole number; None if there is none."""
        value = self.number(name)
        if value is not None and value != int(value):
            raise ResultFileError(f"{self.where}: {self._prefix}{name} is {value:g}, not a whole number")
        return None if value is None else int(value)

    def needed_count(self, name: str) -> int:
        """A whole number; a missing one is an error."""
        self.needed(name)
        return self.count(name) or 0

    def items(self, name: str) -> list[Any]:
        """A list of any values; empty if there is none."""
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            raise ResultFileError(f"{self.where}: {self._prefix}{name} is {_short(value)}, not a list")
        return value or []

    def text(self, name: str) -> str | None:
        """A text; None if there is none, or an empty one."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise ResultFileError(f"{self.where}: {self._prefix}{name} is {_short(value)}, not a text")
        return value or None

    def numbers(self, name: str) -> list[float] | None:
        """A list of finite numbers; None if there is none."""
        if self.get(name) is None:
            return None
        values = {str(place): value for place, value in enumerate(self.items(name))}
        inner = Fields(values, self.where, f"{self._prefix}{name}.")
        return [inner.needed(place) for place in values]

    def inside(self, name: str, of_no_interest: Collection[str] = ()) -> "Fields | None":
        """The fields of an object inside; None if there is none.

        Args:
            name: of the object.
            of_no_interest: its fields that are known and not worth naming, or beginnings of them with a `*`.
        """
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ResultFileError(f"{self.where}: {self._prefix}{name} is {_short(value)}, not an object")
        found = Fields(value, self.where, f"{self._prefix}{name}.")
        self._inner.append((found, of_no_interest))
        return found

    def left_out(self, of_no_interest: Collection[str] = ()) -> list[str]:
        """Fields with a value that were not read and are not known to be of no interest."""
        mine = [
            f"{self._prefix}{name}"
            for name, value in self._values.items()
            if name not in self._read
            and not _is_among(name, of_no_interest)
            and value not in (None, [], {}, "")
        ]
        return mine + [name for fields, known in self._inner for name in fields.left_out(known)]


def _is_among(name: str, known: Collection[str]) -> bool:
    return name in known or any(str(k).endswith("*") and name.startswith(k[:-1]) for k in known)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def quantiles(samples: Iterable[float], scale: float = 1.0) -> dict[str, float]:
    """Median, 90th and 99th percentile by name; empty without samples."""
    values = np.array(list(samples), dtype=np.float64) * scale
    if not len(values):
        return {}
    return {name: float(np.percentile(values, at)) for name, at in QUANTILES.items()}


def known_only(values: Mapping[str, float | None]) -> dict[str, float]:
    """Without those that are not known."""
    return {name: value for name, value in values.items() if value is not None}


def read_json(path: Path) -> list[Any]:
    """The JSON values of a file: one, or one a line.

    Raises:
        ResultFileError: it cannot be read, or is no whole JSON.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig").strip()
    except OSError as error:
        raise ResultFileError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ResultFileError(f"{path} is not a text in UTF-8; name a result file in JSON") from error
    if not text:
        raise ResultFileError(f"{path} is empty; did the benchmark end?")
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", "nested too deeply")
            line = text.count("\n", 0, getattr(error, "pos", 0)) + 1
            raise ResultFileError(
                f"{path} is not JSON (line {line}: {what}); name the result file in JSON, and if it was cut "
                "off, run the benchmark again"
            ) from error
        values.append(value)
        at = end
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
    return values
