"""What the figures of runs and of selections share: style, files, and the axis of sizes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = "colorblind"
K_LABEL = "draft vocabulary size k (tokens)"


def set_style() -> None:
    """The look of every figure; to be set before one is drawn."""
    sns.set_theme(style="whitegrid", context="notebook", palette=PALETTE)


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes figures by name into `folder` as PNG and SVG, and closes them; returns the PNGs."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        for suffix in ("svg", "png"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(path, dpi=130, bbox_inches="tight")
        paths.append(path)
        plt.close(figure)
    return paths


def log_k_axis(axis: Axes, sizes: Iterable[int]) -> None:
    """A logarithmic axis of vocabulary sizes, with a tick at each of `sizes`."""
    ticks = sorted(set(sizes))
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{k:,}" for k in ticks], rotation=40, fontsize="small")
    axis.minorticks_off()


def title_figure(figure: Figure, environment: Mapping[str, Any], text: str) -> Figure:
    """Says above a figure what it shows and where it was measured; returns the figure."""
    where = f"{environment['pair']}, {environment['dtype']}, {environment['device_name']}"
    figure.suptitle(f"{text}\n{where}", fontsize="medium")
    figure.tight_layout()
    return figure
