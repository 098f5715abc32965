"""The run's figures: what was decoded, what a draft step costs, what trimming costs in acceptance."""

from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.run import COLD, IN_SITU, WARM, Run
from bench.analysis.summary import held_out_tokens
from bench.analysis.surfaces import Surfaces, acceptance_by_position
from bench.fit.judge import Judgement
from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY
from bench.report.drawing import INK, K_LABEL, PALETTE, Drawing, Drawings, log_k_axis, title_figure
from bench.report.latency_figures import fit_figure, roofline_figure
from bench.report.sections import Tables
from bench.report.telemetry_figure import telemetry_figure
from bench.surface.predict import NEGLIGIBLE

_STACK = (("layer", "draft layer"), ("lm_head", "LM head"), ("select", "token selection"))


def run_drawings(surfaces: Surfaces, tables: Tables, judgement: Judgement | None) -> Drawings:
    """Every figure of a run by name, to be drawn."""
    run = surfaces.run
    drawings: dict[str, Drawing] = {
        "speedup": lambda: speedup_figure(run, tables.summary),
        "surface": lambda: surface_figure(surfaces),
        "acceptance": lambda: acceptance_figure(surfaces),
        "position": lambda: position_figure(surfaces),
        "draft_latency": lambda: latency_figure(run, tables.latency),
        "round_latency": lambda: round_figure(run, tables.latency),
        "isolated": lambda: isolated_figure(run, tables.latency) if run.isolated else None,
        "prediction": lambda: prediction_figure(run, tables.summary),
        "cross_domain": lambda: cross_figure(run, tables.cross),
        "telemetry": lambda: telemetry_figure(run),
    }
    if judgement:
        drawings["roofline"] = lambda: roofline_figure(judgement)
        for name in judgement.components:
            drawings[f"fit_{name}"] = partial(fit_figure, judgement, name)
    return drawings


def panels(run: Run, rows: int = 1, height: float = 4.2, **options) -> tuple[Figure, np.ndarray]:
    """A grid with one column of axes per domain, titled."""
    domains = list(run.decodes)
    figure, axes = plt.subplots(
        rows, len(domains), figsize=(4.3 * len(domains) + 0.9, height), squeeze=False, **options
    )
    for axis, domain in zip(axes[0], domains, strict=True):
        axis.set_title(domain)
    return figure, axes


def speedup_figure(run: Run, summary: pd.DataFrame) -> Figure:
    """Measured throughput over plain decoding of everything that was decoded, with intervals."""
    figure, axes = panels(run, sharex=True)
    for axis, domain in zip(axes[0], run.decodes, strict=True):
        rows = summary[(summary["domain"] == domain) & (summary["draft_length"] > 0)]
        rows = rows.iloc[::-1]
        cases = zip(rows["role"], rows["vocab_size"], rows["draft_length"], strict=True)
        names = [f"{role.replace('+', ', ')}\nk = {k:,}, gamma = {gamma}" for role, k, gamma in cases]
        value = rows["speedup_vs_autoregressive"]
        low, high = (rows[f"speedup_vs_autoregressive_ci_{end}"] for end in ("low", "high"))
        is_best = ["optimum" in role.split("+") for role in rows["role"]]
        colors = [sns.color_palette(PALETTE)[1 if best else 0] for best in is_best]
        axis.barh(names, value, xerr=[value - low, high - value], color=colors, ecolor=INK, capsize=3)
        _tell_over_full(axis, rows, run.full_size)
        axis.axvline(1, color=INK, linewidth=1, linestyle="--")
        axis.set_xlabel("speedup over plain decoding (x)")
        axis.tick_params(axis="y", labelsize="small")
    counts = ", ".join(f"{domain} n = {len(prompts)}" for domain, prompts in run.prompts.items())
    return title_figure(
        figure,
        run.environment,
        f"Measured decoding speed; bars: 95% bootstrap interval over prompts ({counts})",
    )


def _tell_over_full(axis: Axes, rows: pd.DataFrame, full_size: int) -> None:
    """Speed over the full-vocabulary draft, on the bars of the others; beside a bar that is too short."""
    for place, row in enumerate(rows.to_dict("records")):
        if row["vocab_size"] == full_size:
            continue
        value, low, high = (row[f"speedup_vs_full_vocab{end}"] for end in ("", "_ci_low", "_ci_high"))
        is_long = row["speedup_vs_autoregressive"] >= 1
        axis.annotate(
            f"{value:.2f}x full [{low:.2f}, {high:.2f}]",
            (0.03 if is_long else row["speedup_vs_autoregressive_ci_high"] + 0.04, place),
            color="white" if is_long else INK,
            fontsize="x-small",
            va="center",
        )


