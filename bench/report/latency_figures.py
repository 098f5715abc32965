"""Figures of latency models: fit, savings and error of each component, and the roofline."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench.analysis.latency_models import ComponentFindings, Curve, LatencyFindings
from bench.analysis.run import COLD, GRAPH, IN_SITU
from bench.report.drawing import INK, K_LABEL, PALETTE, Captioned, captioned, error_bars, log_k_axis

_TOKENS_LABEL = "tokens verified (draft length + 1)"

_GOOD_ERROR_PERCENT = 5

_LINE_STYLES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))


_DRAWN_ANEW = {
    IN_SITU: "whole prompts",
    f"{COLD}_{GRAPH}": "samples of the part as a graph on its own, with a cold cache",
}


def fit_captioned(component: ComponentFindings) -> Captioned[ComponentFindings]:
    """The figure of one component with its caption."""
    what = (
        "latency, the share that a size saves, and how far off each model is"
        if component.has_k
        else ("latency by tokens, and how far off each model is")
    )
    return Captioned(
        f"fit_{component.name}",
        f"From above: {what} ({{n}}). Bars: 95% bootstrap intervals of the median, over "
        f"{_DRAWN_ANEW.get(component.setting, 'samples')}.",
        fit_figure,
    )


def fit_figure(found: ComponentFindings) -> Figure:
    """Latency by size with every model's curve, what a smaller vocabulary saves, and how far off each is.

    A verification has no vocabulary, and no panel of savings.
    """
    figure, axes = plt.subplots(
        3 if found.has_k else 2,
        1,
        figsize=(9.5, 11.4 if found.has_k else 8.2),
        sharex=True,
        gridspec_kw={"height_ratios": [3, 2.4, 1.6] if found.has_k else [3, 2]},
    )
    above, below = axes[0], axes[-1]
    sizes = found.sizes.iloc[:, 0]
    for place, curve in enumerate(found.curves):
        style = _style(place, curve)
        above.plot(curve.sizes, curve.latency_ms, label=curve.label, **style)
        if found.has_k:
            axes[1].plot(curve.sizes, 100 * curve.saving, **style)
        below.plot(sizes, 100 * curve.errors, marker="o", markersize=4, **style)
    measured = {"fmt": "o", "color": INK, "zorder": 5}
    ends = ("measured_ci_low", "measured_ci_high")
    error_bars(
        above, sizes, found.sizes, "measured_ms", ends, label="measured median, 95% interval", **measured
    )
    if found.has_k:
        percent = 100 * found.sizes[["reduction", "reduction_ci_low", "reduction_ci_high"]]
        ends = ("reduction_ci_low", "reduction_ci_high")
        error_bars(axes[1], sizes, percent, "reduction", ends, label="measured, 95% interval", **measured)
        axes[1].set_ylabel("latency reduction R(k)\n(% of the full vocabulary's)")
        axes[1].set_ylim(bottom=min(-3.0, 1.1 * percent["reduction_ci_low"].min()), top=103)
    good = f"error within {_GOOD_ERROR_PERCENT}%"
    below.axhspan(-_GOOD_ERROR_PERCENT, _GOOD_ERROR_PERCENT, color="0.5", alpha=0.15, zorder=0, label=good)
    below.axhline(0, color=INK, linewidth=1)
    _finish(above, below, sizes.tolist(), found)
    figure.suptitle("\n".join(textwrap.wrap(found.sentence, 92)), fontsize="medium")
    figure.tight_layout()
    if legend := above.get_legend():
        legend.set_in_layout(True)
    return figure


def _style(place: int, curve: Curve) -> dict[str, object]:
    color = sns.color_palette(PALETTE)[place]
    if curve.is_best:
        return {"color": color, "linewidth": 2.8, "linestyle": "-"}
    return {"color": color, "linewidth": 1.6, "linestyle": _LINE_STYLES[place % len(_LINE_STYLES)]}


def _finish(above: Axes, below: Axes, sizes: Sequence[int], found: ComponentFindings) -> None:
    above.set_yscale("log")
    above.set_ylabel(f"{found.title} (ms)")
    above.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    above.yaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
    above.yaxis.set_minor_formatter(plt.NullFormatter())
    below.set_ylabel("prediction error (%)\nabove 0: too slow")
    below.set_xlabel(K_LABEL if found.has_k else _TOKENS_LABEL)
    log_k_axis(below, sizes)
    handles, labels = above.get_legend_handles_labels()
    shaded, good = below.get_legend_handles_labels()
    legend = above.legend(
        [*handles, *shaded],
        [*labels, *good],
        fontsize="small",
        ncols=2,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.45 if found.has_k else -0.3),
        bbox_transform=below.transAxes,
    )
    legend.set_in_layout(False)  # below all panels, so that it takes room from none


_MARKERS = "os^Dv"


@captioned(
    "roofline",
    "Work per byte against work per second, from counted FLOPs and bytes and median times ({n}). The roof is "
    "the data sheet's, or measured by a probe where there is none; points above it read from a cache, which "
    "is faster than memory. Numbers are k, or tokens verified.",
)
def roofline_figure(found: LatencyFindings) -> Figure | None:
    """Work per byte against work per second of every measured size; None where no limit is known.

    The roof is min(peak, intensity x bandwidth) (Williams et al. 2009, the roofline model).
    """
    bandwidth, peak = found.memory_bytes_per_s, found.peak_flops_per_s
    if bandwidth is None or not found.components:
        return None
    figure, axis = plt.subplots(figsize=(8.2, 5.6))
    for place, item in enumerate(found.components):
        style: dict[str, Any] = {
            "color": sns.color_palette(PALETTE)[place],
            "marker": _MARKERS[place],
            "linewidth": 0.8,
        }
        axis.plot(item.intensity, item.flops_per_s / 1e9, label=item.title, **style)
        _name_ends(axis, item, style["color"])
    lowest = min(item.intensity.min() for item in found.components)
    highest = max(item.intensity.max() for item in found.components)
    span = np.geomspace(lowest / 3, highest * 8, 200)
    if peak is not None and peak / bandwidth > span[-1]:
        span = np.geomspace(lowest / 3, 3 * peak / bandwidth, 200)
    roof, limit = span * bandwidth, f"{bandwidth / 1e9:,.0f} GB/s"
    if peak is not None:
        roof, limit = np.minimum(roof, peak), f"{limit}, {peak / 1e12:,.3g} TFLOP/s"
    axis.plot(span, roof / 1e9, color=INK, linewidth=2, label=f"limit: {limit}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("arithmetic intensity (FLOP/byte)")
    axis.set_ylabel("work per time (GFLOP/s)")
    axis.legend(fontsize="small", loc="lower right")
    title = f"Roofline of {found.judgement.device_name}, {found.judgement.dtype}\n{found.limits_from}"
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    return figure


# Where the names of a component's points stand: head and draft step have nearly the same intensity.
_SIDES = {"lm_head": (-8, "right"), "draft_step": (8, "left")}


def _name_ends(axis: Axes, found: ComponentFindings, color: Any) -> None:
    """Says which size the first and the last point are."""
    sizes = found.sizes.iloc[:, 0].to_numpy()
    right, side = _SIDES.get(found.name, (6, "left"))
    # Apart from each other where the points are not.
    above, beneath = (0, -9) if found.flops_per_s[0] > found.flops_per_s[-1] else (-9, 0)
    for place, up in ((0, above), (-1, beneath)):
        axis.annotate(
            f"{int(sizes[place]):,}",
            (found.intensity[place], found.flops_per_s[place] / 1e9),
            xytext=(right, up),
            textcoords="offset points",
            ha=side,
            fontsize="x-small",
            color=color,
        )
