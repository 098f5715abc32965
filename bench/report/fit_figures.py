"""The latency models of one component, drawn."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench.fit.choice import reduction
from bench.fit.judge import JudgedComponent, JudgedModel, Judgement, sentence
from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY, IntArray
from bench.measure.stats import Estimate
from bench.report.drawing import INK, K_LABEL, PALETTE, log_k_axis

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
