"""What a report is made of: one tree, built once per kind of run, that knows no HTML, Markdown or console.

Three renderers show it: `page.py`, `markdown.py` and `console.py`, which shows only what is brief.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.analysis.metrics import (
    METRICS,
    format_interval,
    format_value,
    interval_columns,
    is_missing,
    known_intervals,
)


@dataclass(frozen=True)
class Paragraph:
    """A text.

    Attributes:
        text: whole sentences.
        is_brief: whether the console shows it, as does `is_brief` everywhere.
        tone: `good`, `bad` or `unsure` for an answer, `strong` for a statement; empty for a plain text.
    """

    text: str
    is_brief: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Points:
    """A list.

    Attributes:
        texts: of its points.
        is_brief: as in `Paragraph`.
        mark: what stands before every point on the console.
    """

    texts: Sequence[str]
    is_brief: bool = False
    mark: str = "-"


@dataclass(frozen=True)
class Picture:
    """A figure with its caption.

    Attributes:
        name: of its files.
        caption: what it shows, over how many, and what its intervals are.
        draw: draws it; None where there is nothing to show.
    """

    name: str
    caption: str
    draw: Callable[[], Figure | None]


@dataclass(frozen=True)
class Grid:
    """A table as texts.

    Attributes:
        headings: of its columns.
        rows: texts.
        is_numeric: per column, whether it holds numbers.
    """

    headings: list[str]
    rows: list[list[str]]
    is_numeric: list[bool]


@dataclass(frozen=True)
class Table:
    """A table, of which the registry of metrics knows headings and digits.

    Attributes:
        caption: what it shows.
        frame: values; intervals in columns of their own.
        columns: names to show, in order; those without any value are left out.
        legend: what its words mean.
        is_brief: as in `Paragraph`; the console takes the columns that have a short heading.
        headings: of columns that are called otherwise here.
        other: metric of columns that are in no registry, such as one per domain.
        brief_intervals: whether the console shows intervals too.
        brief_columns: that only the console shows.
    """

    caption: str
    frame: pd.DataFrame
    columns: Sequence[str]
    legend: str = ""
    is_brief: bool = False
    headings: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    brief_intervals: bool = False
    brief_columns: Sequence[str] = ()

    def grid(self) -> Grid:
        """With intervals, and a dash where there is no value."""
        found = {name: self._texts(name, True) for name in self.columns if name in self.frame}
        return _grid({self._heading(name): texts for name, texts in found.items()}, "–")

    def short_grid(self) -> Grid:
        """For the console: columns that have a short heading, mostly without intervals."""
        found = {}
        for name in (*self.columns, *self.brief_columns):
            metric = METRICS.get(name)
            if name in self.frame and metric and metric.short is not None:
                heading = f"{metric.short} [95%]" if self._has_interval(name) else metric.short
                found[heading] = self._texts(name, self.brief_intervals)
        return _grid(found, "")

    def _has_interval(self, name: str) -> bool:
        return self.brief_intervals and set(interval_columns(name)) <= set(self.frame)

    def _heading(self, name: str) -> str:
        metric = METRICS.get(name)
        return self.headings.get(name) or (metric.heading if metric else name.replace("_", " "))

    def _texts(self, name: str, with_interval: bool) -> list[str]:
        metric = name if name in METRICS or not self.other else self.other
        ends = [column for column in interval_columns(name) if column in self.frame]
        if with_interval and len(ends) == 2:
            values = zip(*(self.frame[column] for column in (name, *ends)), strict=True)
            return [format_interval(metric, *row) for row in values]
        return [format_value(metric, value) for value in self.frame[name]]


def _grid(columns: Mapping[str, list[str]], missing: str) -> Grid:
    kept = {heading: texts for heading, texts in columns.items() if any(texts)}
    rows = [[text or missing for text in row] for row in zip(*kept.values(), strict=True)]
    return Grid(list(kept), rows, [_is_numeric(texts) for texts in kept.values()])


def _is_numeric(texts: Sequence[str]) -> bool:
    """Whether every text that is there begins with a number."""
    found = [text.lstrip("+-").replace(",", "")[:1] for text in texts if text]
    return bool(found) and all(letter.isdigit() for letter in found)


@dataclass(frozen=True)
class Card:
    """The answer for one domain on one device.

    Attributes:
        title: domain.
        place: device.
        badge: the verdict in a word or three.
        tone: as in `Paragraph`.
        headline: what to do.
        sentence: what to do and what it buys, where no table stands beside it.
        gains: decoded and predicted, beside each other.
        note: why they differ; empty where they agree.
        facts: name and value of what else decides.
        command: that takes the answer away.
        details: how firm it is.
        is_brief: as in `Paragraph`.
    """

    title: str
    place: str
    badge: str
    tone: str
    headline: str
    sentence: str
    gains: Grid
    note: str
    facts: Sequence[tuple[str, str]]
    command: str
    details: Sequence[str]
    is_brief: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; a whole report is one too.

    Attributes:
        anchor: its name in links.
        title: heading.
        parts: in order.
        is_folded: whether it opens only when it is asked to.
        label: its short name in a list of contents; empty takes the title.
    """

    anchor: str
    title: str
    parts: Sequence["Block"] = ()
    is_folded: bool = False
    label: str = ""

    def blocks(self) -> Iterator["Block"]:
        """Everything inside, sections too, in order."""
        for part in self.parts:
            yield part
            if isinstance(part, Section):
                yield from part.blocks()

    def pictures(self) -> list[Picture]:
        """Every figure inside."""
        return [block for block in self.blocks() if isinstance(block, Picture)]

    def without_pictures(self, names: Sequence[str]) -> "Section":
        """The same without these figures, and without sections that then say nothing."""
        parts: list[Block] = []
        for part in self.parts:
            if isinstance(part, Section):
                part = part.without_pictures(names)
                if not part.parts:
                    continue
            if not (isinstance(part, Picture) and part.name in names):
                parts.append(part)
        return replace(self, parts=parts)


