"""Comparisons on the console."""

from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench.compare.diff import ALL_DECODES, DECODE, FASTER, SLOWER
from bench.compare.outcome import Change, Outcome, row_name

_STYLES = {Change.slower: "bold red", Change.not_slower: "bold green", Change.inconclusive: "bold yellow"}


def show_diff(outcome: Outcome, folder: Path, console: Console) -> None:
    """The decodes, the parts that changed, the verdict, and what else there is to know."""
    title = f"time of {outcome.after} over that of {outcome.before}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("what", "n", "ratio", "95% interval", "verdict"):
        table.add_column(heading, justify="left" if heading in ("what", "verdict") else "right")
    for _, row in outcome.times.iterrows():
        if row["part"] in (ALL_DECODES, DECODE) or row["verdict"] in (SLOWER, FASTER):
            table.add_row(
                row_name(row),
                str(row["num_prompts"]),
                f"{row['ratio']:.3f}",
                f"{row['ci_low']:.3f}-{row['ci_high']:.3f}",
                row["verdict"],
                style="red" if row["verdict"] == SLOWER else None,
            )
    console.print(table)
    console.print(outcome.sentence, style=_STYLES[outcome.change], highlight=False)
    for note in outcome.notes:
        console.print(f"- {note}", highlight=False)
    console.print("All comparisons, and a figure:", folder, soft_wrap=True, highlight=False)


def cell(value: object, form: str) -> str:
    """A value as text; nothing where there is none."""
    return "" if value is None or pd.isna(value) else format(value, form)  # type: ignore[call-overload]
