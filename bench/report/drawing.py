"""What the figures of runs, selections and comparisons share: style, files, and the axis of sizes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.parallel import in_parallel

Drawing = Callable[[], Figure | None]  # None where there is nothing to show
Drawings = Mapping[str, Drawing]  # by file name

PALETTE = "colorblind"
K_LABEL = "draft vocabulary size k (tokens)"

# Colours that a page may replace by those of its own theme: no other part of a figure has exactly these.
PAPER, INK, RULE = "#fffffe", "#222223", "#cccccd"

RUN_FORMATS = ("svg", "png")
REPORT_FORMATS = ("svg", "png", "pdf")
_DPI = 130
_MOST_TICKS = 14  # beside each other on an axis of sizes
_STYLE = {
    **{name: PAPER for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor")},
    **{name: INK for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")},
    **{name: RULE for name in ("grid.color", "axes.edgecolor", "legend.edgecolor")},
    "svg.fonttype": "none",  # text stays text: small, sharp, and found by a search
    "svg.hashsalt": "vocabtrim-bench",  # the same figure is the same file
}


def set_style() -> None:
    """The look of every figure; to be set before one is drawn."""
    sns.set_theme(style="whitegrid", context="notebook", palette=PALETTE, rc=_STYLE)


def draw(drawings: Drawings, folder: Path, formats: Sequence[str] = RUN_FORMATS) -> list[Path]:
    """Draws figures and writes them into `folder`, which is made.

    Returns:
        The PNGs, in the order of `drawings`; what a drawing has no data for is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    calls = [partial(_draw_one, drawing, name, folder, formats) for name, drawing in drawings.items()]
    return [path for path in in_parallel(calls) if path]


def _draw_one(drawing: Drawing, name: str, folder: Path, formats: Sequence[str]) -> Path | None:
    set_style()
    figure = drawing()
    if figure is None:
        return None
    for suffix in formats:
        # A date would make every drawing another file.
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
        figure.savefig(folder / f"{name}.{suffix}", dpi=_DPI, bbox_inches="tight", metadata=undated)
    plt.close(figure)
    return folder / f"{name}.png"


def log_k_axis(axis: Axes, sizes: Iterable[int]) -> None:
    """A logarithmic axis of vocabulary sizes, with a tick at each of `sizes` that has room for its number."""
    ordered = sorted(set(sizes), reverse=True)
    least_ratio = (ordered[0] / ordered[-1]) ** (1 / _MOST_TICKS)
    ticks = ordered[:1]
    for size in ordered[1:]:
        if ticks[-1] >= least_ratio * size:
            ticks.append(size)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{k:,}" for k in ticks], rotation=40, fontsize="small")
    axis.minorticks_off()


def title_figure(figure: Figure, environment: Mapping[str, Any], text: str) -> Figure:
    """Says above a figure what it shows and where it was measured; returns the figure."""
    where = f"{environment['pair']}, {environment['dtype']}, {environment['device_name']}"
    figure.suptitle(f"{text}\n{where}", fontsize="medium")
    figure.tight_layout()
    return figure
