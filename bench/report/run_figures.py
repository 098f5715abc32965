"""The figures of one run, each with its caption; a new one is a function here, named in `of_run.py`."""

from collections.abc import Hashable, Mapping
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.findings import Findings
from bench.analysis.metrics import format_interval, format_roles, format_variant
from bench.analysis.run import COLD, GRAPH, IN_SITU, WARM
from bench.analysis.verdict import NEGLIGIBLE
from bench.report.drawing import (
    INK,
    K_LABEL,
    PALETTE,
    captioned,
    error_bars,
    log_k_axis,
    outlined_sizes,
    stack_bars,
    title_figure,
)

_OVER_PROMPTS = "95% intervals over prompts"

_STACK = (("layer", "draft layer"), ("lm_head", "LM head"), ("select", "token selection"))

_SMALLEST = 16  # below it nothing is fast, and the axis would be mostly empty


def panels(found: Findings, rows: int = 1, height: float = 4.2, **options) -> tuple[Figure, np.ndarray]:
    """A grid with one column of axes per domain, titled."""
    figure, axes = plt.subplots(
        rows, len(found.domains), figsize=(4.3 * len(found.domains) + 0.9, height), squeeze=False, **options
    )
    for axis, domain in zip(axes[0], found.domains, strict=True):
        axis.set_title(domain)
    return figure, axes


@captioned(
    "speedup",
    "Decodes from start to end, which test the prediction. Bars: over plain decoding, on the same prompts; "
    "numbers beside them: over the full-vocabulary draft. Optimum: what the run advises; paper: the k* of "
    f"the paper's utility. Error bars and brackets: {_OVER_PROMPTS}, as pairs ({{n}}).",
)
def speedup_figure(found: Findings) -> Figure:
    """Measured throughput over plain decoding of everything that was decoded, with intervals."""
    summary = found.summary
    num_bars = summary[summary["draft_length"] > 0].groupby("domain").size().max()
    figure, axes = panels(found, height=max(4.2, 1.5 + 0.8 * num_bars), sharex=True)
    for axis, domain in zip(axes[0], found.domains, strict=True):
        rows = summary[(summary["domain"] == domain) & (summary["draft_length"] > 0)]
        rows = rows.iloc[::-1]
        value = rows["speedup_vs_autoregressive"]
        low, high = (rows[f"speedup_vs_autoregressive_ci_{end}"] for end in ("low", "high"))
        is_best = ["optimum" in role.split("+") for role in rows["role"]]
        colors = [sns.color_palette(PALETTE)[1 if best else 0] for best in is_best]
        axis.barh(
            range(len(rows)), value, xerr=[value - low, high - value], color=colors, ecolor=INK, capsize=3
        )
        axis.axvline(1, color=INK, linewidth=1, linestyle="--")
        axis.set_xlabel("speedup over plain decoding (x)")
        axis.set_yticks(range(len(rows)), [""] * len(rows))
        for place, row in enumerate(rows.to_dict("records")):
            _name_bar(axis, place, row, found.run.full_size)
    return title_figure(figure, found.run.environment, "Measured decoding speed")


def _name_bar(axis: Axes, place: int, row: Mapping[Hashable, Any], full_size: int) -> None:
    """Says left of a bar what it is of, and its speed over the full-vocabulary draft."""
    lines = [format_roles(row["role"]), format_variant(row["vocab_size"], row["draft_length"])]
    if row["vocab_size"] != full_size:
        name = "speedup_vs_full_vocab"
        value, low, high = (row[f"{name}{end}"] for end in ("", "_ci_low", "_ci_high"))
        speedup, _, interval = format_interval(name, value, low, high, with_unit=True).partition(" ")
        lines.append(f"{speedup} full {interval}")
    # A text for each line: browsers, whose letters have other widths, align only single lines to the right.
    for number, text in enumerate(lines):
        axis.annotate(
            text,
            (0, place),
            xycoords=("axes fraction", "data"),
            xytext=(-8, 13 * ((len(lines) - 1) / 2 - number)),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize="small",
        )


