"""What the figures of a comparison share: a panel per case and domain, and one look per device."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare.comparison import Comparison
from bench.report.drawing import PALETTE, log_k_axis

_MARKERS = "osD^vP*X<>"
_SMALLEST = 16  # below it nothing is fast, and the axis would be mostly empty
_MOST_COLUMNS = 3
_LEGEND_COLUMNS = 3


def panels(comparison: Comparison, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """An axis per case and domain, titled; in rows of three."""
    panels = comparison.panels
    columns = min(len(panels), _MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.6 * columns + 0.9, height * rows), squeeze=False, **options
    )
    axes = list(grid.ravel())
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    for axis, (case, domain) in zip(axes, panels, strict=False):
        entries = comparison.of(case, domain)
        counts = sorted({entry.num_prompts for entry in entries})
        told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        title = f"{domain} (n = {told})"
        axis.set_title(f"{title}\n{case}" if len(comparison.cases) > 1 else title, fontsize="medium")
    return figure, axes[: len(panels)]


def device_style(comparison: Comparison, device: str) -> dict[str, Any]:
    """Colour and marker of a device, the same in every figure."""
    place = comparison.devices.index(device)
    colors = sns.color_palette(PALETTE)
    return {"color": colors[place % len(colors)], "marker": _MARKERS[place % len(_MARKERS)]}


def size_axis(axis: Axes, full_size: int) -> None:
    """Powers of four up to the whole vocabulary."""
    log_k_axis(axis, [4**n for n in range(2, 12) if 4**n < 0.7 * full_size] + [full_size])
    axis.set_xlim(min(_SMALLEST, full_size), full_size * 1.15)


def finish(figure: Figure, axes: Sequence[Axes], title: str, legend: bool = True) -> Figure:
    """Title and, below the panels, which it would hide, one legend of all of them; returns the figure."""
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    if legend:
        # A device may be in one panel only.
        found: dict[str, Any] = {}
        for axis in axes:
            handles, labels = axis.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
        figure.legend(
            found.values(), found.keys(), loc="upper center", bbox_to_anchor=(0.5, 0),
            ncols=min(_LEGEND_COLUMNS, len(found)), fontsize="small",
        )  # fmt: skip
    return figure
