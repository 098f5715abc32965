"""A selection as a page of Markdown and as lines on the console."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from bench.analysis.selection import SelectionData, read_selection
from bench.report.drawing import K_LABEL, PALETTE, draw, log_k_axis

_SHOWN = 20


def render_selection(data: SelectionData, others: dict[str, np.ndarray]) -> None:
    """Draws the figures and writes `report.md`."""
    figures = draw_selection(data, others)
    lines = [
        f"# Draft vocabulary for {data.summary['domain']} ({data.summary['pair']})",
        "",
        verdict(data),
        "",
    ]
    lines += _figure_section(figures)
    lines += ["## What was counted", "", *_counted(data.summary), ""]
    lines += ["## Coverage across domains", "", _cross_caption(), "", _markdown(data.cross), ""]
    lines += ["## What is lost", "", *_lost_section(data), ""]
    lines += ["## How k was chosen", "", *_method(data), ""]
    lines += ["## Exports", "", "`exports/manifest.json` names every file, who loads it and how.", ""]
    (data.folder / "report.md").write_text("\n".join(lines), "utf-8")


def verdict(data: SelectionData) -> str:
    """The outcome in one or two sentences; every figure is from the summary."""
    s = data.summary
    share = 1 - data.size / s["target_vocab_size"]
    whose = "the target's own answers" if s["responses"] == "target" else "the data set's responses"
    covered = f"{s['coverage_train']:.1%} of the tokens that ranked it (optimistic)"
    if s["coverage_heldout"] is not None:
        covered = f"{s['coverage_heldout']:.1%} of held-out tokens{_interval(s)}, {covered}"
    lost = left_out(s)
    forced = "" if data.size == s["vocab_size"] else f" (asked for; the optimum is {s['vocab_size']:,})"
    return (
        f"**k = {data.size:,}**{forced}: {share:.1%} fewer tokens than the target's "
        f"{s['target_vocab_size']:,}. "
        f"It covers {covered}, and saves {s['latency_reduction']:.1%} of the FLOPs per token of a draft with "
        f"all of them. {_ceiling(s)}Counted: {whose}." + (f" {lost}" if lost else "")
    )


def _ceiling(s: dict) -> str:
    """What a draft that is trimmed already can reach at most; selections of older versions do not say."""
    if s.get("draft_vocab_size", s["target_vocab_size"]) == s["target_vocab_size"]:
        return ""
    reached = s["coverage_ceiling_heldout"]
    share, of = (s["coverage_ceiling_train"], "") if reached is None else (reached, "held-out ")
    return (
        f"The draft as it is has {s['draft_vocab_size']:,} tokens, which cover {share:.1%} of {of}tokens, "
        f"and {s['flops_saved_of_draft']:.1%} of its FLOPs are saved. "
    )


def left_out(s: dict) -> str | None:
    """Responses that the target's chat template does not show; None if it shows everything."""
    num_tokens = s["num_tokens_left_out"] + s["num_tokens_left_out_heldout"]
    if not num_tokens:
        return None
    fields = ", ".join(
        f"{name} ({of['num_tokens'] + of['num_tokens_heldout']:,} tokens in {of['num_turns']:,} turns)"
        for name, of in s["left_out"].items()
    )
    rest = ""
    if s["coverage_heldout_of_all_written"] is not None:
        rest = (
            f"; {s['coverage_heldout_of_all_written']:.1%} of everything written on the held-out side is "
            "known to be covered"
        )
    return (
        f"The target's chat template does not show {num_tokens:,} tokens of what was written, so they are "
        f"not counted: {fields}{rest}."
    )


def _counted(s: dict) -> list[str]:
    rows, silent = s["rows"], s["num_conversations_without_response"]
    used = s["num_conversations"] + s["num_conversations_heldout"]
    lines = [f"- {rows['num_read']:,} rows were read, {used:,} of them had a response that was counted."]
    if silent:
        lines.append(f"- {silent:,} had none.")
    for reason, seen in rows["set_aside"].items():
        lines.append(f"- {seen['num_rows']:,} set aside: {reason} (first: {seen['first']}).")
    for what, seen in rows["in_part"].items():
        lines.append(f"- {seen['num_rows']:,} used without {what} (first: {seen['first']}).")
    lost = left_out(s)
    return [*lines, f"- {lost}"] if lost else lines


