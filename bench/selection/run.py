"""Runs a selection for every domain of a configuration."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.config import Config
from bench.export.atomic import refuse_foreign, replace_folder
from bench.selection.choose import Selection, rank, select
from bench.selection.exports import export_of, write_exports
from bench.selection.prepare import Context, prepare
from bench.selection.write import SUMMARY, summary, write_tables
from bench.vocab.coverage import coverage_curve, cross_coverage


def run_select(config: Config, console: Console) -> list[Path]:
    """Counts, chooses, exports and reports; prints one line per domain.

    Returns:
        One folder per domain.

    Raises:
        BenchError: anything the user can mend; nothing half-written is left.
    """
    # Workers tokenize in one thread each, and a process must not be forked from a threaded tokenizer.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Before counting, which may take long.
    for source in config.domain.sources():
        refuse_foreign(folder_of(config, source.name).resolve(), SUMMARY)
    with console.status("starting") as status:
        context = prepare(config, status.update)
    selections = _select_all(context, console)
    cross = _cross_domain(context, selections)
    # Imported late: drawing brings in seconds of libraries that a refused configuration does not need.
    from bench.report.selection_page import read_selection, render_selection, show_selections

    folders = []
    for name, selection in selections.items():
        target = folder_of(config, name)
        with console.status(f"writing {target}"), replace_folder(target, SUMMARY) as folder:
            figures = summary(context, name, selection)
            write_tables(folder, context, name, selection, cross, figures)
            write_exports(folder, export_of(context, name, selection, figures))
            render_selection(read_selection(folder), _other_curves(context, name, selection))
        folders.append(target)
    show_selections([read_selection(folder) for folder in folders], console)
    return folders


def folder_of(config: Config, domain: str) -> Path:
    """Where the selection for `domain` goes: `out` itself, or a folder in it for each domain of a set."""
    if config.out is None:
        return Path(config.results_dir) / "vocab" / f"{config.pair.label}-{domain}"
    return Path(config.out) / domain if config.domain.members else Path(config.out)


def _select_all(context: Context, console: Console) -> dict[str, Selection]:
    settings = context.config.select
    names = [source.name for source in context.config.domain.sources()]
    totals = {name: counts.sides.ranking.total() for name, counts in context.counts.items()}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    selections = {}
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("searching", total=len(names) * settings.trials)
        for name in names:
            progress.update(bar, description=f"{name}: TPE trials")
            sides = context.counts[name].sides
            ranking = rank(totals, settings.ranking_weights() or {name: 1.0}, context.vocabulary)
            selections[name] = select(
                ranking,
                sides.ranking,
                sides.held_out,
                context.vocabulary,
                context.shape,
                settings,
                lambda: progress.advance(bar),
            )
    return selections


def _cross_domain(context: Context, selections: dict[str, Selection]) -> pd.DataFrame:
    """Held-out coverage of every domain and corpus (columns) by every chosen vocabulary (rows)."""
    held_out = {name: context.counts[name].sides.held_out.total() for name in context.counts}
    shares = cross_coverage({name: s.chosen for name, s in selections.items()}, held_out)
    table = pd.DataFrame(index=list(selections), columns=list(held_out), dtype=float)
    for (row, column), share in shares.items():
        table.loc[row, column] = np.nan if share is None else share
    return table


def _other_curves(context: Context, name: str, selection: Selection) -> dict[str, np.ndarray]:
    """Held-out coverage of the other domains at every k by this domain's ranking."""
    others = {other: c.sides.held_out.total() for other, c in context.counts.items() if other != name}
    return {other: coverage_curve(c, selection.order) for other, c in others.items() if c.any()}
