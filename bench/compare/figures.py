"""Figures of a comparison: devices by colour and marker, the same in all of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare.comparison import Comparison, Entry
from bench.compare.frames import speed_curve
from bench.measure.stats import Estimate
from bench.report.drawing import K_LABEL, PALETTE, log_k_axis
from bench.report.frames import speedup

_MARKERS = "osD^vP*X<>"
_SMALLEST = 16  # below it nothing is fast, and the axis would be mostly empty
_MOST_COLUMNS = 3
_LEGEND_COLUMNS = 3


def speedup_figure(comparison: Comparison) -> Figure:
    """Speed over plain decoding against k, a curve per device, with what was decoded."""
    figure, axes = _panels(comparison, height=4.2)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        entries = comparison.of(case, domain)
        for entry in entries:
            style = _style(comparison, entry.device)
            curve = speed_curve(entry)
            x, y = curve["vocab_size"], curve["predicted_speedup_vs_plain"]
            axis.plot(x, y, color=style["color"], label=entry.device)
            axis.fill_between(x, curve["ci_low"], curve["ci_high"], color=style["color"], alpha=0.15)
            _decoded(axis, entry, style)
        axis.axhline(1, color="0.3", linewidth=1, linestyle="--")
        _size_axis(axis, max(entry.run.full_size for entry in entries))
        axis.set_xlabel(K_LABEL)
    axes[0].set_ylabel("speed over plain decoding (x)")
    return _finish(figure, axes, "Speedup of every vocabulary size, at its fastest draft length")


def best_size_figure(comparison: Comparison, best: pd.DataFrame) -> Figure:
    """The fastest k of every device with its interval, and the sizes that are not significantly slower."""
    num_devices = len(comparison.devices)
    figure, axes = _panels(comparison, height=1.9 + 0.55 * num_devices, sharey=True)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        rows = best[(best["case"] == case) & (best["domain"] == domain)].set_index("device")
        for entry in comparison.of(case, domain):
            style, row = _style(comparison, entry.device), rows.loc[entry.device]
            place = num_devices - 1 - comparison.devices.index(entry.device)
            for low, high in confident_ranges(entry):
                axis.plot([low, high], [place, place], color=style["color"], linewidth=9, alpha=0.25)
            ends = [row["vocab_size_ci_low"], row["vocab_size_ci_high"]]
            axis.plot(ends, [place, place], color=style["color"], linewidth=2)
            axis.plot(row["vocab_size"], place, linestyle="", markersize=8, **style)
            text = f"k = {row['vocab_size']:,}, gamma = {row['draft_length']}"
            axis.annotate(text, (row["vocab_size"], place + 0.22), ha="center", fontsize="x-small")
        _size_axis(axis, max(entry.run.full_size for entry in comparison.of(case, domain)))
        axis.set_yticks(range(num_devices), comparison.devices[::-1], fontsize="small")
        axis.set_ylim(-0.5, num_devices - 0.35)
        axis.set_xlabel(K_LABEL)
    return _finish(figure, axes, "The fastest vocabulary size of every device", legend=False)


def throughput_figure(comparison: Comparison, best: pd.DataFrame) -> Figure:
    """Measured tokens per second of every device: plain, full vocabulary, optimum."""
    bars = (
        ("plain_tokens_per_s", "plain"),
        ("full_tokens_per_s", "full vocabulary"),
        ("tokens_per_s", "optimum"),
    )
    return _bar_figure(comparison, best, bars, "measured tokens/s", "Measured decoding speed")


def energy_figure(comparison: Comparison, best: pd.DataFrame) -> Figure | None:
    """Measured energy per token of every device; None where no run measured any."""
    if best["energy_j_per_token"].isna().all():
        return None
    bars = (("plain_energy_j_per_token", "plain"), ("energy_j_per_token", "optimum"))
    known = best[best["energy_j_per_token"].notna()]
    return _bar_figure(comparison, known, bars, "energy per token (J)", "Measured energy per decoded token")


def step_figure(comparison: Comparison, steps: pd.DataFrame) -> Figure | None:
    """Draft step against memory bandwidth, a line per size; None where no device's bandwidth is known."""
    known = steps[steps["memory_bytes_per_s"].notna()]
    if known.empty:
        return None
    cases = sorted(known["case"].unique())
    figure, grid = plt.subplots(
        1, len(cases), figsize=(6.4 * len(cases) + 0.5, 5), squeeze=False, sharey=True
    )
    for axis, case in zip(grid[0], cases, strict=True):
        rows = known[known["case"] == case]
        sizes = _spread(sorted(rows["vocab_size"].unique()))
        colors = sns.color_palette("crest", len(sizes))
        for color, size in zip(colors, sizes, strict=True):
            line = rows[rows["vocab_size"] == size].sort_values(["memory_bytes_per_s", "device"])
            axis.plot(line["memory_bytes_per_s"] / 1e9, line["median_ms"], color=color, label=f"k = {size:,}")
            for _, row in line.iterrows():
                _point(axis, comparison, row, color)
        _name_devices(axis, comparison, rows)
        axis.set_xscale("log")
        axis.set_yscale("log")
        for set_formatter in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter,
                              axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):  # fmt: skip
            set_formatter(plt.FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.tick_params(which="both", labelsize="small")
        axis.set_xlabel("memory bandwidth (GB/s)")
        axis.set_title(case, fontsize="medium")
    grid[0][0].set_ylabel("median draft step (ms)")
    return _finish(figure, list(grid[0]), "Draft step against memory bandwidth")


def transfer_figure(comparison: Comparison, transferred: pd.DataFrame) -> Figure | None:
    """Error of every device's latency model on every other; None where no model could be moved."""
    known = transferred[transferred["mean_error"].notna()]
    if known.empty:
        return None
    cases = sorted(known["case"].unique())
    devices = sorted({*known["source"], *known["target"]})
    width = 1.6 + 1.5 * len(devices)
    figure, grid = plt.subplots(
        1,
        len(cases),
        figsize=(width * len(cases) + 1.5, 1.8 + 0.6 * len(devices)),
        squeeze=False,
        sharey=True,
    )
    for axis, case in zip(grid[0], cases, strict=True):
        rows = known[known["case"] == case]
        table = rows.pivot(index="source", columns="target", values="mean_error")
        table = 100 * table.reindex(index=devices, columns=devices)
        sns.heatmap(table, annot=True, fmt=".1f", cmap="crest", ax=axis, cbar=False, vmin=0)
        axis.set_xlabel("predicted for")
        axis.set_ylabel("")
        axis.tick_params(axis="x", rotation=25, labelsize="small")
        axis.tick_params(axis="y", rotation=0, labelsize="small")
        axis.set_title(case, fontsize="medium")
    grid[0][0].set_ylabel("fitted on")
    text = "Mean error of the latency model of one device on another (%)"
    return _finish(figure, list(grid[0]), text, legend=False)


def confident_ranges(entry: Entry) -> list[tuple[int, int]]:
    """Ranges of sizes that some draft length has not significantly slower than the fastest."""
    surface = entry.surface
    inside = surface.is_confident.any(axis=0).astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]])))
    return [
        (int(surface.sizes[start]), int(surface.sizes[end - 1]))
        for start, end in zip(changes[::2], changes[1::2], strict=True)
    ]


