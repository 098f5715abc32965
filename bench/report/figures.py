"""The run's figures: what was decoded, what a draft step costs, what trimming costs in acceptance."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.fit.judge import Judgement
from bench.report.drawing import INK, K_LABEL, PALETTE, Drawing, Drawings, log_k_axis, title_figure
from bench.report.fit_figures import fit_figure
from bench.report.frames import Run
from bench.report.latency import COLD, IN_SITU, WARM
from bench.report.roofline_figure import roofline_figure
from bench.report.summary import held_out_tokens
from bench.report.surface_figures import cross_figure, position_figure, prediction_figure, surface_figure
from bench.report.surfaces import Surfaces
from bench.report.tables import Tables
from bench.report.telemetry_figure import telemetry_figure

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
