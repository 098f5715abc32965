"""The figures of several runs side by side, each with its caption; a new one is named in `of_devices.py`."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.devices import DeviceFindings
from bench.analysis.metrics import format_value, format_variant
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
)

_MARKERS = "osD^vP*X<>"

_SMALLEST = 16  # below it nothing is fast, and the axis would be mostly empty

_MOST_COLUMNS = 3

_LEGEND_COLUMNS = 3

_MOST_PLACES = 4

_STACK = (("layer", "draft layer"), ("lm_head", "LM head"), ("select", "token selection"))

_LEAST_TICK_RATIO = 1.12

# Below it the scale stays, so that small errors look small.
_DARK_ERROR_PERCENT = 20.0


@captioned(
    "speedup_by_size",
    "Every vocabulary size at its fastest draft length. Lines: predicted from replayed acceptance and probed "
    "latency; bands: 95% interval of the prediction over n prompts, plain decoding taken as "
    "measured. Markers: drafts as decoded, with 95% intervals over the same prompts as pairs; "
    "hollow where their draft length is not the line's.",
)
def speedup_figure(found: DeviceFindings) -> Figure:
    """Speed over plain decoding against k, a curve per device, with what was decoded."""
    figure, axes = panels(found, lambda _: 4.4)
    for axis, (case, domain) in zip(axes, found.comparison.panels, strict=True):
        best = _rows(found.best, case, domain).set_index("device")
        for device, curve in _rows(found.curves, case, domain).groupby("device", sort=False):
            style = device_style(found, str(device))
            speed = "predicted_speedup_vs_plain"
            axis.plot(curve["vocab_size"], curve[speed], color=style["color"])
            ends = curve["ci_low"], curve["ci_high"]
            axis.fill_between(curve["vocab_size"], *ends, color=style["color"], alpha=0.12)
            _decoded(axis, _rows(found.decoded, case, domain, str(device)), style)
            top = curve[curve["vocab_size"] == best["vocab_size"][device]]
            star = {"color": style["color"], "markeredgecolor": "black", "markersize": 14, "zorder": 6}
            axis.plot(top["vocab_size"], top[speed], "*", **star)
            axis.plot([], [], markersize=6, label=device, **style)
        axis.plot([], [], "*", color="0.8", markeredgecolor="black", markersize=11, label="predicted fastest")
        axis.axhline(1, color=INK, linewidth=1, linestyle="--")
        _size_axis(axis, found, case, domain)
    axes[0].set_ylabel("speed over plain decoding (x)")
    return finish(figure, axes, "Speedup of every vocabulary size")


def _decoded(axis: Axes, rows: pd.DataFrame, style: dict[str, Any]) -> None:
    """What was decoded of the drafts, with intervals; hollow where the curve has another draft length."""
    for is_on_curve, chosen in rows.groupby("is_on_curve"):
        error_bars(
            axis, chosen["vocab_size"], chosen, "value", ("ci_low", "ci_high"), capsize=2, linestyle="",
            elinewidth=1, markersize=6, markerfacecolor=style["color"] if is_on_curve else "white", **style,
        )  # fmt: skip


@captioned(
    "best_size",
    "Marker: advised size; line: sizes that are as good at its draft length; wide bands: sizes that some "
    f"draft length has not significantly more than {NEGLIGIBLE:.0%} slower than the fastest (95%).",
)
def best_size_figure(found: DeviceFindings) -> Figure:
    """The fastest k of every device with its interval, and its confidence set."""
    figure, axes = panels(found, lambda num_devices: 1.9 + 0.55 * num_devices, sharey=True)
    for axis, (case, domain) in zip(axes, found.comparison.panels, strict=True):
        devices = found.comparison.devices_of(case)[::-1]
        for row in _rows(found.best, case, domain).to_dict("records"):
            style, place = device_style(found, row["device"]), devices.index(row["device"])
            for band in _rows(found.confident, case, domain, row["device"]).to_dict("records"):
                ends = [band["low"], band["high"]]
                axis.plot(ends, [place, place], color=style["color"], linewidth=9, alpha=0.25)
            ends = [row["confident_low"], row["confident_high"]]
            axis.plot(ends, [place, place], color=style["color"], linewidth=2)
            axis.plot(row["vocab_size"], place, linestyle="", markersize=8, **style)
            text = format_variant(row["vocab_size"], row["draft_length"])
            is_large = row["vocab_size"] > found.comparison.full_size(case, domain) / 16
            side = "right" if is_large else "center"
            axis.annotate(text, (row["vocab_size"], place + 0.22), ha=side, fontsize="x-small")
        _size_axis(axis, found, case, domain)
        axis.set_yticks(range(len(devices)), devices, fontsize="small")
        axis.set_ylim(-0.5, len(devices) - 0.35)
    return finish(figure, axes, "The fastest vocabulary size of every device", legend=False)


@captioned(
    "acceptance_by_size",
    "Tokens per target pass, replayed over n held-out answers: a line per device at its own fastest draft "
    "length, one for all that accept the same. Dotted: what the sizes cover of those answers. Counts, so "
    "without intervals.",
)
def acceptance_figure(found: DeviceFindings) -> Figure:
    """Mean acceptance length of every size, at the fastest draft length of every device, and coverage."""
    figure, axes = panels(found, lambda _: 4.4)
    for axis, (case, domain) in zip(axes, found.comparison.panels, strict=True):
        beside = axis.twinx()
        for curve in (item for item in found.accepted if (item.case, item.domain) == (case, domain)):
            style = device_style(found, curve.devices[0])
            more = f" and {len(curve.devices) - 1} more" if len(curve.devices) > 1 else ""
            label = f"{curve.devices[0]}{more}, gamma = {curve.draft_length}"
            line = {"where": "post", "color": style["color"], "label": label}
            axis.step(curve.sizes, curve.mean_acceptance_length, **line)
        covered = _rows(found.coverage, case, domain)
        beside.plot(covered["vocab_size"], covered["coverage_heldout"], color=INK, linestyle=":")
        _size_axis(axis, found, case, domain)
        axis.plot([], [], color=INK, linestyle=":", label="held-out coverage (right)")
        axis.set_ylim(bottom=1)
        beside.set_ylim(0, 1.02)
        beside.grid(False)
        axis.set_ylabel("mean acceptance length (tokens)")
        beside.set_ylabel("coverage (share of tokens)")
    return finish(figure, axes, "What k tokens bring")


@captioned(
    "draft_step_split",
    "Medians of chained draft steps inside real rounds, over all domains of the device's runs.",
)
def split_figure(found: DeviceFindings) -> Figure:
    """Where the time of a draft step goes on every device."""
    comparison = found.comparison
    places = [(case, device) for case in comparison.cases for device in comparison.devices_of(case)]
    columns = min(_MOST_PLACES, len(places))
    num_rows = -(-len(places) // columns)
    figure, grid = plt.subplots(
        num_rows, columns, figsize=(3.9 * columns + 0.6, 3.3 * num_rows + 0.5), squeeze=False
    )
    for axis, (case, device) in zip(grid.flat, places, strict=False):
        chosen = (found.stacked["case"] == case) & (found.stacked["device"] == device)
        stack_bars(axis, found.stacked[chosen], _STACK)
        axis.set_xlabel("")
        axis.set_title(f"{device}\n{case}" if len(comparison.cases) > 1 else device, fontsize="small")
        axis.tick_params(axis="x", rotation=45, labelsize="x-small")
        axis.tick_params(axis="y", labelsize="x-small")
    for spare in grid.flat[len(places) :]:
        spare.set_visible(False)
    for axis in grid[:, 0]:
        axis.set_ylabel("median draft step (ms)", fontsize="small")
    for axis in grid[-1]:
        axis.set_xlabel(K_LABEL, fontsize="small")
    return finish(figure, list(grid.flat[: len(places)]), "Where the time of a draft step goes")


@captioned(
    "throughput",
    "As decoded, over the same n prompts on every device: plain decoding, the fastest draft with the full "
    "vocabulary, and the optimum that each run chose for itself. Intervals of the speedups, "
    "paired by prompt, are in the table best.",
)
def throughput_figure(found: DeviceFindings) -> Figure:
    """Measured tokens per second of every device: plain, full vocabulary, optimum."""
    bars = (
        ("plain_tokens_per_s", "plain", 7),
        ("full_tokens_per_s", "full vocabulary", 0),
        ("tokens_per_s", "optimum", 1),
    )
    return _bar_figure(found, bars, "measured tokens/s", "Measured decoding speed")


@captioned("energy", "Energy per decoded token after the first, over the same n prompts on every device.")
def energy_figure(found: DeviceFindings) -> Figure | None:
    """Measured energy per token of every device; None where no run measured any."""
    if found.best["energy_j_per_token"].isna().all():
        return None
    bars = (("plain_energy_j_per_token", "plain", 7), ("energy_j_per_token", "optimum", 1))
    return _bar_figure(found, bars, "energy per token (J)", "Measured energy per decoded token")


def _bar_figure(
    found: DeviceFindings, bars: Sequence[tuple[str, str, int]], label: str, title: str
) -> Figure:
    """Bars of every device, from the top; `bars` are column, name and place in the palette."""
    figure, axes = panels(found, lambda num_devices: 1.7 + 0.5 * num_devices, sharey=True)
    thickness = 0.8 / len(bars)
    for axis, (case, domain) in zip(axes, found.comparison.panels, strict=True):
        devices = found.comparison.devices_of(case)[::-1]
        rows = _rows(found.best, case, domain).set_index("device").reindex(devices)
        places = np.arange(len(devices))
        for number, (column, name, color) in enumerate(bars):
            shift = (len(bars) / 2 - 0.5 - number) * thickness
            values = rows[column].astype(float)
            drawn = axis.barh(
                places + shift, values, thickness, color=sns.color_palette(PALETTE)[color], label=name
            )
            texts = [format_value(column, value) for value in values]
            axis.bar_label(drawn, texts, fontsize="x-small", padding=2)
        axis.set_yticks(places, devices, fontsize="small")
        axis.set_ylim(-0.6, len(devices) - 0.4)
        axis.margins(x=0.15)
        axis.set_xlabel(label)
        axis.grid(axis="y", visible=False)
    return finish(figure, axes, title)


@captioned(
    "step_latency",
    "Medians of chained draft steps (layer, LM head, selection) inside real rounds; a colour per vocabulary "
    "size, a marker per device; bars: 95% bootstrap interval of the median over prompts. Dotted: the bytes "
    "that the step moves over the bandwidth.",
)
def step_figure(found: DeviceFindings) -> Figure | None:
    """Draft step against memory bandwidth by size; None where no device's bandwidth is known."""
    known = found.steps[found.steps["memory_bytes_per_s"].notna()]
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
            chosen = rows[rows["vocab_size"] == size]
            axis.plot([], [], color=color, label=f"k = {size:,}")
            for device, point in chosen.groupby("device"):
                x, ends = point["memory_bytes_per_s"] / 1e9, ("ci_low_ms", "ci_high_ms")
                marker = device_style(found, str(device))["marker"]
                error_bars(axis, x, point, "median_ms", ends, color=color, marker=marker, capsize=2)
            _memory_limit(axis, rows, chosen["moved_bytes"].iloc[0], color)
        axis.plot([], [], color=INK, linestyle=":", label="bytes / bandwidth")
        for device in sorted(rows["device"].unique()):
            marker = device_style(found, device)["marker"]
            axis.plot([], [], color=INK, marker=marker, linestyle="", label=device)
        _bandwidth_axis(axis, rows)
        axis.set_title(case, fontsize="medium")
    grid[0][0].set_ylabel("median draft step (ms)")
    return finish(figure, list(grid[0]), "Draft step against memory bandwidth")


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


