"""The latency models of one component, drawn."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench.analysis.comparison import Comparison
from bench.fit.judge import JudgedComponent, JudgedModel, Judgement, sentence
from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY, IntArray, reduction
from bench.report.device_figures import device_style, finish
from bench.report.drawing import INK, K_LABEL, PALETTE, log_k_axis
from bench.stats.estimates import Estimate

_WHAT = {LM_HEAD: "LM head", DRAFT_STEP: "draft step", VERIFY: "verification"}

_TOKENS_LABEL = "tokens verified (draft length + 1)"

_CURVE_POINTS = 200

# Curves that are nowhere further apart cannot be told apart on paper: they are drawn as one.
_SAME_CURVE = 0.002

_GOOD_ERROR_PERCENT = 5

_LINE_STYLES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))


def fit_figure(judgement: Judgement, component: str) -> Figure:
    """Latency by size with every model's curve, what a smaller vocabulary saves, and how far off each is.

    A verification has no vocabulary, and no panel of savings.

    Args:
        judgement: of a run.
        component: one of its components.
    """
    judged = judgement.components[component]
    has_k = component != VERIFY
    figure, axes = plt.subplots(
        3 if has_k else 2,
        1,
        figsize=(9.5, 11.4 if has_k else 8.2),
        sharex=True,
        gridspec_kw={"height_ratios": [3, 2.4, 1.6] if has_k else [3, 2]},
    )
    above, below, work = axes[0], axes[-1], judged.series.work
    dense = _dense_sizes(judged)
    for place, group in enumerate(_groups(judged, dense)):
        style, curve = _style(place, group, judged.best), group[0].fitted.predict(work.at(dense))
        above.plot(dense, curve, label=_label(group), **style)
        if has_k:
            axes[1].plot(dense, 100 * reduction(curve), **style)
        below.plot(work.sizes, 100 * group[0].fitted.relative_errors, marker="o", markersize=4, **style)
    _measured(above, work.sizes, judged.medians, "measured median, 95% interval")
    if has_k:
        _measured(axes[1], work.sizes, judged.reductions, "measured, 95% interval", 100)
        axes[1].set_ylabel("latency reduction R(k)\n(% of the full vocabulary's)")
        axes[1].legend(fontsize="small", frameon=True)
        lowest = min(estimate.ci_low for estimate in judged.reductions)
        axes[1].set_ylim(bottom=min(-3.0, 110 * lowest), top=103)
    below.axhspan(-_GOOD_ERROR_PERCENT, _GOOD_ERROR_PERCENT, color="0.5", alpha=0.15, zorder=0)
    below.axhline(0, color=INK, linewidth=1)
    _finish(above, below, judged, component)
    figure.suptitle("\n".join(textwrap.wrap(sentence(judgement, component), 92)), fontsize="medium")
    figure.tight_layout()
    return figure


def _dense_sizes(judged: JudgedComponent) -> IntArray:
    sizes = judged.series.work.sizes
    dense = np.geomspace(sizes[0], sizes[-1], _CURVE_POINTS).round().astype(np.int64)
    return np.unique(np.concatenate([dense, sizes]))


def _groups(judged: JudgedComponent, dense: IntArray) -> list[list[JudgedModel]]:
    """Models by curve, those that cannot be told apart together; the best one's first."""
    work = judged.series.work.at(dense)
    groups: list[list[JudgedModel]] = []
    explaining = [model for model in judged.models if not model.fitted.model.is_yardstick]
    for model in sorted(explaining, key=lambda m: m.fitted.model.name != judged.best):
        curve = model.fitted.predict(work)
        for group in groups:
            if np.abs(curve / group[0].fitted.predict(work) - 1).max() <= _SAME_CURVE:
                group.append(model)
                break
        else:
            groups.append([model])
    return groups


def _style(place: int, group: list[JudgedModel], best: str | None) -> dict[str, object]:
    color = sns.color_palette(PALETTE)[place]
    if any(model.fitted.model.name == best for model in group):
        return {"color": color, "linewidth": 2.8, "linestyle": "-"}
    return {"color": color, "linewidth": 1.6, "linestyle": _LINE_STYLES[place % len(_LINE_STYLES)]}


def _label(group: list[JudgedModel]) -> str:
    errors = [model.scores.loo_mape for model in group]
    known = [error for error in errors if error is not None]
    told = f"held-out error {min(known):.1%}" if known else "too few sizes to hold one out"
    names = "\n= ".join(model.fitted.model.label for model in group)
    return f"{names}: {told}"