def acceptance_figure(surfaces: Surfaces) -> Figure:
    """Mean acceptance length of every size by draft length, and coverage, which stands in for it."""
    run = surfaces.run
    figure, axes = panels(run, rows=2, height=7.4, sharex=True, sharey="row")
    for column, domain in enumerate(run.decodes):
        surface, (top, bottom) = surfaces.of(domain), axes[:, column]
        colors = sns.color_palette("crest", len(surface.draft_lengths))
        for row, gamma in enumerate(surface.draft_lengths):
            tau = surface.mean_acceptance_length[row]
            top.step(surface.sizes, tau, where="post", color=colors[row], label=f"gamma = {gamma}")
        ranking = run.rankings[run.plans[domain].source]
        sizes = np.arange(1, run.full_size + 1)
        bottom.plot(sizes, ranking.coverage_of(held_out_tokens(run, domain)), label="held-out answers")
        bottom.plot(sizes, ranking.coverage(), "--", label="ranking answers (optimistic)")
        bottom.set_xlabel(K_LABEL)
        _size_axis(bottom, run.full_size)
    axes[0, 0].set_ylabel("mean acceptance length\n(tokens per target pass)")
    axes[1, 0].set_ylabel("coverage\n(share of tokens)")
    axes[0, 0].legend(fontsize="small")
    axes[1, 0].legend(fontsize="small")
    axes[0, 0].set_ylim(bottom=1)
    text = "What trimming costs: acceptance (replayed, every size) and coverage (its proxy)"
    return title_figure(figure, run.environment, text)


def latency_figure(run: Run, latency: pd.DataFrame) -> Figure:
    """Median draft step by vocabulary size, stacked by what takes the time."""
    figure, axes = panels(run, sharey=True)
    colors = sns.color_palette(PALETTE)
    for axis, domain in zip(axes[0], run.decodes, strict=True):
        chosen = latency[latency["domain"] == domain]
        sizes = sorted(chosen["vocab_size"].dropna().unique())
        base = np.zeros(len(sizes))
        for color, (part, label) in zip(colors, _STACK, strict=False):
            rows = chosen[chosen["part"] == part]
            if rows.empty:
                continue
            by_size = rows.set_index("vocab_size")["median_ms"]
            # Draft lengths of 1 have no layer.
            heights = by_size.reindex(sizes).ffill().bfill().to_numpy(dtype=float)
            axis.bar([f"{k:,}" for k in sizes], heights, bottom=base, color=color, label=label)
            base += heights
        axis.set_xlabel(K_LABEL)
        axis.tick_params(axis="x", rotation=40, labelsize="small")
    axes[0, 0].set_ylabel("median draft step (ms)")
    axes[0, 0].legend(loc="upper left")
    text = "Where a draft step's time goes, measured inside real rounds"
    return title_figure(figure, run.environment, text)


def round_figure(run: Run, latency: pd.DataFrame) -> Figure:
    """What comes once a round, by draft length, with intervals."""
    figure, axes = panels(run, sharey=True)
    for axis, domain in zip(axes[0], run.decodes, strict=True):
        for part, label in (
            ("verify", "verification of gamma + 1"),
            ("extend", "extend step"),
            ("other", "rest"),
        ):
            rows = latency[(latency["domain"] == domain) & (latency["part"] == part)]
            value = rows["median_ms"]
            spread = [value - rows["ci_low_ms"], rows["ci_high_ms"] - value]
            axis.errorbar(
                rows["draft_length"].astype(int), value, yerr=spread, fmt="o-", capsize=3, label=label
            )
        axis.set_xlabel("draft length gamma (tokens)")
        axis.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("median latency (ms)")
    axes[0, 0].legend(fontsize="small")
    text = "What comes once a round, measured inside real rounds; bars: 95% bootstrap interval of the median"
    return title_figure(figure, run.environment, text)


