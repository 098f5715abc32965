"""Rows that are set aside or used in part, counted by reason, with the location of the first one."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.errors import DomainError

# A reason may quote a row, so there can be many; they must not fill memory or a screen.
_MOST_REASONS, _SHOWN = 100, 5

_REST = "other reasons"


class RowError(DomainError):
    """One row cannot be used.

    Attributes:
        reason: what is wrong, in the same words for all rows with this problem.
        mend: how to fix it; may be empty.
        place: location of the row.
    """

    def __init__(self, reason: str, mend: str = "", place: str = ""):
        super().__init__(reason, mend, place)
        self.reason, self.mend, self.place = reason, mend, place

    def __str__(self) -> str:
        said = f"{self.reason}; {self.mend}" if self.mend else self.reason
        return f"{self.place}: {said}" if self.place else said

    def at(self, place: str) -> "RowError":
        """The same error with the location of the row."""
        return RowError(self.reason, self.mend, place)


@dataclass
class Seen:
    """Number of rows with one problem, location of the first, and how to fix it."""

    num_rows: int
    first: str
    mend: str = ""


@dataclass
class OddRows:
    """The rows of a domain that are set aside or used in part.

    Attributes:
        source: the file or data set, for messages.
        num_read: all rows that were read.
        set_aside: rows that are not used, by reason.
        in_part: rows that are used without a part of them, by that part.
    """

    source: str = ""
    num_read: int = 0
    set_aside: dict[str, Seen] = field(default_factory=dict)
    in_part: dict[str, Seen] = field(default_factory=dict)

    @property
    def num_set_aside(self) -> int:
        """Number of rows that are not used."""
        return sum(seen.num_rows for seen in self.set_aside.values())

    def clear(self) -> None:
        """Removes everything, before the rows are read again."""
        self.num_read = 0
        self.set_aside.clear()
        self.in_part.clear()

    def leave(self, error: RowError) -> None:
        """Adds a row that is not used."""
        _note(self.set_aside, error.reason, Seen(1, _in_source(error.place), error.mend))

    def lacks(self, what: str, place: str) -> None:
        """Adds a row that is used without `what`."""
        _note(self.in_part, what, Seen(1, _in_source(place)))

    def merge(self, later: "OddRows") -> None:
        """Adds what was found later in the same rows or in further rows."""
        self.num_read += later.num_read
        for mine, its in ((self.set_aside, later.set_aside), (self.in_part, later.in_part)):
            for name, seen in its.items():
                _note(mine, name, seen)

    def check(self, domain: str, max_bad_share: float) -> None:
        """Refuses a domain if too many of its rows cannot be used.

        Raises:
            DomainError: more than `max_bad_share` of the rows were set aside.
        """
        if self.num_set_aside <= max_bad_share * self.num_read:
            return
        reasons = "; ".join(self._format(*item) for item in _by_number(self.set_aside)[:_SHOWN])
        rest = len(self.set_aside) - _SHOWN
        raise DomainError(
            f"domain {domain}: {self.num_set_aside:,} of {self.num_read:,} rows cannot be used, more than "
            f"domain.max_bad_share={max_bad_share:g} allows: {reasons}"
            + (f"; and {rest} further reasons" if rest > 0 else "")
            + ("; raise it to continue without them" if self.num_set_aside < self.num_read else "")
        )

    def lines(self, domain: str) -> Iterator[str]:
        """One line per reason, most frequent first."""
        for seen_of, fate in ((self.set_aside, "set aside: "), (self.in_part, "used without ")):
            for what, seen in _by_number(seen_of):
                share = f"{seen.num_rows:,} of {self.num_read:,} rows"
                yield f"{domain}: {share} {fate}{what} (first: {seen.first})"

    def _format(self, reason: str, seen: Seen) -> str:
        place = f"{self.source}, {seen.first}" if self.source else seen.first
        return f"{seen.num_rows:,} x {reason} (first: {place}{f'; {seen.mend}' if seen.mend else ''})"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, most frequent first."""
        return {
            "num_read": self.num_read,
            "set_aside": {reason: asdict(seen) for reason, seen in _by_number(self.set_aside)},
            "in_part": {what: asdict(seen) for what, seen in _by_number(self.in_part)},
        }

    @classmethod
    def from_dict(cls, source: str, values: Mapping[str, Any]) -> "OddRows":
        """The inverse of `as_dict`. `source` is the current name of the data."""
        set_aside, in_part = (
            {name: Seen(**seen) for name, seen in values[kind].items()} for kind in ("set_aside", "in_part")
        )
        return cls(source, values["num_read"], set_aside, in_part)


def _in_source(place: str) -> str:
    """`line 3` from `FILE, line 3`."""
    return place.rpartition(", ")[2]


def _note(seen: dict[str, Seen], name: str, new: Seen) -> None:
    if name not in seen and len(seen) >= _MOST_REASONS:
        name, new = _REST, Seen(new.num_rows, new.first)
    if name in seen:
        old = seen[name]
        new = Seen(old.num_rows + new.num_rows, old.first, old.mend)
    seen[name] = new


def _by_number(seen: dict[str, Seen]) -> list[tuple[str, Seen]]:
    return sorted(seen.items(), key=lambda item: -item[1].num_rows)
