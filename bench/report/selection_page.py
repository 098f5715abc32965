"""A selection as a page of Markdown and as lines on the console."""

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench.report.selection_figures import draw_selection
from bench.report.selection_frames import SelectionData, read_selection

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
    forced = "" if data.size == s["vocab_size"] else f" (asked for; the optimum is {s['vocab_size']:,})"
    return (
        f"**k = {data.size:,}**{forced}: {share:.1%} fewer tokens than the target's "
        f"{s['target_vocab_size']:,}. "
        f"It covers {covered}, and saves {s['latency_reduction']:.1%} of the draft's FLOPs per token. "
        f"Counted: {whose}."
    )


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
