"""What a page is made of: values that the template lays out, and that know no HTML themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd


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


# Tables of a report as files: CSV for programs, Markdown and LaTeX for texts.

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
        table.to_csv(path, index=False)
        shown = as_text(table)
        markdown = shown.to_markdown(index=False, disable_numparse=True)
        path.with_suffix(".md").write_text(markdown + "\n", "utf-8")
        path.with_suffix(".tex").write_text(to_latex(shown), "utf-8")
        paths.append(path)
    return paths


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Every value as a reader takes it in: four digits, and nothing where there is no value."""
    return pd.DataFrame(
        {column: [_cell(value) for value in table[column]] for column in table.columns}, dtype=object
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


def _cell(value: object) -> str:
    if value is None or (not isinstance(value, str) and bool(pd.isna(value))):  # type: ignore[call-overload]
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# The tables of one run, as figures and pages take them.

# Column of the summary, its heading, how its values are written, and the name of its interval's columns.
_DECODED = (
    ("vocab_size", "k", ",.0f", None),
    ("draft_length", "gamma", ".0f", None),
    ("tokens_per_s", "tokens/s", ".1f", None),
    ("speedup_vs_full_vocab", "x full vocabulary", ".2f", "speedup_vs_full_vocab"),
    ("speedup_vs_autoregressive", "x plain", ".2f", "speedup_vs_autoregressive"),
    ("predicted_tokens_per_s", "predicted tokens/s", ".1f", "predicted"),
    ("prediction_error", "prediction error", "+.1%", None),
    ("mean_acceptance_length", "mean acceptance length", ".3f", None),
    ("acceptance_rate", "acceptance rate", ".3f", None),
    ("coverage_heldout", "coverage held-out", ".3f", None),
    ("draft_step_ms", "draft step ms", ".3f", None),
    ("lm_head_ms", "LM head ms", ".3f", None),
    ("verify_ms", "verify ms", ".2f", None),
    ("identical_output_frac", "identical outputs", ".0%", None),
    ("energy_j_per_token", "J/token", ".3g", None),
)


@dataclass(frozen=True)
class Tables:
    """Tidy tables of a run.

    Attributes:
        latency: of every part of a round, by vocabulary size or draft length.
        summary: one row for everything that was decoded.
        cross: acceptance and speed of each domain with the vocabulary chosen on each source.
    """

    latency: pd.DataFrame
    summary: pd.DataFrame
    cross: pd.DataFrame


def decoded_table(summary: pd.DataFrame, domain: str) -> pd.DataFrame:
    """What was decoded of a domain as texts for readers; a column without any value is left out.

    Args:
        summary: as `bench.report.summary.summary_frame`.
        domain: one of its domains.
    """
    rows = summary[summary["domain"] == domain]
    shown = {"what": rows["role"].str.replace("+", ", ").tolist()}
    for name, heading, form, ends in _DECODED:
        if ends is None:
            shown[heading] = [told(value, form) for value in rows[name]]
        else:
            triples = zip(rows[name], rows[f"{ends}_ci_low"], rows[f"{ends}_ci_high"], strict=True)
            shown[heading] = [told_interval(*triple, form) for triple in triples]
    return pd.DataFrame({heading: texts for heading, texts in shown.items() if any(texts)}, dtype=object)


def told(value: object, form: str) -> str:
    """A value as text; nothing where there is none."""
    return "" if value is None or pd.isna(value) else format(value, form)  # type: ignore[call-overload]


def told_interval(value: object, low: object, high: object, form: str) -> str:
    """A value with its interval as text; nothing where there is no value."""
    return f"{told(value, form)} [{told(low, form)}, {told(high, form)}]" if told(value, form) else ""