def isolated_figure(run: Run, latency: pd.DataFrame) -> Figure:
    """The LM head and verification inside rounds, and on their own with the cache cold and warm."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    cases = (("lm_head", "vocab_size", K_LABEL), ("verify", "draft_length", "draft length gamma (tokens)"))
    settings = [(IN_SITU, "inside rounds", "o-"), (COLD, "on its own, cold", "s--"), (WARM, "warm", "^:")]
    graphed = f"{COLD}_graph"
    if (latency["setting"] == graphed).any():
        settings.append((graphed, "cold, as a CUDA graph", "d-."))
    for axis, (part, size, label) in zip(axes, cases, strict=True):
        rows = latency[(latency["part"] == part) & latency[size].notna()]
        for setting, name, style in settings:
            chosen = rows[rows["setting"] == setting]
            # Rounds are shown over all domains: a part's cost does not depend on the text.
            by_size = chosen.groupby(size)[["median_ms", "ci_low_ms", "ci_high_ms"]].median()
            value = by_size["median_ms"]
            spread = [value - by_size["ci_low_ms"], by_size["ci_high_ms"] - value]
            axis.errorbar(by_size.index.astype(int), value, yerr=spread, fmt=style, capsize=3, label=name)
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("median LM head (ms)")
    axes[1].set_ylabel("median verification (ms)")
    log_k_axis(axes[0], latency["vocab_size"].dropna().astype(int))
    axes[0].legend(fontsize="small")
    text = "Parts inside rounds and on their own; bars: 95% bootstrap interval of the median"
    return title_figure(figure, run.environment, text)


def _size_axis(axis: Axes, full_size: int) -> None:
    """Powers of four up to the whole vocabulary."""
    ticks = [4**n for n in range(2, 12) if 4**n < 0.7 * full_size]
    log_k_axis(axis, [*ticks, full_size])
    axis.set_xlim(left=ticks[0] if ticks else 1)


# What each figure of a run shows, over how many prompts, what its intervals are; and the method in short.

_OVER_PROMPTS = "95% bootstrap intervals over prompts"

_OF_MEDIAN = "95% bootstrap intervals of the median, over whole prompts"

_CAPTIONS = {
    "speedup": "Measured speed of everything that was decoded, on the same prompts: over plain decoding "
    "(bars), and over the faster full-vocabulary draft (numbers on them). Error bars and brackets: "
    f"{_OVER_PROMPTS}, resampled as pairs ({{n}}).",
    "surface": "Predicted tokens per second of every vocabulary size and draft length ({n}). The star is the "
    "fastest, the diamond the paper's k* at its best draft length; inside the red border nothing is "
    f"significantly more than {NEGLIGIBLE:.0%} slower than the fastest (95%, paired bootstrap over prompts).",
    "acceptance": "Above: tokens per target pass of every vocabulary size, replayed over the target's own "
    "held-out answers ({n}); a line per draft length. Below: the coverage that stands in for it, of those "
    "answers and, optimistically, of the answers that made the ranking. Counts, so without intervals.",
    "position": "Share of rounds in which the target agrees with the drafted token at each position, and "
    "with all before it ({n}). Counts, so without intervals.",
    "draft_latency": "Median time of a chained draft step by vocabulary size, split into draft layer, LM "
    "head and token selection, inside real rounds ({n}, several steps each).",
    "round_latency": "Median time of what comes once a round, by draft length, inside real rounds ({n}). "
    f"Bars: {_OF_MEDIAN}.",
    "isolated": "The same parts on their own may find their weights in the cache (warm); inside a round they "
    "do not. Bars: 95% bootstrap intervals of the median, over "
    "whole prompts inside rounds and over samples elsewhere.",
    "prediction": "Every decoded draft: tokens per second predicted from replay and probes, against "
    f"measured ({{n}}). Bars: {_OVER_PROMPTS} of the prediction; the band is 7% wide on either side.",
    "cross_domain": "Vocabularies used on other domains than the one that chose them: mean acceptance length "
    "and predicted speed over those of the full vocabulary ({n}). Above 1, trimming still pays.",
    "roofline": "Where the parts of a round stand under the device's limits: work per byte against work per "
    "second, from counted FLOPs and bytes and median times inside real rounds ({n}). The roof is the data "
    "sheet's, or measured by a probe where there is none. Numbers are k, or tokens verified.",
    "telemetry": "What was sampled beside the run; shaded: when each domain was measured ({n}).",
    f"fit_{LM_HEAD}": f"Latency models of the LM head over k, how far off each is, and the share that it "
    f"says a size saves ({{n}}). Bars: {_OF_MEDIAN}.",
    f"fit_{DRAFT_STEP}": f"Latency models of a chained draft step over k, how far off each is, and the share "
    f"that it says a size saves ({{n}}). Bars: {_OF_MEDIAN}.",
    f"fit_{VERIFY}": f"Latency models of a verification by its tokens ({{n}}). Bars: {_OF_MEDIAN}.",
}

METHOD = (
    "Acceptance of every vocabulary size and draft length is replayed: the draft, with its whole head, is "
    "unrolled over the target's own held-out answers; for each place and depth the sizes that would draft "
    "the target's token y form one interval, rank(y) <= k < the smallest rank among tokens that beat y, and "
    "walking the rounds over those intervals counts what decoding would accept. Sampled answers tell the "
    "expected acceptance instead, on a grid of sizes: a token of theirs came from an accepted draft with "
    "probability min(1, draft / target).",
    "Latency of a round's parts is probed inside real rounds, between the decodes, on the same prompts.",
    "Predicted tokens/s = tokens / sum of (draft prefill + rounds x round latency), where a round takes "
    "T_first(k) + (gamma - 1) T_step(k) + T_verify(gamma + 1) + T_other. Its 95% interval and the set of "
    f"sizes that are not significantly more than {NEGLIGIBLE:.0%} slower than the fastest are percentile "
    "bootstrap over prompts, of acceptance and latency together.",
    "What is decoded is chosen from a pilot: plain; the full vocabulary, at its own best draft length and at "
    "that of the optimum (trimming is compared with the faster); the predicted optimum; the paper's k* (the "
    "optimum of U(k) = a C(k) + (1 - a) R(k), arXiv 2603.05210) at its best draft length; the smallest size "
    "that loses no acceptance; and another draft length as a check. All share every prompt, in seeded random "
    "order. The optimum of the pilot may differ from that of the surface shown here, which all probes went "
    "into.",
    "tokens/s counts the tokens after the first, over the time from the end of the target's prefill; the "
    "draft's own prefill is in that time. Speedups are total throughput over the same prompts, with 95% "
    "bootstrap intervals over prompts, resampled as pairs.",
    "Acceptance rate is accepted over drafted tokens. Mean acceptance length counts tokens per target pass, "
    "bonus token included.",
    "Held-out coverage C(k) is over the target's answers to prompts that the ranking never saw.",
    "FLOPs count 2 per multiply-add, and embedding lookups 0; R(k) is the share of a draft's latency, or of "
    "its FLOPs, that a vocabulary of k saves.",
    "A prompt whose answer ended with its first token is left out: decoding it takes no time.",
)


def captions(run: Run) -> dict[str, str]:
    """By the name of the figure."""
    counts = [f"{domain}: {len(prompts)} prompts" for domain, prompts in run.prompts.items()]
    n = f"n = {', '.join(counts)}" if len(counts) > 1 else f"n = {counts[0].partition(': ')[2]}"
    return {name: text.format(n=n) for name, text in _CAPTIONS.items()}


# Figures of the predicted speed surface: the map, its proof, acceptance by position, and across domains.

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMALLEST = 16  # below it nothing is fast, and the axis would be mostly empty


def surface_figure(surfaces: Surfaces) -> Figure:
    """Predicted tokens/s over size and draft length, with optimum, confidence set and the paper's k."""
    run = surfaces.run
    domains = list(run.decodes)
    figure, axes = plt.subplots(1, len(domains), figsize=(5.2 * len(domains) + 0.6, 4.4), squeeze=False)
    for axis, domain in zip(axes[0], domains, strict=True):
        surface, advice = surfaces.of(domain), surfaces.advice(domain)
        edges = np.append(surface.sizes, surface.sizes[-1] * 1.2)
        rows = np.arange(len(surface.draft_lengths) + 1) - 0.5
        mesh = axis.pcolormesh(edges, rows, surface.tokens_per_s, cmap="viridis", rasterized=True)
        figure.colorbar(mesh, ax=axis, label="predicted tokens/s")
        _outline(axis, edges, surface.is_confident)
        for (size, gamma), marker, label in (
            (advice.best, "*", "optimum"),
            (advice.paper, "D", "paper's k* at its best gamma"),
        ):
            place = surface.draft_lengths.index(gamma)
            axis.plot(size, place, marker, color="white", markeredgecolor="black", markersize=11, label=label)
        axis.plot([], [], color="red", label=f"not significantly more than {NEGLIGIBLE:.0%} slower")
        log_k_axis(axis, [4**n for n in range(2, 12) if 4**n < 0.7 * run.full_size] + [run.full_size])
        axis.set_xlim(min(_SMALLEST, edges[-2]), edges[-1])
        axis.set_yticks(range(len(surface.draft_lengths)), [str(g) for g in surface.draft_lengths])
        axis.set_title(domain)
        axis.set_xlabel(K_LABEL)
        axis.grid(False)
    axes[0, 0].set_ylabel("draft length gamma (tokens)")
    text = "Predicted speed of every vocabulary size and draft length"
    title_figure(figure, run.environment, text)
    # Below the maps, which it would hide.
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3
    )
    return figure