Block = Paragraph | Points | Picture | Table | Card | Section


def section(
    anchor: str, title: str, *parts: Block | None, is_folded: bool = False, label: str = ""
) -> Section | None:
    """A section of the parts that say something; None where none does."""
    kept = [part for part in parts if part is not None and not _is_empty(part)]
    return Section(anchor, title, kept, is_folded, label) if kept else None


def _is_empty(part: Block) -> bool:
    if isinstance(part, Paragraph):
        return not part.text
    if isinstance(part, Points):
        return not part.texts
    return isinstance(part, Table) and part.frame.empty


# Tables as files: CSV for programs, Markdown and LaTeX for texts.

_TEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Writes every table by name as CSV (all digits), Markdown and LaTeX (four digits); returns the CSVs.

    Args:
        tables: by file name.
        folder: made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        known = known_intervals(table)
        known.to_csv(path, index=False)
        shown = as_text(known)
        markdown = shown.to_markdown(index=False, disable_numparse=True)
        path.with_suffix(".md").write_text(markdown + "\n", "utf-8")
        path.with_suffix(".tex").write_text(to_latex(shown), "utf-8")
        paths.append(path)
    return paths


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Every value with four digits, and nothing where there is no value."""
    return pd.DataFrame(
        {column: [_four_digits(value) for value in table[column]] for column in table.columns}, dtype=object
    )


def to_latex(shown: pd.DataFrame) -> str:
    """A `tabular` with the rules of booktabs, of a table of texts."""
    lines = [_tex_row(shown.columns), r"\midrule", *(_tex_row(row) for row in shown.to_numpy())]
    columns = "l" * len(shown.columns)
    body = "\n".join(lines)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _tex_row(values) -> str:
    escaped = ("".join(_TEX_SPECIAL.get(letter, letter) for letter in str(value)) for value in values)
    return " & ".join(escaped) + r" \\"


def _four_digits(value: object) -> str:
    if is_missing(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
