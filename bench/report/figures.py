"""The run's figures, one function each; colour-blind safe, k on a logarithmic axis."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.drawing import K_LABEL, PALETTE, log_k_axis, save_figures, set_style
from bench.report.frames import Run, speedup

_STACK = (("layer", "draft layer"), ("lm_head", "LM head"), ("select", "token selection"))


def draw_all(run: Run, latency: pd.DataFrame, summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws every figure as PNG and SVG; returns the PNGs."""
    set_style()
    figures = {
        "speedup": speedup_figure(run),
        "draft_latency": latency_figure(run, latency),
        "acceptance": acceptance_figure(run, summary),
    }
    return save_figures(figures, folder)


def speedup_figure(run: Run) -> Figure:
    """Throughput against plain decoding and against the full-vocabulary draft, with intervals."""
    domains = list(run.decodes)
    gammas = sorted({key[1] for variants in run.decodes.values() for key in variants if key[1]})
    figure, axes = plt.subplots(
        2, len(domains), figsize=(4.3 * len(domains) + 0.6, 7), sharex=True, sharey="row", squeeze=False
    )
    for column, domain in enumerate(domains):
        for row, versus in enumerate(("plain", "full")):
            axis = axes[row, column]
            for index, gamma in enumerate(gammas):
                base = (run.full_size, 0) if versus == "plain" else (run.full_size, gamma)
                _speedup_line(axis, run, domain, gamma, base, sns.color_palette(PALETTE)[index])
            axis.axhline(1, color="0.3", linewidth=1, linestyle="--")
            log_k_axis(axis, [key[0] for key in run.decodes[domain] if key[1]])
        axes[0, column].set_title(domain)
        axes[1, column].set_xlabel(K_LABEL)
    axes[0, 0].set_ylabel("speedup over\nplain decoding (x)")
    axes[1, 0].set_ylabel("speedup over\nfull-vocabulary draft (x)")
    axes[0, 0].legend(title="draft length", fontsize="small")
    num_prompts = {d: len(next(iter(v.values()))) for d, v in run.decodes.items()}
    counts = ", ".join(f"{d} n = {n}" for d, n in num_prompts.items())
    _title(
        figure,
        run,
        f"Decoding speed by vocabulary size; bars: 95% bootstrap interval over prompts ({counts})",
    )
    return figure


def latency_figure(run: Run, latency: pd.DataFrame) -> Figure:
    """Median draft step by vocabulary size, stacked by what takes the time."""
    domains = list(run.decodes)
    gamma = max(latency["draft_length"])
    figure, axes = plt.subplots(
        1, len(domains), figsize=(4.3 * len(domains) + 0.6, 4.2), sharey=True, squeeze=False
    )
    colors = sns.color_palette(PALETTE)
    for axis, domain in zip(axes[0], domains, strict=True):
        chosen = latency[(latency["domain"] == domain) & (latency["draft_length"] == gamma)]
        table = chosen.pivot_table(index="vocab_size", columns="part", values="median_ms").sort_index()
        base = pd.Series(0.0, index=table.index)
        for color, (part, label) in zip(colors, _STACK, strict=False):
            if part in table:
                axis.bar([f"{k:,}" for k in table.index], table[part], bottom=base, color=color, label=label)
                base += table[part]
        axis.set_title(domain)
        axis.set_xlabel(K_LABEL)
        axis.tick_params(axis="x", rotation=40)
    axes[0, 0].set_ylabel("median draft step (ms)")
    axes[0, 0].legend(loc="upper left")
    _title(figure, run, f"Where a draft step's time goes, measured inside real rounds (gamma = {gamma})")
    return figure


def acceptance_figure(run: Run, summary: pd.DataFrame) -> Figure:
    """Mean acceptance length, and coverage of ranking and held-out answers, by vocabulary size."""
    domains = list(run.decodes)
    drafts = summary[summary["draft_length"] > 0]
    figure, axes = plt.subplots(
        2, len(domains), figsize=(4.3 * len(domains) + 0.6, 7), sharex=True, sharey="row", squeeze=False
    )
    for column, domain in enumerate(domains):
        chosen = drafts[drafts["domain"] == domain].sort_values("vocab_size")
        top, bottom = axes[0, column], axes[1, column]
        for index, (gamma, group) in enumerate(chosen.groupby("draft_length")):
            color = sns.color_palette(PALETTE)[index]
            top.plot(
                group["vocab_size"],
                group["mean_acceptance_length"],
                "o-",
                color=color,
                label=f"gamma = {gamma}",
            )
        once = chosen.drop_duplicates("vocab_size")
        bottom.plot(once["vocab_size"], once["coverage_heldout"], "s-", label="held-out answers")
        bottom.plot(once["vocab_size"], once["coverage_train"], "^--", label="ranking answers (optimistic)")
        log_k_axis(top, list(chosen["vocab_size"]))
        log_k_axis(bottom, list(chosen["vocab_size"]))
        top.set_title(domain)
        bottom.set_xlabel(K_LABEL)
    axes[0, 0].set_ylabel("mean acceptance length\n(tokens per target pass)")
    axes[1, 0].set_ylabel("coverage\n(share of tokens)")
    axes[0, 0].legend(fontsize="small")
    axes[1, 0].legend(fontsize="small")
    axes[0, 0].set_ylim(bottom=1)
    _title(figure, run, "What trimming costs: acceptance (measured) and coverage (its proxy)")
    return figure


def _speedup_line(axis: Axes, run: Run, domain: str, gamma: int, base: tuple[int, int], color) -> None:
    sizes = sorted(key[0] for key in run.decodes[domain] if key[1] == gamma)
    estimates = [(size, speedup(run, domain, (size, gamma), base)) for size in sizes]
    known = [(size, e) for size, e in estimates if e is not None]
    if not known:
        return
    values = [e.value for _, e in known]
    below = [e.value - e.ci_low for _, e in known]
    above = [e.ci_high - e.value for _, e in known]
    axis.errorbar(
        [s for s, _ in known],
        values,
        yerr=[below, above],
        fmt="o-",
        capsize=3,
        color=color,
        label=f"gamma = {gamma}",
    )


def _title(figure: Figure, run: Run, text: str) -> None:
    environment = run.environment
    where = f"{environment['pair']}, {environment['dtype']}, {environment['device_name']}"
    figure.suptitle(f"{text}\n{where}", fontsize="medium")
    figure.tight_layout()
