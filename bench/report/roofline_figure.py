"""Where the parts of a round stand under the limits of their device."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.fit.judge import JudgedComponent, Judgement
from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY
from bench.report.drawing import INK, PALETTE

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