def show_selections(selections: list[SelectionData], console: Console) -> None:
    """One line per domain, then where the files are."""
    title = f"Draft vocabulary: {selections[0].summary['pair']}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("domain", "k*", "held-out C(k) [95%]", "R(k)", "U(k)", "TPE k", "regret"):
        table.add_column(heading, justify="left" if heading == "domain" else "right", no_wrap=True)
    for data in selections:
        s = data.summary
        held_out, tpe_size, tpe_regret = "none", "none", "none"
        if s["coverage_heldout"] is not None:
            held_out = f"{s['coverage_heldout']:.3f}{_interval(s, '.3f')}"
        if s["tpe_vocab_size"] is not None:
            tpe_size, tpe_regret = f"{s['tpe_vocab_size']:,}", f"{s['tpe_regret']:.2g}"
        table.add_row(
            s["domain"],
            f"{data.size:,}",
            held_out,
            f"{s['latency_reduction']:.4f}",
            f"{s['utility']:.4f}",
            tpe_size,
            tpe_regret,
        )
    console.print(table)
    for data in selections:
        if lost := left_out(data.summary):
            console.print(f"{data.summary['domain']}: {lost}", highlight=False, soft_wrap=True, markup=False)
        console.print(f"{data.summary['domain']}: {data.folder}/report.md", highlight=False, soft_wrap=True)


def _interval(s: dict, form: str = ".1%") -> str:
    low, high = s["coverage_heldout_ci_low"], s["coverage_heldout_ci_high"]
    return "" if low is None else f" [{low:{form}}, {high:{form}}]"


def _figure_section(figures) -> list[str]:
    return [line for path in figures for line in (f"![{path.stem}](figures/{path.name})", "")]


def _cross_caption() -> str:
    return (
        "Share of the held-out tokens of the domain in each column that the vocabulary chosen on the "
        "domain in each row covers."
    )


def _markdown(table) -> str:
    return table.map(lambda v: "" if v != v else f"{v:.3f}").to_markdown()


def _lost_section(data: SelectionData) -> list[str]:
    if not len(data.lost):
        return ["No token that was counted is outside of the vocabulary."]
    shown = data.lost.head(_SHOWN)
    tokens = ", ".join(f"`{_visible(str(row.token))}` ({row.count_heldout})" for row in shown.itertuples())
    return [
        f"The {len(shown)} most frequent tokens outside of the vocabulary, with their occurrences in "
        f"held-out responses (`lost_tokens.csv` has more): {tokens}."
    ]


def _visible(token: str) -> str:
    return repr(token)[1:-1].replace("`", "\u02cb").replace(" ", "\u00b7")


def _method(data: SelectionData) -> list[str]:
    s = data.summary
    ranking = ", ".join(f"{name} {weight:g}" for name, weight in s["ranking"].items())
    tpe = (
        f"TPE ({len(data.trials)} trials) found k = {s['tpe_vocab_size']:,}, {s['tpe_regret']:.2g} below "
        "the optimum."
        if s["tpe_vocab_size"]
        else f"TPE: {s['tpe_note']}."
    )
    return [
        f"- Tokens are ranked by frequency in {s['num_tokens']:,} tokens of {s['num_conversations']:,} "
        f"conversations ({s['num_distinct_tokens']:,} distinct); ranked on: {ranking}. {s['num_must_keep']} "
        "tokens are always kept.",
        f"- U(k) = {s['coverage_weight']:g} C(k) + {1 - s['coverage_weight']:g} R(k) under C(k) >= "
        f"{s['min_coverage']:g}, with C(k) of the {s['coverage_of'].replace('_', '-')} responses, over "
        f"every k from {s['k_min']:,} to {s['k_max']:,} in steps of {s['multiple']} (arXiv 2603.05210).",
        "- R(k) = 1 - F(k)/F(V), F the draft's FLOPs per drafted token. FLOPs are not time: `make bench` "
        "measures.",
        f"- {tpe}",
    ]


__all__ = ["read_selection", "render_selection", "show_selections", "verdict"]


# The figures of a selection, one function each; colour-blind safe, k on a logarithmic axis.

_COLORS: list[tuple[float, float, float]] = list(sns.color_palette(PALETTE))

