"""Figures of what a draft step takes: against memory bandwidth, and predicted from other devices."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare.comparison import Comparison
from bench.compare.panels import device_style, finish
from bench.report.drawing import INK

_LEAST_TICK_RATIO = 1.12
# Below it the scale stays, so that small errors look small.
_DARK_ERROR_PERCENT = 20.0


def step_figure(comparison: Comparison, steps: pd.DataFrame) -> Figure | None:
    """Draft step against memory bandwidth by size; None where no device's bandwidth is known."""
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
        for color, size in zip(sns.color_palette("crest", len(sizes)), sizes, strict=True):
            axis.plot([], [], color=color, label=f"k = {size:,}")
            for _, row in rows[rows["vocab_size"] == size].iterrows():
                _point(axis, comparison, row, color)
            _memory_limit(axis, rows, rows[rows["vocab_size"] == size]["moved_bytes"].median(), color)
        axis.plot([], [], color=INK, linestyle=":", label="bytes / bandwidth")
        for device in sorted(rows["device"].unique()):
            marker = device_style(comparison, device)["marker"]
            axis.plot([], [], color=INK, marker=marker, linestyle="", label=device)
        _bandwidth_axis(axis, rows)
        axis.set_title(case, fontsize="medium")
    grid[0][0].set_ylabel("median draft step (ms)")
    return finish(figure, list(grid[0]), "Draft step against memory bandwidth")


def transfer_figure(comparison: Comparison, transferred: pd.DataFrame) -> Figure | None:
    """Error of every device's latency model on every other; None where no model could be moved."""
    known = transferred[transferred["mean_error"].notna()]
    if known.empty:
        return None
    cases = sorted(known["case"].unique())
    heights = [1.9 + 0.5 * len(comparison.devices_of(case)) for case in cases]
    darkest = max(_DARK_ERROR_PERCENT, 100 * known["mean_error"].max())
    width = 3.0 + 1.1 * max(len(comparison.devices_of(case)) for case in cases)
    figure, grid = plt.subplots(
        len(cases), 1, figsize=(width, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, case in zip(grid[:, 0], cases, strict=True):
        devices = comparison.devices_of(case)
        table = known[known["case"] == case].pivot(index="source", columns="target", values="mean_error")
        table = 100 * table.reindex(index=devices, columns=devices)
        sns.heatmap(table, annot=True, fmt=".1f", cmap="crest", ax=axis, cbar=False, vmin=0, vmax=darkest)
        axis.set_xlabel("predicted for")
        axis.set_ylabel("fitted on")
        axis.tick_params(axis="x", rotation=25, labelsize="small")
        axis.tick_params(axis="y", rotation=0, labelsize="small")
        axis.grid(False)
        axis.set_title(case, fontsize="medium")
    text = "Mean error of the latency model of one device on another (%)"
    return finish(figure, list(grid[:, 0]), text, legend=False)


def _point(axis: Axes, comparison: Comparison, row: pd.Series, color: Any) -> None:
    value = row["median_ms"]
    spread = [[value - row["ci_low_ms"]], [row["ci_high_ms"] - value]]
    marker = device_style(comparison, row["device"])["marker"]
    axis.errorbar(
        row["memory_bytes_per_s"] / 1e9,
        value,
        yerr=np.maximum(spread, 0),
        color=color,
        marker=marker,
        capsize=2,
    )


def _memory_limit(axis: Axes, rows: pd.DataFrame, moved_bytes: float, color: Any) -> None:
    """What memory alone allows a step of so many bytes; nothing where they are not known."""
    if pd.notna(moved_bytes):
        ends = np.array([0.8 * rows["memory_bytes_per_s"].min(), 1.25 * rows["memory_bytes_per_s"].max()])
        axis.plot(ends / 1e9, 1e3 * moved_bytes / ends, color=color, linestyle=":", linewidth=1.5)


def _bandwidth_axis(axis: Axes, rows: pd.DataFrame) -> None:
    """Logarithmic axes; a tick at the bandwidth of each device."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks: list[float] = []
    for bandwidth in sorted(set(rows["memory_bytes_per_s"] / 1e9)):
        # Labels of neighbours would lie on each other.
        if not ticks or bandwidth > _LEAST_TICK_RATIO * ticks[-1]:
            ticks.append(bandwidth)
    axis.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], rotation=40, fontsize="small")
    axis.xaxis.set_minor_locator(plt.NullLocator())
    for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        set_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(plt.LogLocator(subs=(2, 5)))
    axis.tick_params(axis="y", which="both", labelsize="small")
    axis.set_xlabel("memory bandwidth (GB/s)")


def _spread(sizes: list[int]) -> list[int]:
    """At most five of them, the first and the last among them."""
    places = np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), 5)).round().astype(int))
    return [int(sizes[place]) for place in places]