def _measured(
    axis: Axes, sizes: IntArray, estimates: Sequence[Estimate], label: str, scale: float = 1.0
) -> None:
    values, low, high = (
        scale * np.array([getattr(estimate, name) for estimate in estimates])
        for name in ("value", "ci_low", "ci_high")
    )
    # A resampled interval of a value that is known exactly may miss it by rounding.
    spread = np.maximum([values - low, high - values], 0)
    axis.errorbar(sizes, values, yerr=spread, fmt="o", color=INK, capsize=3, zorder=5, label=label)


def _finish(above: Axes, below: Axes, judged: JudgedComponent, component: str) -> None:
    sizes = judged.series.work.sizes
    above.set_yscale("log")
    above.set_ylabel(f"{_WHAT.get(component, component)} (ms)")
    above.legend(fontsize="small", frameon=True)
    above.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    above.yaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
    above.yaxis.set_minor_formatter(plt.NullFormatter())
    below.set_ylabel("prediction error (%)\nabove 0: too slow")
    below.set_xlabel(_TOKENS_LABEL if component == VERIFY else K_LABEL)
    below.annotate(
        f"within {_GOOD_ERROR_PERCENT}%",
        (0.995, _GOOD_ERROR_PERCENT),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize="small",
        color="0.4",
    )
    log_k_axis(below, sizes.tolist())


# Figures of what a draft step takes: against memory bandwidth, and predicted from other devices.

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


# Where the parts of a round stand under the limits of their device.

_LABELS = {LM_HEAD: "LM head", DRAFT_STEP: "draft step", VERIFY: "verification"}

_MARKERS = {LM_HEAD: "o", DRAFT_STEP: "s", VERIFY: "^"}


def roofline_figure(judgement: Judgement) -> Figure | None:
    """Work per byte against work per second of every measured size; None where no limit is known.

    The roof is min(peak, intensity x bandwidth) (Williams et al. 2009, the roofline model).

    Args:
        judgement: of a run.
    """
    spec = judgement.spec
    if spec is None or not judgement.components:
        return None
    figure, axis = plt.subplots(figsize=(8.2, 5.6))
    lowest, highest = np.inf, 0.0
    for color, (name, judged) in zip(sns.color_palette(PALETTE), judgement.components.items(), strict=False):
        intensity, rate = _place(judged)
        style = {"color": color, "marker": _MARKERS[name], "linewidth": 0.8}
        axis.plot(intensity, rate / 1e9, label=_LABELS[name], **style)
        _name_ends(axis, judged, intensity, rate)
        lowest, highest = min(lowest, intensity.min()), max(highest, intensity.max())
    peak = spec.peak_flops_per_s.get(judgement.dtype)
    span = np.geomspace(lowest / 3, highest * 8, 200)
    if peak is not None and peak / spec.memory_bytes_per_s > span[-1]:
        span = np.geomspace(lowest / 3, 3 * peak / spec.memory_bytes_per_s, 200)
    roof = span * spec.memory_bytes_per_s
    limit = f"{spec.memory_bytes_per_s / 1e9:,.0f} GB/s"
    if peak is not None:
        roof, limit = np.minimum(roof, peak), f"{limit}, {peak / 1e12:,.3g} TFLOP/s"
    axis.plot(span, roof / 1e9, color=INK, linewidth=2, label=f"limit: {limit}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("arithmetic intensity (FLOP/byte)")
    axis.set_ylabel("work per time (GFLOP/s)")
    axis.legend(fontsize="small", loc="lower right")
    title = f"Roofline of {judgement.device_name}, {judgement.dtype}\n{spec.source}"
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    return figure


def _place(judged: JudgedComponent) -> tuple[np.ndarray, np.ndarray]:
    """FLOP per byte and FLOP/s of every size."""
    work = judged.series.work
    return work.flops / work.total_bytes, work.flops / (judged.series.medians_ms / 1e3)


def _name_ends(axis: Axes, judged: JudgedComponent, intensity: np.ndarray, rate: np.ndarray) -> None:
    """Says which size the first and the last point are."""
    for place, shift in ((0, (-6, -12)), (-1, (-6, 8))):
        axis.annotate(
            f"{judged.series.work.sizes[place]:,}",
            (intensity[place], rate[place] / 1e9),
            xytext=shift,
            textcoords="offset points",
            fontsize="x-small",
        )
