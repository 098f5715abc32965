"""What every device is asked: what sizes cover and bring, and where the time of a draft step goes."""

from collections import defaultdict
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bench.compare.comparison import Comparison, Entry
from bench.compare.panels import device_style, finish, panels, size_axis
from bench.report.drawing import INK, K_LABEL, PALETTE
from bench.report.summary import held_out_tokens

_PARTS = (("layer", "draft layer"), ("lm_head", "LM head"), ("select", "token selection"))
_MOST_COLUMNS = 4
_COMPARED = [2**n for n in range(4, 18)]


def acceptance_figure(comparison: Comparison) -> Figure:
    """Mean acceptance length of every size, at the fastest draft length of every device, and coverage."""
    figure, axes = panels(comparison, lambda _: 4.4)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        beside = axis.twinx()
        entries = comparison.of(case, domain)
        for alike in _alike(entries):
            surface, style = alike[0].surface, device_style(comparison, alike[0].device)
            tau = surface.mean_acceptance_length[surface.draft_lengths.index(surface.best[1])]
            more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
            label = f"{alike[0].device}{more}, gamma = {surface.best[1]}"
            axis.step(surface.sizes, tau, where="post", color=style["color"], label=label)
        run = entries[0].run
        covered = run.rankings[run.plans[domain].source].coverage_of(held_out_tokens(run, domain))
        beside.plot(np.arange(1, run.full_size + 1), covered, color=INK, linestyle=":")
        size_axis(axis, run.full_size)
        axis.plot([], [], color=INK, linestyle=":", label="held-out coverage (right)")
        axis.set_xlabel(K_LABEL)
        axis.set_ylim(bottom=1)
        beside.set_ylim(0, 1.02)
        beside.grid(False)
        axis.set_ylabel("mean acceptance length (tokens)")
        beside.set_ylabel("coverage (share of tokens)")
    return finish(figure, axes, "What k tokens bring, at each device's fastest draft length")


def _alike(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries by what their targets accept at the fastest draft length."""
    groups: dict[tuple[bytes, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        surface = entry.surface
        row = surface.draft_lengths.index(surface.best[1])
        at_sizes = surface.mean_acceptance_length[row, [surface.column(k) for k in _COMPARED]]
        groups[at_sizes.tobytes(), surface.best[1]].append(entry)
    return list(groups.values())


def split_frame(comparison: Comparison) -> pd.DataFrame:
    """Median of every part of a chained draft step by case, device and k, over the domains of its runs."""
    rows = []
    for case in comparison.cases:
        for device, runs in comparison.runs_of(case).items():
            pooled: dict[tuple[str, int], list[float]] = defaultdict(list)
            for probe in (probe for run in runs for probes in run.probes.values() for probe in probes):
                for part, _ in _PARTS:
                    pooled[part, probe.vocab_size] += probe.laps_ms.get(part, [])
            rows += [
                (case, device, part, size, float(np.median(samples)))
                for (part, size), samples in sorted(pooled.items())
                if samples
            ]
    return pd.DataFrame(rows, columns=["case", "device", "part", "vocab_size", "median_ms"])


def split_figure(comparison: Comparison, split: pd.DataFrame) -> Figure:
    """Where the time of a draft step goes on every device."""
    places = [(case, device) for case in comparison.cases for device in comparison.devices_of(case)]
    columns = min(_MOST_COLUMNS, len(places))
    num_rows = -(-len(places) // columns)
    figure, grid = plt.subplots(
        num_rows, columns, figsize=(3.9 * columns + 0.6, 3.3 * num_rows + 0.5), squeeze=False
    )
    colors = sns.color_palette(PALETTE)
    for axis, (case, device) in zip(grid.flat, places, strict=False):
        rows = split[(split["case"] == case) & (split["device"] == device)]
        sizes = sorted(rows["vocab_size"].dropna().unique())
        base = np.zeros(len(sizes))
        for color, (part, label) in zip(colors, _PARTS, strict=False):
            by_size = rows[rows["part"] == part].set_index("vocab_size")["median_ms"]
            if by_size.empty:
                continue
            heights = by_size.reindex(sizes).ffill().bfill().to_numpy(dtype=float)
            axis.bar([f"{k:,}" for k in sizes], heights, bottom=base, color=color, label=label)
            base += heights
        axis.set_title(f"{device}\n{case}" if len(comparison.cases) > 1 else device, fontsize="small")
        axis.tick_params(axis="x", rotation=45, labelsize="x-small")
        axis.tick_params(axis="y", labelsize="x-small")
    for spare in grid.flat[len(places) :]:
        spare.set_visible(False)
    for axis in grid[:, 0]:
        axis.set_ylabel("median draft step (ms)", fontsize="small")
    for axis in grid[-1]:
        axis.set_xlabel(K_LABEL, fontsize="small")
    return finish(
        figure, list(grid.flat[: len(places)]), "Where a draft step's time goes, inside real rounds"
    )