def _panels(comparison: Comparison, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """An axis per case and domain, titled; in rows of three."""
    panels = comparison.panels
    columns = min(len(panels), _MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.6 * columns + 0.9, height * rows), squeeze=False, **options
    )
    axes = list(grid.ravel())
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    for axis, (case, domain) in zip(axes, panels, strict=False):
        entries = comparison.of(case, domain)
        counts = sorted({entry.num_prompts for entry in entries})
        told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        title = f"{domain} (n = {told})"
        axis.set_title(f"{title}\n{case}" if len(comparison.cases) > 1 else title, fontsize="medium")
    return figure, axes[: len(panels)]


def _bar_figure(
    comparison: Comparison, best: pd.DataFrame, bars: Sequence[tuple[str, str]], label: str, title: str
) -> Figure:
    figure, axes = _panels(comparison, height=1.7 + 0.5 * len(comparison.devices))
    thickness = 0.8 / len(bars)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        rows = best[(best["case"] == case) & (best["domain"] == domain)].iloc[::-1]
        places = np.arange(len(rows))
        for number, (column, name) in enumerate(bars):
            shift = (len(bars) / 2 - 0.5 - number) * thickness
            color = sns.color_palette(PALETTE)[(7, 0, 1)[number] if len(bars) == 3 else (7, 1)[number]]
            drawn = axis.barh(places + shift, rows[column].astype(float), thickness, color=color, label=name)
            axis.bar_label(drawn, fmt="%.3g", fontsize="x-small", padding=2)
        axis.set_yticks(places, rows["device"], fontsize="small")
        axis.margins(x=0.12)
        axis.set_xlabel(label)
        axis.grid(axis="y", visible=False)
    return _finish(figure, axes, title)


