"""Figures of a draft that was measured alone: what a step costs by size, and what smaller sizes save."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bench.fit.judge import Judgement
from bench.fit.series import DRAFT_STEP, LM_HEAD
from bench.measure.stats import median
from bench.report.draft_frames import DraftRun
from bench.report.drawing import INK, K_LABEL, PALETTE, Drawing, Drawings, log_k_axis, title_figure
from bench.report.fit_figures import fit_figure
from bench.report.latency import COLD, WARM
from bench.report.roofline_figure import roofline_figure
from bench.report.telemetry_figure import telemetry_figure

_STACK = (("layer_ms", "decoder layers"), ("lm_head_ms", "LM head"), ("select_ms", "token selection"))
_WHAT = {LM_HEAD: "LM head", DRAFT_STEP: "draft step"}
_CACHES = ((COLD, "cold cache", "o-"), (WARM, "warm cache", "^:"))


def draft_drawings(draft: DraftRun, steps: pd.DataFrame, judgement: Judgement) -> Drawings:
    """Every figure of a draft that was measured alone, by name, to be drawn."""
    drawings: dict[str, Drawing] = {
        "draft_latency": lambda: step_figure(draft, steps),
        "isolated": lambda: cache_figure(draft),
        "roofline": lambda: roofline_figure(judgement),
        "telemetry": lambda: telemetry_figure(draft.run),
    }
    for name in judgement.components:
        drawings[f"fit_{name}"] = partial(fit_figure, judgement, name)
    return drawings


def step_figure(draft: DraftRun, steps: pd.DataFrame) -> Figure:
    """Median step by size: its parts stacked, and the whole measured as one."""
    figure, axis = plt.subplots(figsize=(9, 4.8))
    names = [f"{k:,}" for k in steps["vocab_size"]]
    base = np.zeros(len(steps))
    for color, (column, label) in zip(sns.color_palette(PALETTE), _STACK, strict=False):
        heights = steps[column].to_numpy(dtype=float)
        axis.bar(names, heights, bottom=base, color=color, label=label)
        base += np.nan_to_num(heights)
    value = steps["draft_step_ms"]
    spread = [value - steps["draft_step_ci_low_ms"], steps["draft_step_ci_high_ms"] - value]
    axis.errorbar(names, value, yerr=spread, fmt="D", color=INK, markersize=5, capsize=3, label="whole step")
    axis.set_xlabel(K_LABEL)
    axis.set_ylabel("median latency (ms)")
    axis.tick_params(axis="x", rotation=40, labelsize="small")
    axis.legend()
    text = "Where a draft step's time goes: parts and the whole step; bars: 95% interval of the median"
    return title_figure(figure, draft.run.environment, text)


def cache_figure(draft: DraftRun) -> Figure:
    """LM head and draft step with the cache cold and warm."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    for axis, part in zip(axes, (LM_HEAD, DRAFT_STEP), strict=True):
        for setting, label, style in _CACHES:
            times = draft.times(part, setting)
            if not times:
                continue
            found = [median(np.array(samples)) for samples in times.values()]
            value = np.array([estimate.value for estimate in found])
            spread = [value - [e.ci_low for e in found], [e.ci_high for e in found] - value]
            axis.errorbar(list(times), value, yerr=spread, fmt=style, capsize=3, label=label)
        axis.set_xlabel(K_LABEL)
        axis.set_ylabel(f"median {_WHAT[part]} (ms)")
        axis.set_ylim(bottom=0)
        log_k_axis(axis, draft.times(part))
    axes[0].legend(fontsize="small")
    text = "Cold and warm cache; bars: 95% interval of the median"
    return title_figure(figure, draft.run.environment, text)
