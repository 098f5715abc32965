"""The run's answer on the console."""

from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.fit.judge import Judgement, sentence
from bench.records import FailureRecord
from bench.report.doubts import doubts
from bench.report.fit_tables import fit_table
from bench.report.frames import Run
from bench.report.verdict import Verdict

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
