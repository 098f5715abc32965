"""What the figures of runs, selections and comparisons share: style, files, and the axis of sizes."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.parallel import in_parallel
from bench.report.sections import Picture

Found = TypeVar("Found")  # what a figure is drawn from

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


@dataclass(frozen=True)
class Captioned(Generic[Found]):
    """A figure's function with its name and caption; called as the function.

    Attributes:
        name: of its files.
        caption: what it shows, over how many (`{n}`), and what its intervals are.
        function: draws it; None where there is nothing to show.
    """

    name: str
    caption: str
    function: Callable[[Found], Figure | None]

    def __call__(self, found: Found) -> Figure | None:
        """Draws it."""
        return self.function(found)

    def picture(self, found: Found, n: str = "", prefix: str = "") -> Picture:
        """As a part of a report.

        Args:
            found: what is drawn.
            n: sample sizes, for the caption.
            prefix: of the name of its files.
        """
        return Picture(prefix + self.name, self.caption.replace("{n}", n), partial(self.function, found))


def captioned(name: str, caption: str) -> Callable[[Callable[[Found], Figure | None]], Captioned[Found]]:
    """Gives a figure's function its name and caption."""
    return lambda function: Captioned(name, caption, function)


def draw(pictures: Iterable[Picture], folder: Path, formats: Sequence[str] = RUN_FORMATS) -> list[str]:
    """Draws figures and writes them into `folder`, which is made.

    Returns:
        Names of those that had nothing to show, and were not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = list(pictures)
    written = in_parallel([partial(_draw_one, picture, folder, formats) for picture in pictures])
    return [picture.name for picture, was_written in zip(pictures, written, strict=True) if not was_written]


def _draw_one(picture: Picture, folder: Path, formats: Sequence[str]) -> bool:
    set_style()
    figure = picture.draw()
    if figure is None:
        return False
    for suffix in formats:
        # A date would make every drawing another file.
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
        figure.savefig(folder / f"{picture.name}.{suffix}", dpi=_DPI, bbox_inches="tight", metadata=undated)
    plt.close(figure)
    return True


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


def outlined_sizes(full_size: int) -> list[int]:
    """Powers of four up to the whole vocabulary: ticks of an axis of sizes."""
    return [*(4**n for n in range(2, 12) if 4**n < 0.7 * full_size), full_size]


def error_bars(
    axis: Axes, x: Any, rows: pd.DataFrame, column: str, ends: tuple[str, str], **style: Any
) -> None:
    """Values of a table with their intervals."""
    value = rows[column]
    # A resample's rounding may put an end a hair on the other side.
    spread = np.maximum([value - rows[ends[0]], rows[ends[1]] - value], 0)
    axis.errorbar(x, value, yerr=spread, **{"capsize": 3, **style})


def stack_bars(axis: Axes, rows: pd.DataFrame, parts: Sequence[tuple[str, str]]) -> None:
    """Bars by vocabulary size, stacked by part; `parts` are columns in ms and their names."""
    names = [f"{k:,}" for k in rows["vocab_size"]]
    base = np.zeros(len(rows))
    for color, (part, label) in zip(sns.color_palette(PALETTE), parts, strict=False):
        if part not in rows or rows[part].isna().all():
            continue
        heights = rows[part].to_numpy(dtype=float)
        axis.bar(names, heights, bottom=base, color=color, label=label)
        base += np.nan_to_num(heights)
    axis.set_xlabel(K_LABEL)


# What was sampled beside a run; drawn alike for every kind of run.

# What a panel has room for on its left.
_LABEL_CHARS = 18


class Sampled(Protocol):
    """Findings with telemetry."""

    @property
    def run(self) -> Any:
        """The run."""

    @property
    def sampled(self) -> Sequence[Any]:
        """Series, as `bench.analysis.telemetry.SampledSeries`."""

    @property
    def spans(self) -> Mapping[str, tuple[float, float]]:
        """When every domain was decoded, in s."""


@captioned(
    "telemetry",
    "Shaded: from the first to the last decode of a domain, or of domains that took turns ({n}).",
)
def telemetry_figure(found: Sampled) -> Figure | None:
    """A panel per quantity over time, with the time of every domain shaded; None without samples."""
    labels = list(dict.fromkeys(series.panel for series in found.sampled))
    if not labels:
        return None
    figure, axes = plt.subplots(
        len(labels), 1, figsize=(10.5, 1.5 + 1.75 * len(labels)), sharex=True, squeeze=False
    )
    for axis, label in zip(axes[:, 0], labels, strict=True):
        lines = [series for series in found.sampled if series.panel == label]
        for color, series in zip(sns.color_palette(PALETTE), lines, strict=False):
            axis.plot(series.times_s, series.values, color=color, linewidth=1, label=series.name)
        for place, (begin, end) in enumerate(found.spans.values()):
            alpha = 0.10 + 0.08 * (place % 2)  # neighbours differ
            axis.axvspan(begin, end, color="0.5", alpha=alpha, linewidth=0)
        axis.set_ylabel(textwrap.fill(label, _LABEL_CHARS), fontsize="small")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    for domain, (begin, end) in found.spans.items():
        axes[0, 0].annotate(
            domain, ((begin + end) / 2, 1.02), xycoords=("data", "axes fraction"), ha="center",
            fontsize="small",
        )  # fmt: skip
    axes[-1, 0].set_xlabel("time since the run began (s)")
    environment = found.run.environment
    figure.suptitle(
        f"Beside the run: {environment['device_name']}, {environment['dtype']}", fontsize="medium"
    )
    figure.tight_layout()
    return figure