def _outline(axis: "Axes", edges: np.ndarray, inside: np.ndarray) -> None:
    """Draws the border of a set of cells."""
    for row, cells in enumerate(inside):
        changes = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
        for start, end in zip(changes[::2], changes[1::2], strict=True):
            x = [edges[start], edges[end], edges[end], edges[start], edges[start]]
            y = [row - 0.46, row - 0.46, row + 0.46, row + 0.46, row - 0.46]
            axis.plot(x, y, color="red", linewidth=1)


def prediction_figure(run: Run, summary: pd.DataFrame) -> Figure:
    """Predicted against measured tokens/s of every decoded draft."""
    figure, axis = plt.subplots(figsize=(6.4, 5.2))
    drafts = summary[summary["draft_length"] > 0]
    by_domain = drafts.groupby("domain")
    for color, (domain, rows) in zip(cycle(sns.color_palette(PALETTE)), by_domain, strict=False):
        predicted = rows["predicted_tokens_per_s"]
        # A resample's rounding may put an end a hair on the other side.
        spread = np.maximum([predicted - rows["predicted_ci_low"], rows["predicted_ci_high"] - predicted], 0)
        error = rows["prediction_error"].abs().mean()
        label = f"{domain}: mean absolute error {error:.1%}"
        axis.errorbar(
            rows["tokens_per_s"], predicted, yerr=spread, fmt="o", color=color, capsize=2, label=label
        )
    limits = np.array([drafts["tokens_per_s"].min() * 0.9, drafts["tokens_per_s"].max() * 1.1])
    axis.plot(limits, limits, color=INK, linewidth=1)
    axis.fill_between(limits, limits * 0.93, limits * 1.07, color="0.5", alpha=0.15, label="within 7%")
    axis.set_xlabel("measured tokens/s")
    axis.set_ylabel("predicted tokens/s")
    axis.legend(fontsize="small")
    text = "Prediction against decoding; bars: 95% bootstrap interval of the prediction"
    return title_figure(figure, run.environment, text)