@captioned(
    "acceptance",
    "Above: tokens per target pass, replayed over the target's own held-out answers ({n}); a line per draft "
    "length. Below: the coverage that stands in for it, of those answers and, optimistically, of the answers "
    "that made the ranking. Counts, so without intervals.",
)
def acceptance_figure(found: Findings) -> Figure:
    """Mean acceptance length of every size by draft length, and coverage, which stands in for it."""
    figure, axes = panels(found, rows=2, height=7.4, sharex=True, sharey="row")
    for column, domain in enumerate(found.domains):
        surface, (top, bottom) = found.surface(domain), axes[:, column]
        colors = sns.color_palette("crest", len(surface.draft_lengths))
        for row, gamma in enumerate(surface.draft_lengths):
            tau = surface.mean_acceptance_length[row]
            top.step(surface.sizes, tau, where="post", color=colors[row], label=f"gamma = {gamma}")
        covered = found.coverage[found.coverage["domain"] == domain]
        bottom.plot(covered["vocab_size"], covered["coverage_heldout"], label="held-out answers")
        bottom.plot(
            covered["vocab_size"], covered["coverage_ranking"], "--", label="ranking answers (optimistic)"
        )
        bottom.set_xlabel(K_LABEL)
        ticks = outlined_sizes(found.run.full_size)
        log_k_axis(bottom, ticks)
        bottom.set_xlim(left=ticks[0] if len(ticks) > 1 else 1)
    axes[0, 0].set_ylabel("mean acceptance length\n(tokens per target pass)")
    axes[1, 0].set_ylabel("coverage\n(share of tokens)")
    for last in axes[:, -1]:  # beside the panels, whose curves it would hide
        last.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    axes[0, 0].set_ylim(bottom=1)
    return title_figure(figure, found.run.environment, "What every vocabulary size accepts and covers")


@captioned(
    "position",
    "Share of rounds in which the target agrees with the drafted token at a position and with all before it, "
    "replayed at the longest draft length ({n}). Counts, so without intervals.",
)
def position_figure(found: Findings) -> Figure:
    """Acceptance by draft position, with the full, the best and the paper's vocabulary."""
    figure, axes = panels(found, sharey=True)
    for axis, domain in zip(axes[0], found.domains, strict=True):
        rows = found.positions[found.positions["domain"] == domain]
        styles = zip(("o-", "s-", "^--"), (6, 3.5, 1.5), (11, 7, 4), strict=True)
        lines = rows.groupby("vocabulary", sort=False)
        # Where they are equal, the one behind is still seen.
        for (label, line), (style, width, size) in zip(lines, styles, strict=False):
            axis.plot(
                line["position"], line["accepted"], style, linewidth=width, markersize=size, label=label
            )
        axis.set_xlabel("draft position")
        axis.set_ylim(0, 1)
        axis.legend(fontsize="small")
    axes[0, 0].set_ylabel("acceptance at position\n(share of rounds)")
    return title_figure(figure, found.run.environment, "Acceptance by draft position")


@captioned(
    "draft_latency",
    "Medians of chained draft steps inside real rounds ({n}, several steps each). A step's layer follows the "
    "head of the step before: what the head reads can displace the layer's weights from the cache.",
)
def latency_figure(found: Findings) -> Figure:
    """Median draft step by vocabulary size, stacked by what takes the time."""
    return _stacked_steps(found)


@captioned(
    "draft_latency",
    "Rounds are CUDA graphs here, with no marks inside. Bars: medians of the parts of a draft step as graphs "
    "on their own, with a cold cache. Dots: a chained step inside real rounds ({n}), from what rounds of "
    "several draft lengths take.",
)
def graph_latency_figure(found: Findings) -> Figure | None:
    """The same where rounds are graphs."""
    return None if found.step_parts.empty else _stacked_steps(found)


