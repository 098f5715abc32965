"""What the figures of a comparison share: a panel per case and domain, and one look per device."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
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


def panels(
    comparison: Comparison, height: Callable[[int], float], sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A titled axis per case and domain, in the order of `comparison.panels`; every case in rows of its own.

    Args:
        comparison: the comparison.
        height: of a row in inches, from its number of devices.
        sharey: whether the panels of a row have one y axis.
    """
    columns = min(_MOST_COLUMNS, max(len(list(group)) for _, group in _by_case(comparison)))
    rows: list[tuple[str, list[str]]] = []
    for case, found in _by_case(comparison):
        domains = [domain for _, domain in found]
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
            axis.set_title(_panel_title(comparison, case, domain), fontsize="medium")
            axes.append(axis)
        for spare in line[len(domains) :]:
            spare.set_visible(False)
    return figure, axes


def _by_case(comparison: Comparison) -> Iterator[tuple[str, Iterator[tuple[str, str]]]]:
    yield from groupby(comparison.panels, key=lambda panel: panel[0])


def _panel_title(comparison: Comparison, case: str, domain: str) -> str:
    counts = sorted({entry.num_prompts for entry in comparison.of(case, domain)})
    told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    title = f"{domain} (n = {told})"
    return f"{title}\n{case}" if len(comparison.cases) > 1 else title


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
