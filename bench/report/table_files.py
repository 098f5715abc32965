"""Tables of a report as files: CSV for programs, Markdown and LaTeX for texts."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

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