def _stacked_steps(found: Findings) -> Figure:
    figure, axes = panels(found, sharey=True)
    for axis, domain in zip(axes[0], found.domains, strict=True):
        rows = found.step_parts[found.step_parts["domain"] == domain]
        stack_bars(axis, rows, _STACK)
        if "inside" in rows and rows["inside"].notna().any():
            names = [f"{k:,}" for k in rows["vocab_size"]]
            axis.plot(names, rows["inside"], "o", color=INK, label="inside rounds")
            axis.set_ylim(top=1.7 * rows["inside"].max())  # room for the legend
        axis.tick_params(axis="x", rotation=40, labelsize="small")
    axes[0, 0].set_ylabel("median draft step (ms)")
    axes[0, 0].legend(loc="upper left")
    return title_figure(figure, found.run.environment, "Where the time of a draft step goes")


@captioned(
    "round_latency",
    "Medians inside real rounds ({n}). Bars: 95% bootstrap intervals of the median, over whole prompts.",
)
def round_figure(found: Findings) -> Figure:
    """What comes once a round, by draft length, with intervals."""
    figure, axes = panels(found, sharey=True)
    parts = (
        ("verify", "verification of gamma + 1"),
        ("draft", "draft's graph, full vocabulary"),
        ("extend", "extend step"),
        ("other", "rest"),
    )
    by_part = found.latency[found.latency["vocab_size"].fillna(found.run.full_size) == found.run.full_size]
    for axis, domain in zip(axes[0], found.domains, strict=True):
        for part, label in parts:
            rows = by_part[(by_part["domain"] == domain) & (by_part["part"] == part)]
            if rows.empty:
                continue
            lengths = rows["draft_length"].astype(int)
            error_bars(axis, lengths, rows, "median_ms", ("ci_low_ms", "ci_high_ms"), fmt="o-", label=label)
        axis.set_xlabel("draft length gamma (tokens)")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("median latency (ms)")
    axes[0, 0].legend(fontsize="small")
    return title_figure(figure, found.run.environment, "What comes once a round")


@captioned(
    "isolated",
    "On their own, parts may find their weights in the cache (warm); inside a round they do not. Bars: 95% "
    "bootstrap intervals of the median, over whole prompts inside rounds and over samples elsewhere.",
)
def isolated_figure(found: Findings) -> Figure | None:
    """The LM head and verification inside rounds, and on their own with the cache cold and warm."""
    if not found.run.isolated:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    cases = (("lm_head", K_LABEL), ("verify", "draft length gamma (tokens)"))
    table = found.parts_by_setting
    as_graphs = table["setting"].str.endswith(GRAPH).any()
    how = f"_{GRAPH}" if as_graphs else ""
    settings = (
        (IN_SITU, "inside rounds", "o-"),
        (f"{COLD}{how}", f"on its own{' as a CUDA graph' if as_graphs else ''}, cold", "s--"),
        (f"{WARM}{how}", "warm", "^:"),
    )
    for axis, (part, label) in zip(axes, cases, strict=True):
        for setting, name, style in settings:
            rows = table[(table["part"] == part) & (table["setting"] == setting)]
            if len(rows):
                sizes = rows["size"].astype(int)
                ends = ("ci_low_ms", "ci_high_ms")
                error_bars(axis, sizes, rows, "median_ms", ends, fmt=style, label=name)
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("median LM head (ms)")
    axes[1].set_ylabel("median verification (ms)")
    log_k_axis(axes[0], found.latency["vocab_size"].dropna().astype(int))
    axes[0].legend(fontsize="small")
    return title_figure(figure, found.run.environment, "Parts inside rounds and on their own")


