"""Figures of the predicted speed surface: the map, its proof, acceptance by position, and across domains."""

from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bench.report.drawing import INK, K_LABEL, PALETTE, log_k_axis, title_figure
from bench.report.frames import Run
from bench.report.surfaces import Surfaces, acceptance_by_position
from bench.surface.predict import NEGLIGIBLE

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