@captioned(
    "transfer",
    "Mean absolute error, over the measured sizes, of a draft step's latency model on a device that it was "
    "not fitted on, after scaling by the ratio of the data sheets.",
)
def transfer_figure(found: DeviceFindings) -> Figure | None:
    """Error of every device's latency model on every other; None where no model could be moved."""
    known = found.transferred[found.transferred["mean_error"].notna()]
    if known.empty:
        return None
    cases = sorted(known["case"].unique())
    by_case = {case: found.comparison.devices_of(case) for case in cases}
    heights = [1.9 + 0.5 * len(devices) for devices in by_case.values()]
    darkest = max(_DARK_ERROR_PERCENT, 100 * known["mean_error"].max())
    width = 3.0 + 1.1 * max(map(len, by_case.values()))
    figure, grid = plt.subplots(
        len(cases), 1, figsize=(width, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, (case, devices) in zip(grid[:, 0], by_case.items(), strict=True):
        table = known[known["case"] == case].pivot(index="source", columns="target", values="mean_error")
        table = 100 * table.reindex(index=devices, columns=devices)
        sns.heatmap(table, annot=True, fmt=".1f", cmap="crest", ax=axis, cbar=False, vmin=0, vmax=darkest)
        axis.set_xlabel("predicted for")
        axis.set_ylabel("fitted on")
        axis.tick_params(axis="x", rotation=25, labelsize="small")
        axis.tick_params(axis="y", rotation=0, labelsize="small")
        axis.grid(False)
        axis.set_title(case, fontsize="medium")
    text = "Error of the latency model of one device on another (%)"
    return finish(figure, list(grid[:, 0]), text, legend=False)


# What these figures share: a panel per case and domain, and one look per device.


def _rows(table: pd.DataFrame, case: str, domain: str, device: str | None = None) -> pd.DataFrame:
    chosen = table[(table["case"] == case) & (table["domain"] == domain)]
    return chosen if device is None else chosen[chosen["device"] == device]


def panels(
    found: DeviceFindings, height: Callable[[int], float], sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A titled axis per case and domain, in the order of the comparison's panels; cases in rows of their own.

    Args:
        found: the comparison.
        height: of a row in inches, from its number of devices.
        sharey: whether the panels of a row have one y axis.
    """
    comparison = found.comparison
    columns = min(_MOST_COLUMNS, max(len(list(group)) for _, group in _by_case(found)))
    rows: list[tuple[str, list[str]]] = []
    for case, group in _by_case(found):
        domains = [domain for _, domain in group]
        rows += [(case, domains[at : at + columns]) for at in range(0, len(domains), columns)]
    heights = [height(len(comparison.devices_of(case))) for case, _ in rows]
    figure, grid = plt.subplots(
        len(rows),
        columns,
        figsize=(4.6 * columns + 0.9, sum(heights)),
        squeeze=False,
        sharey="row" if sharey else False,
        gridspec_kw={"height_ratios": heights},
    )
    axes = []
    for (case, domains), line in zip(rows, grid, strict=True):
        for axis, domain in zip(line, domains, strict=False):
            title = f"{domain} ({comparison.sample_sizes(case, domain)})"
            title = f"{title}\n{case}" if len(comparison.cases) > 1 else title
            axis.set_title(title, fontsize="medium")
            axes.append(axis)
        for spare in line[len(domains) :]:
            spare.set_visible(False)
    return figure, axes


def _by_case(found: DeviceFindings) -> Iterator[tuple[str, Iterator[tuple[str, str]]]]:
    yield from groupby(found.comparison.panels, key=lambda panel: panel[0])


def device_style(found: DeviceFindings, device: str) -> dict[str, Any]:
    """Colour and marker of a device, the same in every figure."""
    place = found.comparison.devices.index(device)
    colors = sns.color_palette(PALETTE)
    return {"color": colors[place % len(colors)], "marker": _MARKERS[place % len(_MARKERS)]}


def _size_axis(axis: Axes, found: DeviceFindings, case: str, domain: str) -> None:
    full_size = found.comparison.full_size(case, domain)
    log_k_axis(axis, outlined_sizes(full_size))
    axis.set_xlim(min(_SMALLEST, full_size), full_size * 1.15)
    axis.set_xlabel(K_LABEL)


def finish(figure: Figure, axes: Sequence[Axes], title: str, legend: bool = True) -> Figure:
    """Title and, below the panels, which it would hide, one legend of all of them; returns the figure."""
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    if legend:
        # A device may be in one panel only.
        shown: dict[str, Any] = {}
        for axis in axes:
            handles, labels = axis.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        figure.legend(
            shown.values(), shown.keys(), loc="upper center", bbox_to_anchor=(0.5, 0),
            ncols=min(_LEGEND_COLUMNS, len(shown)), fontsize="small",
        )  # fmt: skip
    return figure