@captioned(
    "surface",
    "The star is what is advised, the diamond the paper's k* at its best draft length; inside the red border "
    f"nothing is significantly more than {NEGLIGIBLE:.0%} slower than the fastest (95%, prompts and blocks "
    "of time left out one by one).",
)
def surface_figure(found: Findings) -> Figure:
    """Predicted tokens/s over size and draft length, with optimum, confidence set and the paper's k."""
    figure, axes = plt.subplots(
        1, len(found.domains), figsize=(5.2 * len(found.domains) + 0.6, 4.4), squeeze=False
    )
    for axis, domain in zip(axes[0], found.domains, strict=True):
        surface, advice = found.surface(domain), found.advice(domain)
        edges = np.append(surface.sizes, surface.sizes[-1] * 1.2)
        rows = np.arange(len(surface.draft_lengths) + 1) - 0.5
        mesh = axis.pcolormesh(edges, rows, surface.tokens_per_s, cmap="viridis", rasterized=True)
        figure.colorbar(mesh, ax=axis, label="predicted tokens/s")
        _outline(axis, edges, surface.is_equal)
        # The star stays visible inside the diamond, where both are at one place.
        for variant, marker, width, label in (
            (advice.paper, "D", 13, "paper's k* at its best gamma"),
            (advice.best, "*", 11, "optimum"),
        ):
            size, row = variant.vocab_size, surface.place(variant)[0]
            style = {"color": "white", "markeredgecolor": "black", "markersize": width}
            axis.plot(size, row, marker, label=label, **style)
        axis.plot([], [], color="red", label=f"not significantly more than {NEGLIGIBLE:.0%} slower")
        log_k_axis(axis, outlined_sizes(found.run.full_size))
        axis.set_xlim(min(_SMALLEST, edges[-2]), edges[-1])
        axis.set_yticks(range(len(surface.draft_lengths)), [str(g) for g in surface.draft_lengths])
        axis.set_title(domain)
        axis.set_xlabel(K_LABEL)
        axis.grid(False)
    axes[0, 0].set_ylabel("draft length gamma (tokens)")
    text = "Predicted speed of every vocabulary size and draft length"
    title_figure(figure, found.run.environment, text)
    # Below the maps, which it would hide.
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3
    )
    return figure


def _outline(axis: Axes, edges: np.ndarray, inside: np.ndarray) -> None:
    """Draws the border of a set of cells."""
    for row, cells in enumerate(inside):
        changes = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
        for start, end in zip(changes[::2], changes[1::2], strict=True):
            x = [edges[start], edges[end], edges[end], edges[start], edges[start]]
            y = [row - 0.46, row - 0.46, row + 0.46, row + 0.46, row - 0.46]
            axis.plot(x, y, color="red", linewidth=1)


@captioned(
    "prediction",
    "Every decoded draft ({n}). Bars: 95% intervals of the prediction for these texts, with prompts and "
    "blocks of time left out one by one; the band is 7% wide on either side.",
)
def prediction_figure(found: Findings) -> Figure:
    """Predicted against measured tokens/s of every decoded draft."""
    figure, axis = plt.subplots(figsize=(6.4, 6.4))
    drafts = found.summary[found.summary["draft_length"] > 0]
    by_domain = drafts.groupby("domain")
    for color, (domain, rows) in zip(cycle(sns.color_palette(PALETTE)), by_domain, strict=False):
        label = f"{domain}: mean absolute error {found.prediction_errors[str(domain)]:.1%}"
        ends = ("predicted_ci_low", "predicted_ci_high")
        style = {"fmt": "o", "color": color, "capsize": 2, "label": label}
        error_bars(axis, rows["tokens_per_s"], rows, "predicted_tokens_per_s", ends, **style)
    limits = np.array([drafts["tokens_per_s"].min() * 0.9, drafts["tokens_per_s"].max() * 1.1])
    axis.plot(limits, limits, color=INK, linewidth=1)
    axis.fill_between(limits, limits * 0.93, limits * 1.07, color="0.5", alpha=0.15, label="within 7%")
    axis.set_xlabel("measured tokens/s")
    axis.set_ylabel("predicted tokens/s")
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return title_figure(figure, found.run.environment, "Predicted and measured speed")


