"""The report of a selection, with its figures, and the outcome of several as one table."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.selection import SelectionFindings
from bench.report.drawing import K_LABEL, PALETTE, captioned, log_k_axis
from bench.report.sections import Block, Paragraph, Points, Section, Table, section

_COLORS: list[tuple[float, float, float]] = list(sns.color_palette(PALETTE))

_BLUE, _ORANGE, _GREEN, _RED = _COLORS[:4]

_GREY = "0.35"

_GROUP = (
    "num_tokens_heldout", "share_heldout", "coverage_heldout", "num_tokens_ranking", "share_ranking",
    "coverage_ranking",
)  # fmt: skip

_OUTCOME = (
    "domain", "vocab_size", "coverage_heldout", "flops_reduction", "utility", "tpe_vocab_size", "tpe_regret",
)  # fmt: skip


def selection_report(found: SelectionFindings) -> Section:
    """Which vocabulary was chosen for a domain, and what it covers."""
    summary = found.summary
    cross = found.cross.reset_index(names="source")
    caption = (
        "Share of the held-out tokens of the domain in each column that the vocabulary chosen on the domain "
        "in each row covers."
    )
    n = f"n = {_n(summary, '')}"
    parts: list[Block | None] = [
        Paragraph(found.verdict(), tone="strong"),
        coverage_figure.picture(found, n),
        utility_figure.picture(found),
        section(
            "more",
            "More: coverage for FLOPs, and how often tokens occur",
            pareto_figure.picture(found),
            rank_frequency_figure.picture(found),
            is_folded=True,
        ),
        section("counted", "What was counted", Points(found.counted())),
        _groups(found),
        section(
            "cross",
            "Coverage across domains",
            Table(caption, cross, cross.columns.tolist(), other="coverage_heldout"),
        ),
        section("lost", "What is lost", Paragraph(found.losses())),
        section("method", "How k was chosen", Points(found.method())),
        section(
            "exports",
            "Exports",
            Paragraph("`exports/manifest.json` names every file, who loads it and how."),
        ),
    ]
    title = f"Draft vocabulary for {summary['domain']} ({summary['pair']})"
    return Section("report", title, [part for part in parts if part])


def _groups(found: SelectionFindings, is_brief: bool = False) -> Section | None:
    """Coverage of each script and language, with warnings; None for a selection of an older version."""
    if found.scripts.empty:
        return None
    domain = found.summary["domain"]
    title = f"{domain}: coverage by script and language" if is_brief else "Coverage by script and language"
    tables = [
        Table(caption, frame, (name, *_GROUP), is_brief=is_brief)
        for name, caption, frame in (
            ("script", "Coverage of each script of the text.", found.scripts),
            ("language", "Coverage of each language of the text.", found.languages),
        )
        if not frame.empty
    ]
    warnings = [Paragraph(text, is_brief, tone="bad") for text in found.silenced()]
    about = None if is_brief else Paragraph(found.about_groups())
    return section("groups", title, *warnings, *tables, about)


def selections_report(found: Sequence[SelectionFindings]) -> Section:
    """The outcome of several selections, for the console: a row per domain, and where each report is."""
    table = pd.DataFrame([item.row for item in found])
    files: list[str] = []
    for item in found:
        lost = item.left_out()
        files += [f"{item.summary['domain']}: {lost}"] if lost else []
        files.append(f"{item.summary['domain']}: {item.folder}/report.md")
    title = f"Draft vocabulary: {found[0].summary['pair']}"
    groups = [_groups(item, is_brief=True) for item in found if item.has_several_groups or item.silenced()]
    outcome = section("outcome", title, Table("", table, _OUTCOME, is_brief=True, brief_intervals=True))
    where = section("reports", "Reports", Points(files, is_brief=True, mark=""))
    return Section("report", title, [part for part in (*groups, where, outcome) if part])


@captioned(
    "coverage",
    "Share of tokens inside a vocabulary of k; bands: 95% bootstrap over conversations ({n}).",
)
def coverage_figure(data: SelectionFindings) -> Figure:
    """Coverage of ranking, held-out and other domains' responses at every k."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    table, summary = data.coverage, data.summary
    k = table["vocab_size"]
    _curve(
        axis, data, "coverage_train", f"ranking responses (optimistic), n = {_n(summary, '')}", _BLUE, "--"
    )
    if table["coverage_heldout"].notna().any():
        label = f"held-out responses, n = {_n(summary, '_heldout')}"
        _curve(axis, data, "coverage_heldout", label, _ORANGE, "-")
    markers = ("-.", ":", (0, (5, 1, 1, 1, 1, 1)))
    for index, (name, values) in enumerate(data.others.items()):
        color = sns.color_palette(PALETTE)[2 + index % 6]
        axis.plot(k, values, linestyle=markers[index % 3], color=color, label=f"{name}, held-out")
    _mark_k(axis, data)
    _log_k(axis, data)
    axis.set_ylabel("coverage (share of tokens)")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.24))
    _title(axis, data, "What a vocabulary of k tokens covers")
    return figure