def _decoded(axis: Axes, entry: Entry, style: dict[str, Any]) -> None:
    """What was decoded of the drafts, with intervals."""
    for x, estimate in entry_speedups(entry):
        spread = [[estimate.value - estimate.ci_low], [estimate.ci_high - estimate.value]]
        axis.errorbar(x, estimate.value, yerr=np.maximum(spread, 0), capsize=2, linestyle="", **style)


def entry_speedups(entry: Entry) -> Iterator[tuple[int, Estimate]]:
    """K and measured speedup over plain decoding of every draft that was decoded."""
    for size, gamma in entry.run.decodes[entry.domain]:
        if gamma:
            estimate = speedup(entry.run, entry.domain, (size, gamma), (entry.run.full_size, 0))
            if estimate is not None:
                yield size, estimate


def _point(axis: Axes, comparison: Comparison, row: pd.Series, color: Any) -> None:
    value = row["median_ms"]
    spread = [[value - row["ci_low_ms"]], [row["ci_high_ms"] - value]]
    marker = _style(comparison, row["device"])["marker"]
    axis.errorbar(
        row["memory_bytes_per_s"] / 1e9,
        value,
        yerr=np.maximum(spread, 0),
        color=color,
        marker=marker,
        capsize=2,
    )


def _name_devices(axis: Axes, comparison: Comparison, rows: pd.DataFrame) -> None:
    """Markers of the devices for the legend, which has the sizes as lines."""
    for device in sorted(rows["device"].unique()):
        marker = _style(comparison, device)["marker"]
        axis.plot([], [], color="0.3", marker=marker, linestyle="", label=device)


def _style(comparison: Comparison, device: str) -> dict[str, Any]:
    place = comparison.devices.index(device)
    colors = sns.color_palette(PALETTE)
    return {"color": colors[place % len(colors)], "marker": _MARKERS[place % len(_MARKERS)]}


def _spread(sizes: list[int]) -> list[int]:
    """At most five of them, the first and the last among them."""
    places = np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), 5)).round().astype(int))
    return [int(sizes[place]) for place in places]


def _size_axis(axis: Axes, full_size: int) -> None:
    log_k_axis(axis, [4**n for n in range(2, 12) if 4**n < 0.7 * full_size] + [full_size])
    axis.set_xlim(min(_SMALLEST, full_size), full_size * 1.15)


def _finish(figure: Figure, axes: Sequence[Axes], title: str, legend: bool = True) -> Figure:
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    if legend:
        # Below the panels, which it would hide; of all of them, as a device may be in one only.
        found: dict[str, Any] = {}
        for axis in axes:
            handles, labels = axis.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
        figure.legend(
            found.values(), found.keys(), loc="upper center", bbox_to_anchor=(0.5, 0),
            ncols=min(_LEGEND_COLUMNS, len(found)), fontsize="small",
        )  # fmt: skip
    return figure