@captioned(
    "cross_domain",
    "Vocabularies used on other domains than the one that chose them, over the full vocabulary ({n}). Above "
    "1, trimming still pays.",
)
def cross_figure(found: Findings) -> Figure:
    """Acceptance and speed of each domain with the vocabulary chosen on each source."""
    run, cross = found.run, found.kept_across
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 0.7 * len(run.rankings) + 2.6), sharey=True)
    chosen = zip(cross["source"], cross["vocab_size"], cross["draft_length"], strict=True)
    labels = {source: f"{source} ({format_variant(*variant)})" for source, *variant in chosen}
    for axis, column, title in (
        (axes[0], "kept", "mean acceptance length\nover that of the full vocabulary"),
        (axes[1], "predicted_speedup_vs_full_vocab", "predicted speed\nover that of the full vocabulary (x)"),
    ):
        table = cross.pivot(index="source", columns="domain", values=column)
        table = table.loc[list(labels), found.domains].rename(index=labels)
        sns.heatmap(table, annot=True, fmt=".3f", center=1, cmap="vlag_r", ax=axis, cbar=False)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("prompts of")
        axis.set_ylabel("")
    axes[0].set_ylabel("vocabulary chosen on")
    return title_figure(figure, run.environment, "A vocabulary chosen on one domain, used on another")


METHOD = (
    "Acceptance of every vocabulary size and draft length is replayed. The draft, with its whole head, is "
    "unrolled over the target's own held-out answers. For each place and depth the sizes that draft the "
    "target's token y form one interval, rank(y) <= k < the smallest rank among tokens that beat y; walking "
    "the rounds over those intervals counts what decoding accepts. Sampled answers give the expected "
    "acceptance instead, on a grid of sizes: a token of theirs came from an accepted draft with probability "
    "min(1, draft / target).",
    "Latency of a round's parts is probed inside real rounds, on a few of these prompts: every size and "
    "draft length twice or more on each, and plain decoding, in seeded random order.",
    "Predicted tokens/s = tokens / sum of (draft prefill + rounds x round latency), where a round takes "
    "T_first(k) + (gamma - 1) T_step(k) + T_verify(gamma + 1) + T_other. What two variants have in common is "
    "estimated once, from all probes: a gain is made of what differs between them. 95% intervals leave out "
    "one replayed prompt at a time, then all that was probed on one (jackknife, t quantile).",
    f"Sizes are as good that are not significantly more than {NEGLIGIBLE:.0%} slower than the fastest. The "
    "advice follows a rule set before the run: by default, of all that are themselves predicted at most "
    f"{NEGLIGIBLE / 2:.1%} slower than the fastest, the draft length nearest to the middle of those that are "
    "as good, and the largest size there.",
    "Then decodes test it: plain; the full vocabulary at the advised draft length, or at one that is "
    "significantly faster for it; the advised variant; the "
    "paper's k* (the optimum of U(k) = a C(k) + (1 - a) R(k), arXiv 2603.05210) at its best draft length. "
    "All share every prompt, in seeded random order, among further probes, by which they are predicted. "
    "Where rounding made a decode write another text than was replayed, its rounds are counted from there on "
    "as it made them: their time is predicted, and their number is not.",
    "tokens/s counts the tokens after the first, over the time from the end of the target's prefill; the "
    "draft's own prefill is in that time. Speedups of decodes are total throughput over the same prompts, "
    "with 95% intervals that leave out one prompt at a time, as pairs.",
    "Acceptance rate is accepted over drafted tokens. Mean acceptance length counts tokens per target pass, "
    "bonus token included.",
    "Held-out coverage C(k) is over the target's answers to prompts that the ranking never saw.",
    "FLOPs count 2 per multiply-add, and embedding lookups 0; R(k) is the share of a draft's latency, or of "
    "its FLOPs, that a vocabulary of k saves.",
    "A prompt whose answer ended with its first token is left out: decoding it takes no time.",
)