_BLUE, _ORANGE, _GREEN, _RED = _COLORS[:4]

_GREY = "0.35"


def draw_selection(data: SelectionData, others: dict[str, np.ndarray]) -> list[Path]:
    """Draws every figure into `figures/` as PNG and SVG; returns the PNGs.

    Args:
        data: the selection.
        others: held-out coverage of other domains at every k by this ranking, by name.
    """
    drawings = {
        "coverage": lambda: coverage_figure(data, others),
        "utility": lambda: utility_figure(data),
        "pareto": lambda: pareto_figure(data),
        "rank_frequency": lambda: rank_frequency_figure(data),
    }
    return draw(drawings, data.folder / "figures")


def coverage_figure(data: SelectionData, others: dict[str, np.ndarray]) -> Figure:
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
    for index, (name, values) in enumerate(others.items()):
        color = sns.color_palette(PALETTE)[2 + index % 6]
        axis.plot(k, values, linestyle=markers[index % 3], color=color, label=f"{name}, held-out")
    _mark_k(axis, data)
    _log_k(axis, data)
    axis.set_ylabel("coverage (share of tokens)")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.24))
    _title(axis, data, "What a vocabulary of k tokens covers; bands: 95% bootstrap over conversations")
    return figure


def utility_figure(data: SelectionData) -> Figure:
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
    axis.plot(
        best["vocab_size"],
        best["utility"],
        "*",
        color=_RED,
        markersize=16,
        zorder=5,
        label=f"exact optimum, k = {summary['vocab_size']:,}",
    )
    if summary["min_coverage"] > 0:
        axis.axhline(summary["min_coverage"], color="0.6", linewidth=1, label="c_min")
    _log_k(axis, data)
    axis.set_ylabel("share (no unit)")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize="small", loc="lower left")
    _title(axis, data, "Coverage against modelled cost, and the search")
    return figure


def pareto_figure(data: SelectionData) -> Figure:
    """The frontier of coverage against FLOPs per drafted token."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8))
    frontier, table = data.pareto, data.coverage
    axis.plot(frontier["draft_flops"] / 1e6, frontier["coverage"], "-", color=_BLUE, label="Pareto frontier")
    marked = [("exact optimum", data.summary["vocab_size"], "*", _RED, 16)]
    if data.summary["tpe_vocab_size"]:
        marked.append(("TPE", data.summary["tpe_vocab_size"], "o", _ORANGE, 8))
    for name, size, marker, color, points in marked:
        row = table.iloc[size - 1]
        axis.plot(
            row["draft_flops"] / 1e6,
            row[data.judged],
            marker,
            color=color,
            markersize=points,
            zorder=5,
            label=f"{name}, k = {size:,}",
        )
    axis.set_xlabel("draft FLOPs per drafted token (MFLOPs)")
    axis.set_ylabel("coverage (share of tokens)")
    axis.legend(fontsize="small", loc="lower right")
    _title(axis, data, "Coverage to be had for a draft's FLOPs")
    return figure


def rank_frequency_figure(data: SelectionData) -> Figure:
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


def _curve(axis: Axes, data: SelectionData, column: str, label: str, color, line: str) -> None:
    table = data.coverage
    axis.plot(table["vocab_size"], table[column], linestyle=line, color=color, label=label)
    low, high = table[f"{column}_ci_low"], table[f"{column}_ci_high"]
    if low.notna().any():
        axis.fill_between(table["vocab_size"], low.astype(float), high.astype(float), color=color, alpha=0.2)


def _mark_k(axis: Axes, data: SelectionData) -> None:
    axis.axvline(data.size, color=_RED, linestyle="--", linewidth=1, label=f"chosen k = {data.size:,}")


def _log_k(axis: Axes, data: SelectionData) -> None:
    log_k_axis(axis, (2**n for n in range(4, 20) if 2**n <= len(data.coverage)))
    axis.set_xlim(left=16)
    axis.set_xlabel(K_LABEL)


def _n(summary: dict, side: str) -> str:
    return f"{summary[f'num_conversations{side}']:,} conversations, {summary[f'num_tokens{side}']:,} tokens"


def _title(axis: Axes, data: SelectionData, text: str) -> None:
    axis.set_title(f"{text}\n{data.summary['pair']}, {data.summary['domain']}", fontsize="medium")
