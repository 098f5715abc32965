"""The run's answer on the console."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.analysis.compared import rank_by_speed
from bench.analysis.diff import ALL_DECODES, DECODE, FASTER, SLOWER
from bench.analysis.diff_verdict import Change, Outcome, row_name
from bench.analysis.doubts import doubts
from bench.analysis.fit import fit_table
from bench.analysis.run import Run
from bench.analysis.verdict import Verdict
from bench.fit.judge import Judgement, sentence
from bench.records import FailureRecord
from bench.report.of_devices import HardwareReport

# Short enough for 80 columns; the page and summary.csv have the long names. head: of the LM, in ms; tau: mean
# acceptance length; pred.: tok/s as predicted.
_COLUMNS = (
    ("role", "what", "s"),
    ("vocab_size", "k", "d"),
    ("draft_length", "len", "d"),
    ("coverage_heldout", "cover", ".3f"),
    ("lm_head_ms", "head", ".2f"),
    ("mean_acceptance_length", "tau", ".2f"),
    ("tokens_per_s", "tok/s", ".1f"),
    ("predicted_tokens_per_s", "pred.", ".1f"),
    ("speedup_vs_autoregressive", "x plain", ".2f"),
    ("speedup_vs_full_vocab", "x full", ".2f"),
    ("identical_output_frac", "same", ".0%"),
)


def show(run: Run, summary: pd.DataFrame, verdicts: list[Verdict], console: Console) -> None:
    """One table per domain, the baseline check, then one sentence per domain."""
    for domain in run.decodes:
        title = f"{domain}: {run.environment['pair']}, {run.environment['dtype']}"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for _, heading, _ in _COLUMNS:
            table.add_column(heading, justify="right", no_wrap=True)
        for _, row in summary[summary["domain"] == domain].iterrows():
            table.add_row(*(_cell(row[name], form) for name, _, form in _COLUMNS))
        console.print(table)
    for baseline in run.baselines:
        ratio = baseline.generate_ms / baseline.plain_ms
        console.print(
            f"{baseline.domain}: plain loop {ratio:.2f}x as fast as transformers.generate (same weights)"
        )
    console.print(f"Device: {run.environment['device_name']}\n", highlight=False)
    for verdict in verdicts:
        console.print(f"[bold]{verdict.sentence()}[/bold]", highlight=False)
    for doubt in doubts(run):
        console.print(
            f"[yellow]Doubt[/yellow]: {escape(doubt.what)}. {escape(doubt.remedy)}.", highlight=False
        )


def show_fit(judgement: Judgement, console: Console) -> None:
    """Every latency model of every component, the best on held-out sizes first, then the verdict."""
    shown = {
        "model": "model", "held_out_error": "held-out error", "fit_error": "fit error", "r2": "R2",
        "domain": "domain", "draft_length": "gamma", "chosen_k": "chosen k",
        "regret_tokens_per_s": "regret tok/s", "note": "",
    }  # fmt: skip
    for name, judged in judgement.components.items():
        table = Table(title=name, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        found = fit_table(judged)[list(shown)].dropna(axis="columns", how="all")
        for column in found:
            table.add_column(shown[str(column)])
        for _, row in found.iterrows():
            table.add_row(*(_told(column, value) for column, value in row.items()))
        console.print(table)
        console.print(f"[bold]{escape(sentence(judgement, name))}[/bold]", highlight=False)


def _told(column: object, value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, str):
        return escape(value)
    forms = {
        "held_out_error": ".1%",
        "fit_error": ".1%",
        "r2": ".3f",
        "chosen_k": ",.0f",
        "draft_length": ".0f",
    }
    return format(value, forms.get(str(column), ".3g"))


def show_failures(failures: list[FailureRecord], console: Console) -> None:
    """What could not be measured, and why."""
    table = Table(title="could not be measured", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("case", "error", "reason"):
        table.add_column(heading)
    for failure in failures:
        case = " ".join(str(part) for part in failure.case if part is not None)
        table.add_row(escape(case), escape(failure.error), escape(failure.message))
    console.print(table)


def _cell(value: float | str | None, form: str) -> str:
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, str):
        # Several roles stand below each other, so that the table keeps to its width.
        return value.replace("+", "\n")
    return format(int(value) if form == "d" else value, form)


# Comparisons on the console.

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
