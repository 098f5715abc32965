"""Figures of how fast devices decode: by vocabulary size, at their best, and per joule."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.compared import speed_curve
from bench.analysis.comparison import Comparison, Entry
from bench.analysis.diff import FASTER, SAME, SLOWER, TOO_FEW, TOO_SHORT, UNCLEAR
from bench.analysis.diff_verdict import Outcome, row_name
from bench.analysis.run import Key, speedup
from bench.analysis.summary import held_out_tokens
from bench.report.drawing import INK, K_LABEL, PALETTE, log_k_axis
from bench.stats.estimates import Estimate
from bench.surface.predict import NEGLIGIBLE


def speedup_figure(comparison: Comparison) -> Figure:
    """Speed over plain decoding against k, a curve per device, with what was decoded."""
    figure, axes = panels(comparison, lambda _: 4.4)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        entries = comparison.of(case, domain)
        for entry in entries:
            style, curve = device_style(comparison, entry.device), speed_curve(entry)
            axis.plot(curve["vocab_size"], curve["predicted_speedup_vs_plain"], color=style["color"])
            ends = curve["ci_low"], curve["ci_high"]
            axis.fill_between(curve["vocab_size"], *ends, color=style["color"], alpha=0.12)
            _decoded(axis, entry, curve, style)
            best = curve[curve["vocab_size"] == entry.surface.best[0]]
            star = {"color": style["color"], "markeredgecolor": "black", "markersize": 14, "zorder": 6}
            axis.plot(best["vocab_size"], best["predicted_speedup_vs_plain"], "*", **star)
            axis.plot([], [], markersize=6, label=entry.device, **style)
        axis.plot([], [], "*", color="0.8", markeredgecolor="black", markersize=11, label="predicted fastest")
        axis.axhline(1, color=INK, linewidth=1, linestyle="--")
        size_axis(axis, max(entry.run.full_size for entry in entries))
        axis.set_xlabel(K_LABEL)
    axes[0].set_ylabel("speed over plain decoding (x)")
    return finish(figure, axes, "Speedup of every vocabulary size, at its fastest draft length")


def best_size_figure(comparison: Comparison, best: pd.DataFrame) -> Figure:
    """The fastest k of every device with its interval, and its confidence set."""
    figure, axes = panels(comparison, lambda num_devices: 1.9 + 0.55 * num_devices, sharey=True)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        rows = best[(best["case"] == case) & (best["domain"] == domain)].set_index("device")
        devices = comparison.devices_of(case)[::-1]
        for entry in comparison.of(case, domain):
            style, row = device_style(comparison, entry.device), rows.loc[entry.device]
            place = devices.index(entry.device)
            for low, high in confident_ranges(entry):
                axis.plot([low, high], [place, place], color=style["color"], linewidth=9, alpha=0.25)
            ends = [row["vocab_size_ci_low"], row["vocab_size_ci_high"]]
            axis.plot(ends, [place, place], color=style["color"], linewidth=2)
            axis.plot(row["vocab_size"], place, linestyle="", markersize=8, **style)
            text = f"k = {row['vocab_size']:,}, gamma = {row['draft_length']}"
            side = "right" if row["vocab_size"] > entry.run.full_size / 16 else "center"
            axis.annotate(text, (row["vocab_size"], place + 0.22), ha=side, fontsize="x-small")
        size_axis(axis, max(entry.run.full_size for entry in comparison.of(case, domain)))
        axis.set_yticks(range(len(devices)), devices, fontsize="small")
        axis.set_ylim(-0.5, len(devices) - 0.35)
        axis.set_xlabel(K_LABEL)
    return finish(figure, axes, "The fastest vocabulary size of every device", legend=False)


def throughput_figure(comparison: Comparison, best: pd.DataFrame) -> Figure:
    """Measured tokens per second of every device: plain, full vocabulary, optimum."""
    bars = (
        ("plain_tokens_per_s", "plain", 7),
        ("full_tokens_per_s", "full vocabulary", 0),
        ("tokens_per_s", "optimum", 1),
    )
    return _bar_figure(comparison, best, bars, "measured tokens/s", "Measured decoding speed")


def energy_figure(comparison: Comparison, best: pd.DataFrame) -> Figure | None:
    """Measured energy per token of every device; None where no run measured any."""
    if best["energy_j_per_token"].isna().all():
        return None
    bars = (("plain_energy_j_per_token", "plain", 7), ("energy_j_per_token", "optimum", 1))
    return _bar_figure(comparison, best, bars, "energy per token (J)", "Measured energy per decoded token")


def confident_ranges(entry: Entry) -> list[tuple[int, int]]:
    """Ranges of sizes that some draft length has in the confidence set."""
    surface = entry.surface
    inside = surface.is_confident.any(axis=0).astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]])))
    return [
        (int(surface.sizes[start]), int(surface.sizes[end - 1]))
        for start, end in zip(changes[::2], changes[1::2], strict=True)
    ]


def decoded_speedups(entry: Entry) -> Iterator[tuple[Key, Estimate]]:
    """(k, gamma) and measured speedup over plain decoding of every draft that was decoded."""
    for key in entry.run.decodes[entry.domain]:
        estimate = speedup(entry.run, entry.domain, key, (entry.run.full_size, 0)) if key[1] else None
        if estimate is not None:
            yield key, estimate


def _bar_figure(
    comparison: Comparison, best: pd.DataFrame, bars: Sequence[tuple[str, str, int]], label: str, title: str
) -> Figure:
    """Bars of every device, from the top; `bars` are column, name and place in the palette."""
    figure, axes = panels(comparison, lambda num_devices: 1.7 + 0.5 * num_devices, sharey=True)
    thickness = 0.8 / len(bars)
    for axis, (case, domain) in zip(axes, comparison.panels, strict=True):
        devices = comparison.devices_of(case)[::-1]
        rows = best[(best["case"] == case) & (best["domain"] == domain)].set_index("device").reindex(devices)
        places = np.arange(len(devices))
        for number, (column, name, color) in enumerate(bars):
            shift = (len(bars) / 2 - 0.5 - number) * thickness
            values = rows[column].astype(float)
            drawn = axis.barh(
                places + shift, values, thickness, color=sns.color_palette(PALETTE)[color], label=name
            )
            told = ["" if pd.isna(v) else f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in values]
            axis.bar_label(drawn, told, fontsize="x-small", padding=2)
        axis.set_yticks(places, devices, fontsize="small")
        axis.set_ylim(-0.6, len(devices) - 0.4)
        axis.margins(x=0.15)
        axis.set_xlabel(label)
        axis.grid(axis="y", visible=False)
    return finish(figure, axes, title)


def _decoded(axis: Axes, entry: Entry, curve: pd.DataFrame, style: dict[str, Any]) -> None:
    """What was decoded of the drafts, with intervals; hollow where the curve has another draft length."""
    for (size, gamma), estimate in decoded_speedups(entry):
        of_curve = curve.iloc[entry.surface.column(size)]["draft_length"] == gamma
        axis.errorbar(
            size,
            estimate.value,
            yerr=np.maximum([[estimate.value - estimate.ci_low], [estimate.ci_high - estimate.value]], 0),
            capsize=2,
            linestyle="",
            elinewidth=1,
            markersize=6,
            markerfacecolor=style["color"] if of_curve else "white",
            **style,
        )


# What each figure of a comparison shows, what n is, and what its intervals are.

CAPTIONS = {
    "speedup_by_size": (
        "Speed over plain decoding for every vocabulary size at its fastest draft length. Lines: predicted "
        "from replayed acceptance and probed latency; bands: 95% bootstrap interval of the prediction over n "
        "prompts, plain decoding taken as measured. Markers: drafts as decoded, with 95% bootstrap intervals "
        "over the same prompts as pairs; hollow where their draft length is not the line's."
    ),
    "best_size": (
        "The predicted fastest vocabulary size (marker), its 95% bootstrap interval over n prompts (line); "
        f"wide bands: sizes that some draft length has not significantly more than {NEGLIGIBLE:.0%} slower "
        "than the fastest (95%)."
    ),
    "acceptance_by_size": (
        "Tokens per target pass of every vocabulary size, replayed over n held-out answers: a line per "
        "device at its own fastest draft length, one for all that accept the same. Dotted: what the sizes "
        "cover of those answers. Counts, so without intervals."
    ),
    "draft_step_split": (
        "Median time of a chained draft step by vocabulary size on every device, split into draft layer, LM "
        "head and token selection, inside real rounds; over all domains of the device's runs."
    ),
    "throughput": (
        "Tokens per second as decoded, over the same n prompts on every device: plain decoding, the fastest "
        "draft with the full vocabulary, and the optimum that each run chose for itself. Intervals of the "
        "speedups, paired by prompt, are in the table best."
    ),
    "energy": "Energy per decoded token after the first, over the same n prompts on every device.",
    "step_latency": (
        "Median of a chained draft step (layer, LM head, selection) inside real rounds, against the memory "
        "bandwidth of the device; a colour per vocabulary size, a marker per device; bars: 95% bootstrap "
        "interval of the median over steps. Dotted: the bytes that the step moves over the bandwidth."
    ),
    "transfer": (
        "Mean absolute error, over the measured sizes, of a draft step's latency model on a device that it "
        "was not fitted on, after scaling by the ratio of the data sheets."
    ),
}


# What became slower or faster between two runs, as one figure.

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


def diff_figure(outcome: Outcome) -> Figure:
    """Time after over time before of everything that was judged, with intervals, by verdict."""
    rows = outcome.times[outcome.times["verdict"] != TOO_SHORT].iloc[::-1].reset_index(drop=True)
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
    bounds = 1 / (1 + outcome.threshold), 1 + outcome.threshold
    axis.axvspan(*bounds, color="0.5", alpha=0.15, zorder=0, label=f"threshold, {outcome.threshold:.1%}")
    axis.axvline(1, color=INK, linewidth=1)
    axis.set_yticks(range(len(rows)), [row_name(row) for _, row in rows.iterrows()], fontsize="small")
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
    title = (
        f"Time of {outcome.after} over that of {outcome.before}; bars: 95% bootstrap interval of the median "
        "over prompts, not corrected for the number of comparisons as the verdicts are"
    )
    figure.suptitle("\n".join(textwrap.wrap(title, _TITLE_CHARS)), fontsize="medium")
    figure.tight_layout()
    return figure


# What the figures of a comparison share: a panel per case and domain, and one look per device.

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


# What every device is asked: what sizes cover and bring, and where the time of a draft step goes.

_PARTS = (("layer", "draft layer"), ("lm_head", "LM head"), ("select", "token selection"))

_MOST_PLACES = 4

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
    columns = min(_MOST_PLACES, len(places))
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
