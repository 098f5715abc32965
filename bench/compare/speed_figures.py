"""Figures of how fast devices decode: by vocabulary size, at their best, and per joule."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare.comparison import Comparison, Entry
from bench.compare.frames import speed_curve
from bench.compare.panels import device_style, finish, panels, size_axis
from bench.measure.stats import Estimate
from bench.report.drawing import INK, K_LABEL, PALETTE
from bench.report.frames import Key, speedup


def speedup_figure(comparison: Comparison) -> Figure:
    """Speed over plain decoding against k, a curve per device, with what was decoded."""
    figure, axes = panels(comparison, lambda _: 4.4)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        entries = comparison.of(case, domain)
        for entry in entries:
            style, curve = device_style(comparison, entry.device), speed_curve(entry)
            axis.plot(curve["vocab_size"], curve["predicted_speedup_vs_plain"], color=style["color"])
            ends = curve["ci_low"], curve["ci_high"]
            axis.fill_between(curve["vocab_size"], *ends, color=style["color"], alpha=0.12)
            _decoded(axis, entry, curve, style)
            best = curve[curve["vocab_size"] == entry.surface.best[0]]
            star = {"color": style["color"], "markeredgecolor": "black", "markersize": 14, "zorder": 6}
            axis.plot(best["vocab_size"], best["predicted_speedup_vs_plain"], "*", **star)
            axis.plot([], [], markersize=6, label=entry.device, **style)
        axis.plot([], [], "*", color="0.8", markeredgecolor="black", markersize=11, label="predicted fastest")
        axis.axhline(1, color=INK, linewidth=1, linestyle="--")
        size_axis(axis, max(entry.run.full_size for entry in entries))
        axis.set_xlabel(K_LABEL)
    axes[0].set_ylabel("speed over plain decoding (x)")
    return finish(figure, axes, "Speedup of every vocabulary size, at its fastest draft length")


def best_size_figure(comparison: Comparison, best: pd.DataFrame) -> Figure:
    """The fastest k of every device with its interval, and its confidence set."""
    figure, axes = panels(comparison, lambda num_devices: 1.9 + 0.55 * num_devices, sharey=True)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        rows = best[(best["case"] == case) & (best["domain"] == domain)].set_index("device")
        devices = comparison.devices_of(case)[::-1]
        for entry in comparison.of(case, domain):
            style, row = device_style(comparison, entry.device), rows.loc[entry.device]
            place = devices.index(entry.device)
            for low, high in confident_ranges(entry):
                axis.plot([low, high], [place, place], color=style["color"], linewidth=9, alpha=0.25)
            ends = [row["vocab_size_ci_low"], row["vocab_size_ci_high"]]
            axis.plot(ends, [place, place], color=style["color"], linewidth=2)
            axis.plot(row["vocab_size"], place, linestyle="", markersize=8, **style)
            text = f"k = {row['vocab_size']:,}, gamma = {row['draft_length']}"
            side = "right" if row["vocab_size"] > entry.run.full_size / 16 else "center"
            axis.annotate(text, (row["vocab_size"], place + 0.22), ha=side, fontsize="x-small")
        size_axis(axis, max(entry.run.full_size for entry in comparison.of(case, domain)))
        axis.set_yticks(range(len(devices)), devices, fontsize="small")
        axis.set_ylim(-0.5, len(devices) - 0.35)
        axis.set_xlabel(K_LABEL)
    return finish(figure, axes, "The fastest vocabulary size of every device", legend=False)


def throughput_figure(comparison: Comparison, best: pd.DataFrame) -> Figure:
    """Measured tokens per second of every device: plain, full vocabulary, optimum."""
    bars = (
        ("plain_tokens_per_s", "plain", 7),
        ("full_tokens_per_s", "full vocabulary", 0),
        ("tokens_per_s", "optimum", 1),
    )
    return _bar_figure(comparison, best, bars, "measured tokens/s", "Measured decoding speed")


def energy_figure(comparison: Comparison, best: pd.DataFrame) -> Figure | None:
    """Measured energy per token of every device; None where no run measured any."""
    if best["energy_j_per_token"].isna().all():
        return None
    bars = (("plain_energy_j_per_token", "plain", 7), ("energy_j_per_token", "optimum", 1))
    return _bar_figure(comparison, best, bars, "energy per token (J)", "Measured energy per decoded token")


def confident_ranges(entry: Entry) -> list[tuple[int, int]]:
    """Ranges of sizes that some draft length has in the confidence set."""
    surface = entry.surface
    inside = surface.is_confident.any(axis=0).astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]])))
    return [
        (int(surface.sizes[start]), int(surface.sizes[end - 1]))
        for start, end in zip(changes[::2], changes[1::2], strict=True)
    ]


def decoded_speedups(entry: Entry) -> Iterator[tuple[Key, Estimate]]:
    """(k, gamma) and measured speedup over plain decoding of every draft that was decoded."""
    for key in entry.run.decodes[entry.domain]:
        estimate = speedup(entry.run, entry.domain, key, (entry.run.full_size, 0)) if key[1] else None
        if estimate is not None:
            yield key, estimate


def _bar_figure(
    comparison: Comparison, best: pd.DataFrame, bars: Sequence[tuple[str, str, int]], label: str, title: str
) -> Figure:
    """Bars of every device, from the top; `bars` are column, name and place in the palette."""
    figure, axes = panels(comparison, lambda num_devices: 1.7 + 0.5 * num_devices, sharey=True)
    thickness = 0.8 / len(bars)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        devices = comparison.devices_of(case)[::-1]
        rows = best[(best["case"] == case) & (best["domain"] == domain)].set_index("device").reindex(devices)
        places = np.arange(len(devices))
        for number, (column, name, color) in enumerate(bars):
            shift = (len(bars) / 2 - 0.5 - number) * thickness
            values = rows[column].astype(float)
            drawn = axis.barh(
                places + shift, values, thickness, color=sns.color_palette(PALETTE)[color], label=name
            )
            told = ["" if pd.isna(v) else f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in values]
            axis.bar_label(drawn, told, fontsize="x-small", padding=2)
        axis.set_yticks(places, devices, fontsize="small")
        axis.set_ylim(-0.6, len(devices) - 0.4)
        axis.margins(x=0.15)
        axis.set_xlabel(label)
        axis.grid(axis="y", visible=False)
    return finish(figure, axes, title)


def _decoded(axis: Axes, entry: Entry, curve: pd.DataFrame, style: dict[str, Any]) -> None:
    """What was decoded of the drafts, with intervals; hollow where the curve has another draft length."""
    for (size, gamma), estimate in decoded_speedups(entry):
        of_curve = curve.iloc[entry.surface.column(size)]["draft_length"] == gamma
        axis.errorbar(
            size,
            estimate.value,
            yerr=np.maximum([[estimate.value - estimate.ci_low], [estimate.ci_high - estimate.value]], 0),
            capsize=2,
            linestyle="",
            elinewidth=1,
            markersize=6,
            markerfacecolor=style["color"] if of_curve else "white",
            **style,
        )
