"""What was sampled beside a run, over its time."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.run import Run
from bench.report.drawing import PALETTE

# A panel each: its axis and the fields it shows with their names; a panel without samples is left out.
_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("power (W)", (("power_w", "GPU"),)),
    ("clock (MHz)", (("sm_clock_mhz", "SM"), ("memory_clock_mhz", "GPU memory"), ("cpu_clock_mhz", "CPU"))),
    ("temperature (C)", (("temperature_c", "GPU"), ("cpu_temperature_c", "CPU"))),
    (
        "load (share)",
        (("utilization", "GPU"), ("cpu_load", "CPU"), ("cpu_load_of_others", "other processes")),
    ),
    ("GPU memory (GB)", (("memory_used_bytes", "used"),)),
)

_SCALE = {"memory_used_bytes": 1e-9}

_MOST_POINTS = 2000  # more cannot be seen, and would make the file large


def telemetry_figure(run: Run) -> Figure | None:
    """A panel per quantity over time, with the time of every domain shaded; None without samples."""
    rows = run.samples.rows
    found = [(label, [f for f in fields if _known(rows, f[0])]) for label, fields in _PANELS]
    found = [(label, fields) for label, fields in found if fields]
    if not found:
        return None
    start_s = rows[0]["time_s"]
    figure, axes = plt.subplots(
        len(found), 1, figsize=(10.5, 1.5 + 1.75 * len(found)), sharex=True, squeeze=False
    )
    colors = sns.color_palette(PALETTE)
    for axis, (label, fields) in zip(axes[:, 0], found, strict=True):
        for color, (field, name) in zip(colors, fields, strict=False):
            times, values = _series(rows, field)
            axis.plot(times - start_s, values * _SCALE.get(field, 1), color=color, linewidth=1, label=name)
        _shade(axis, run, start_s)
        axis.set_ylabel(label, fontsize="small")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize="x-small", loc="lower right", ncols=3)
    for domain, (begin, end) in _spans(run).items():
        axes[0, 0].annotate(
            domain, ((begin + end) / 2 - start_s, 1.02), xycoords=("data", "axes fraction"), ha="center",
            fontsize="small",
        )  # fmt: skip
    axes[-1, 0].set_xlabel("time since the run began (s)")
    title = f"Beside the run: {run.environment['device_name']}, {run.environment['dtype']}"
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    return figure


def _known(rows: Sequence[dict[str, Any]], field: str) -> bool:
    return any(row.get(field) is not None for row in rows)


def _series(rows: Sequence[dict[str, Any]], field: str) -> tuple[np.ndarray, np.ndarray]:
    known = [(row["time_s"], row[field]) for row in rows if row.get(field) is not None]
    table = np.array(known, dtype=np.float64)
    table = table[:: max(1, len(table) // _MOST_POINTS)]
    return table[:, 0], table[:, 1]


def _spans(run: Run) -> dict[str, tuple[float, float]]:
    """From the first to the last decode of every domain, on the clock of the samples."""
    spans = {}
    for domain, by_key in run.decodes.items():
        records = [record for by_prompt in by_key.values() for record in by_prompt.values()]
        starts = [record.start_s for record in records if record.start_s is not None]
        ends = [record.end_s for record in records if record.end_s is not None]
        if starts and ends:
            spans[domain] = (min(starts), max(ends))
    return spans


def _shade(axis: Axes, run: Run, start_s: float) -> None:
    for place, (begin, end) in enumerate(_spans(run).values()):
        alpha = 0.10 + 0.08 * (place % 2)  # neighbours differ
        axis.axvspan(begin - start_s, end - start_s, color="0.5", alpha=alpha, linewidth=0)