def position_figure(surfaces: Surfaces) -> Figure:
    """Acceptance by draft position, with the full, the best and the paper's vocabulary."""
    run = surfaces.run
    domains = list(run.decodes)
    figure, axes = plt.subplots(
        1, len(domains), figsize=(4.3 * len(domains) + 0.6, 4.2), sharey=True, squeeze=False
    )
    for axis, domain in zip(axes[0], domains, strict=True):
        advice = surfaces.advice(domain)
        longest = max(advice.surface.draft_lengths)
        for size, label in (
            (run.full_size, "full vocabulary"),
            (advice.best[0], f"optimum, k = {advice.best[0]:,}"),
            (advice.paper[0], f"paper's, k* = {advice.paper[0]:,}"),
        ):
            rates = acceptance_by_position(surfaces, domain, size, longest)
            axis.plot(np.arange(1, longest + 1), rates, "o-", label=label)
        axis.set_title(domain)
        axis.set_xlabel("draft position")
        axis.set_ylim(0, 1)
        axis.legend(fontsize="small")
    axes[0, 0].set_ylabel("acceptance at position\n(share of rounds)")
    text = "Acceptance by draft position, replayed at the longest draft length (unconditional)"
    return title_figure(figure, run.environment, text)


def cross_figure(run: Run, cross: pd.DataFrame) -> Figure:
    """Acceptance and speed of each domain with the vocabulary chosen on each source."""
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 0.7 * len(run.rankings) + 2.6), sharey=True)
    chosen = zip(cross["source"], cross["vocab_size"], cross["draft_length"], strict=True)
    labels = {source: f"{source} (k = {size:,}, gamma = {gamma})" for source, size, gamma in chosen}
    cross = cross.assign(kept=cross["mean_acceptance_length"] / cross["full_mean_acceptance_length"])
    for axis, column, title in (
        (axes[0], "kept", "mean acceptance length\nover that of the full vocabulary"),
        (axes[1], "predicted_speedup_vs_full_vocab", "predicted speed\nover that of the full vocabulary (x)"),
    ):
        table = cross.pivot(index="source", columns="domain", values=column)
        table = table.loc[list(labels), list(run.decodes)].rename(index=labels)
        sns.heatmap(table, annot=True, fmt=".3f", center=1, cmap="vlag_r", ax=axis, cbar=False)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("prompts of")
        axis.set_ylabel("")
    axes[0].set_ylabel("vocabulary chosen on")
    return title_figure(figure, run.environment, "A vocabulary chosen on one domain, used on another")
