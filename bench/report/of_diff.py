"""The report of two runs of the same work, the second judged by the first."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bench.analysis.diff import FASTER, SAME, SLOWER, TOO_FEW, UNCLEAR, Change, DiffFindings
from bench.report.drawing import INK, PALETTE, captioned
from bench.report.sections import Paragraph, Points, Section, Table, section

_TONES = {Change.slower: "bad", Change.not_slower: "good", Change.inconclusive: "unsure"}


def diff_report(found: DiffFindings) -> Section:
    """What takes longer in the second of two runs."""
    title = f"Time of {found.after} over that of {found.before}"
    columns = ("name", "num_prompts", "ratio", "verdict")
    parts = [
        section("answer", title, Paragraph(found.sentence, is_brief=True, tone=_TONES[found.change])),
        section("notes", "What else there is to know", Points(found.notes, is_brief=True)),
        section(
            "comparisons",
            "Comparisons",
            Table(
                "Decodes, and parts that changed.", found.shown, columns, is_brief=True, brief_intervals=True
            ),
            diff_figure.picture(found),
        ),
    ]
    return Section("report", title, [part for part in parts if part])


# Places in the palette: vermilion is bad, green is good, blue is nothing new.
_COLORS = {SLOWER: 3, FASTER: 2, SAME: 0, UNCLEAR: 7, TOO_FEW: 7}

_ROW_INCHES = 0.23

_TITLE_CHARS = 88

_LEGEND_ROWS = 2.6


def _limits(rows: pd.DataFrame, low: float, high: float) -> tuple[float, float]:
    """Around the ratios; an interval that is far wider than all of them lie apart goes on outside."""
    ratios = np.log([*rows["ratio"], low, high])
    ends = np.log([rows["ci_low"].min(), rows["ci_high"].max()])
    spread = float(ratios.max() - ratios.min())
    return (
        float(np.exp(max(min(ends[0], ratios.min()), ratios.min() - spread) - 0.1 * spread)),
        float(np.exp(min(max(ends[1], ratios.max()), ratios.max() + spread) + 0.1 * spread)),
    )


@captioned(
    "diff",
    "Bars: 95% bootstrap interval of the median over prompts, not corrected for the number of comparisons as "
    "the verdicts are.",
)
def diff_figure(found: DiffFindings) -> Figure:
    """Time after over time before of everything that was judged, with intervals, by verdict."""
    rows = found.judged.iloc[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(8.5, 2.2 + _ROW_INCHES * len(rows)))
    for verdict, place in _COLORS.items():
        chosen = rows[rows["verdict"] == verdict]
        if chosen.empty:
            continue
        value = chosen["ratio"]
        axis.errorbar(
            value,
            chosen.index,
            xerr=np.maximum([value - chosen["ci_low"], chosen["ci_high"] - value], 0),
            fmt="o" if verdict != TOO_FEW else "x",
            color=sns.color_palette(PALETTE)[place],
            markersize=5,
            capsize=2,
            label=f"{verdict} ({len(chosen)})",
        )
    bounds = 1 / (1 + found.threshold), 1 + found.threshold
    axis.axvspan(*bounds, color="0.5", alpha=0.15, zorder=0, label=f"threshold, {found.threshold:.1%}")
    axis.axvline(1, color=INK, linewidth=1)
    axis.set_yticks(range(len(rows)), rows["name"], fontsize="small")
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel("time after / time before (x; above 1: slower)")
    axis.grid(axis="y", visible=False)
    axis.set_xscale("log")
    axis.set_xlim(*_limits(rows, *bounds))
    for set_formatter in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        set_formatter(plt.FuncFormatter(lambda value, _: f"{value:.4g}"))
    axis.tick_params(axis="x", which="both", labelsize="small")
    below = -_LEGEND_ROWS / len(rows)
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.4, below), ncols=3)
    title = f"Time of {found.after} over that of {found.before}"
    figure.suptitle("\n".join(textwrap.wrap(title, _TITLE_CHARS)), fontsize="medium")
    figure.tight_layout()
    return figure
