"""Comparisons on the console."""

from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench.compare.diff import ALL_DECODES, DECODE, FASTER, SLOWER
from bench.compare.frames import rank_by_speed
from bench.compare.hardware_report import HardwareReport
from bench.compare.outcome import Change, Outcome, row_name

_RANK = (
    ("place", "#", "d"),
    ("device", "device", "s"),
    ("vocab_size", "k", ",d"),
    ("draft_length", "gamma", "d"),
    ("tokens_per_s", "tok/s", ".1f"),
    ("speedup_vs_plain", "x plain", ".2f"),
    ("tokens_per_joule", "tok/J", ".3g"),
)
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
    console.print(outcome.sentence, style=_STYLES[outcome.change], highlight=False, markup=False)
    for note in outcome.notes:
        console.print(f"- {note}", highlight=False, markup=False)
    console.print("All comparisons, and a figure:", folder, soft_wrap=True, highlight=False)


def show_hardware(report: HardwareReport, console: Console) -> None:
    """Devices by measured speed, the verdicts, and what cannot be compared."""
    ranked = rank_by_speed(report.best)
    for (case, domain), rows in ranked.groupby(["case", "domain"], sort=True):
        table = Table(title=f"{domain}: {case}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name, heading, _ in _RANK:
            table.add_column(heading, justify="left" if name == "device" else "right")
        for _, row in rows.iterrows():
            table.add_row(*(cell(row[name], form) for name, _, form in _RANK))
        console.print(table)
    for text in report.verdicts():
        console.print(text, style="bold", highlight=False, markup=False)
    for text in (*report.transfers(), *report.limits()):
        console.print(f"- {text}", highlight=False, markup=False)


def cell(value: object, form: str) -> str:
    """A value as text; nothing where there is none."""
    return "" if value is None or pd.isna(value) else format(value, form)  # type: ignore[call-overload]
