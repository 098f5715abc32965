"""What a page is made of: values that the template lays out, and that know no HTML themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from bench.report.table_files import as_text


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its files.
        caption: what it shows, over how many, and what its intervals are.
    """

    name: str
    caption: str


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        caption: what it shows.
        headings: of its columns.
        rows: texts.
        numeric: per column, whether it holds numbers.
    """

    caption: str
    headings: list[str]
    rows: list[list[str]]
    numeric: list[bool]

    @classmethod
    def of(cls, table: pd.DataFrame, caption: str) -> "Grid":
        """Of any table; numbers with four digits."""
        shown = as_text(table)
        columns = [shown[name].tolist() for name in shown.columns]
        rows = [list(row) for row in zip(*columns, strict=True)]
        return cls(
            caption,
            [str(name).replace("_", " ") for name in shown.columns],
            rows,
            [_is_numeric(c) for c in columns],
        )


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its name in links.
        title: heading.
        texts: paragraphs.
        points: a list below them.
        pictures: figures.
        grids: tables.
        parts: sections inside.
        is_folded: whether it opens only when it is asked to.
    """

    anchor: str
    title: str
    texts: Sequence[str] = ()
    points: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    grids: Sequence[Grid] = ()
    parts: Sequence["Section"] = field(default_factory=tuple)
    is_folded: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.texts or self.points or self.pictures or self.grids or self.parts)


def _is_numeric(texts: Sequence[str]) -> bool:
    """Whether every text that is there begins with a number."""
    found = [text.lstrip("+-").replace(",", "")[:1] for text in texts if text]
    return bool(found) and all(letter.isdigit() for letter in found)