@captioned(
    "utility",
    "Coverage against modelled cost, their weighted sum, and the search for its optimum.",
)
def utility_figure(data: SelectionFindings) -> Figure:
    """R(k), C(k) and U(k), with the estimator's trials and the exact optimum."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    table, summary = data.coverage, data.summary
    weight = summary["coverage_weight"]
    axis.plot(table["vocab_size"], table[data.judged], "--", color=_BLUE, label="coverage C(k)")
    axis.plot(table["vocab_size"], table["latency_reduction"], "-.", color=_GREEN, label="FLOPs saved R(k)")
    label = f"utility U(k) = {weight:g} C(k) + {1 - weight:g} R(k)"
    axis.plot(table["vocab_size"], table["utility"], "-", color=_GREY, label=label)
    trials = data.trials
    for feasible, marker, name in ((True, "o", "TPE trial"), (False, "x", "TPE trial below c_min")):
        chosen = trials[trials["feasible"] == feasible]
        if len(chosen):
            axis.plot(
                chosen["vocab_size"],
                chosen["utility"],
                marker,
                color=_ORANGE,
                markersize=5,
                alpha=0.6,
                label=f"{name}, n = {len(chosen)}",
            )
    best = table.iloc[summary["vocab_size"] - 1]
    _point(axis, best["vocab_size"], best["utility"], "exact optimum", summary["vocab_size"])
    if summary["min_coverage"] > 0:
        axis.axhline(summary["min_coverage"], color="0.6", linewidth=1, label="c_min")
    _log_k(axis, data)
    axis.set_ylabel("share (no unit)")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize="small", loc="lower left")
    _title(axis, data, "Coverage against modelled cost, and the search")
    return figure


@captioned(
    "pareto",
    "The highest coverage for a draft's FLOPs per drafted token.",
)
def pareto_figure(data: SelectionFindings) -> Figure:
    """The frontier of coverage against FLOPs per drafted token."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    frontier, table = data.pareto, data.coverage
    axis.plot(frontier["draft_flops"] / 1e6, frontier["coverage"], "-", color=_BLUE, label="Pareto frontier")
    for name, size in (
        ("exact optimum", data.summary["vocab_size"]),
        ("TPE", data.summary["tpe_vocab_size"]),
    ):
        if size:
            row = table.iloc[size - 1]
            _point(axis, row["draft_flops"] / 1e6, row[data.judged], name, size)
    axis.set_xlabel("draft FLOPs per drafted token (MFLOPs)")
    axis.set_ylabel("coverage (share of tokens)")
    axis.legend(fontsize="small", loc="lower right")
    _title(axis, data, "Highest coverage for the FLOPs of a draft")
    return figure


@captioned(
    "rank_frequency",
    "How often the token of each rank occurs in the ranking responses.",
)
def rank_frequency_figure(data: SelectionFindings) -> Figure:
    """How often the token of each rank occurs."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    counts = data.frequencies
    axis.loglog(np.arange(1, len(counts) + 1), counts, color=_BLUE, label=f"{len(counts):,} distinct tokens")
    _mark_k(axis, data)
    axis.set_xlabel("rank by frequency")
    axis.set_ylabel("occurrences (tokens)")
    axis.legend(fontsize="small")
    _title(axis, data, "Rank and frequency of the tokens in the ranking responses")
    return figure


def _curve(axis: Axes, data: SelectionFindings, column: str, label: str, color, line: str) -> None:
    table = data.coverage
    axis.plot(table["vocab_size"], table[column], linestyle=line, color=color, label=label)
    low, high = table[f"{column}_ci_low"], table[f"{column}_ci_high"]
    if low.notna().any():
        axis.fill_between(table["vocab_size"], low.astype(float), high.astype(float), color=color, alpha=0.2)


def _point(axis: Axes, x: float, y: float, name: str, size: int) -> None:
    """A chosen size: a red star for the exact optimum, an orange dot for that of the estimator."""
    marker, color, points = ("*", _RED, 16) if name == "exact optimum" else ("o", _ORANGE, 8)
    axis.plot(x, y, marker, color=color, markersize=points, zorder=5, label=f"{name}, k = {size:,}")


def _mark_k(axis: Axes, data: SelectionFindings) -> None:
    axis.axvline(data.size, color=_RED, linestyle="--", linewidth=1, label=f"chosen k = {data.size:,}")


def _log_k(axis: Axes, data: SelectionFindings) -> None:
    log_k_axis(axis, (2**n for n in range(4, 20) if 2**n <= len(data.coverage)))
    axis.set_xlim(left=16)
    axis.set_xlabel(K_LABEL)


def _n(summary: dict, side: str) -> str:
    return f"{summary[f'num_conversations{side}']:,} conversations, {summary[f'num_tokens{side}']:,} tokens"


def _title(axis: Axes, data: SelectionFindings, text: str) -> None:
    axis.set_title(f"{text}\n{data.summary['pair']}, {data.summary['domain']}", fontsize="medium")
