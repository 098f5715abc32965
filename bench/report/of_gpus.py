"""The report of a pair on published GPUs, with its figures."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from bench.analysis.end_to_end import judged_rows, truth_summary
from bench.analysis.gpus import KERNELS, REFUSED_COLUMNS, WITH_HOST, GpusFindings
from bench.analysis.gpus_verdict import (
    batch_sentence,
    batch_table,
    doubts,
    error_summary,
    flops_losses,
    flops_sentence,
    headline,
    missing,
    usual,
    usual_savings,
    usual_schedules,
)
from bench.report.drawing import INK, K_LABEL, PALETTE, captioned, log_k_axis, outlined_sizes
from bench.report.sections import Paragraph, Points, Section, Table, section

_ANSWER = (
    "gpu", "engine_version", "dtype", "vocab_size", "draft_length", "speedup_vs_plain",
    "speedup_vs_full_vocab", "host_speedup_vs_full_vocab", "basis",
)  # fmt: skip

_BY_FLOPS = (
    "gpu", "engine", "dtype", "batch", "context", "host", "vocab_size", "flops_vocab_size", "flops_loss",
    "basis",
)  # fmt: skip

_SAVINGS = ("gpu", "engine", "version", "hidden_size", "rows", "by_flops", "tabulated", "fitted", "basis")

_CHOICES = (
    "gpu", "engine", "dtype", "batch", "context", "vocab_size", "draft_length", "speedup_vs_plain",
    "speedup_vs_full_vocab", "host_speedup_vs_full_vocab", "draft_step_ms", "full_draft_step_ms",
    "flops_vocab_size", "flops_loss", "basis",
)  # fmt: skip

_ERRORS = (
    "gpu", "engine", "version", "dtype", "row_error", "size_error", "beyond_error", "warm_share",
    "contradicting_share", "largest_rate_over_memory", "num_rows",
)  # fmt: skip

_TRUTH = (
    "model", "gpu", "engine", "dtype", "num_rows", "median_absolute_error", "worst_absolute_error",
    "median_absolute_error_fp8_keys", "num_decode_rows", "decode_median_absolute_error", "step_median_error",
    "between_share",
)  # fmt: skip

_METHOD = (
    "Latencies of matrix products and attention are looked up in tables that others published: exact where a "
    "row is there; else by a smooth surface over sizes and widths, fitted to all rows of a table; beyond "
    "65,536 rows of the LM head extrapolated. The basis of a figure is its least certain part.",
    "The LM head is always taken from the surface, as single rows scatter by some percent, which a choice "
    "between sizes must not follow.",
    "A round is gamma draft steps and one verification of gamma + 1 tokens per sequence; its first step "
    "takes in what the verification accepted. Layers in the dtype of the row; drafts, LM heads and keys in "
    "16 bits.",
    "fp8: tables include finding the scale of the inputs; published checkpoints have fixed scales, so what "
    "that step takes by the same source is subtracted.",
    "Intervals are 95%. They carry the acceptance where it has one (prompts or rounds drawn anew), and table "
    "errors: of heads what a left-out size is off by, of all other products what a left-out row is.",
    "The wheel's public collector times a product as several copies of its weights one after another in a "
    "CUDA graph, without emptying the cache: six copies with vLLM and SGLang, with TensorRT-LLM as many as "
    "fill the cache. Small weights are so warm; rows above the memory's rate are left out for it, and slower "
    "ones may still be partly warm.",
    "FLOPs: the k that would be chosen if a draft step took as much less as the paper's FLOPs say, judged by "
    "the tables. Trimming pays where the whole interval of the speed over the whole head is above 1%.",
)


_SCHEDULES = (
    "gpu", "engine", "dtype", "host", "vocab_size", "schedule", "largest_loss", "constant_draft_length",
    "constant_largest_loss",
)  # fmt: skip


def gpus_report(found: GpusFindings) -> Section:
    """Where trimming pays, by how much, and what that rests on."""
    parts = [
        _answer_section(found),
        section("doubts", "What makes these figures doubtful", Points(doubts(found), is_brief=True)),
        _batches_section(found),
        _flops_section(found),
        _tables_section(found),
        _check_section(found),
        section(
            "refused",
            "What could not be composed",
            Table("", _refused(found), REFUSED_COLUMNS),
            is_folded=True,
        ),
        section("terms", "What is assumed", Points(found.assumptions)),
        section("method", "Method", Points(_METHOD)),
    ]
    return Section("report", f"Which vocabulary on which GPU? {found.question.pair.name}", [
        Paragraph(_about(found)),
        *(part for part in parts if part),
    ])  # fmt: skip


def _answer_section(found: GpusFindings) -> Section | None:
    place = f"batch {found.question.batches[0]}, {found.question.contexts[0]:,} positions"
    first = usual(found)
    first = first.assign(engine_version=first["engine"] + " " + first["version"].astype(str))
    return section(
        "answer",
        "The answer",
        *(Paragraph(text, is_brief=True, tone="strong") for text in headline(found)),
        gain_figure.picture(found),
        Table(
            f"What to use on every GPU at {place}, with 95% intervals.",
            first,
            _ANSWER,
            legend=_legend(found),
            is_brief=True,
            brief_columns=("draft_step_ms", "flops_vocab_size", "engine"),
        ),
        speed_figure.picture(found),
    )


def _batches_section(found: GpusFindings) -> Section | None:
    by_batch = batch_table(found)
    return section(
        "batches",
        "From which batch on does trimming stop paying?",
        Paragraph(batch_sentence(found), is_brief=True),
        Table(
            "Smallest batch from which on trimming does not gain 1% for certain with some engine; "
            "kernels alone. Pays up to: larger batches do not fit into the memory, or were not asked.",
            by_batch,
            by_batch.columns.tolist(),
        ),
        Table(
            "How many tokens to draft at each batch, with the vocabulary that suits the smallest: first and "
            "last batch and gamma, as vLLM takes them. Largest loss: against the best gamma of each batch.",
            usual_schedules(found),
            _SCHEDULES,
        ),
        section(
            "all-choices",
            "Every engine, dtype, batch and context",
            Table("As above; all columns are in the CSV.", found.choices, _CHOICES),
            is_folded=True,
        ),
    )


def _flops_section(found: GpusFindings) -> Section | None:
    return section(
        "flops",
        "Would FLOPs have picked it?",
        Paragraph(flops_sentence(found), is_brief=True),
        Table("Where FLOPs lose most.", flops_losses(found), _BY_FLOPS),
        Table(
            "What an LM head of 2,048 rows saves of one with 65,536, by FLOPs and by the tables.",
            usual_savings(found),
            _SAVINGS,
        ),
        section(
            "savings-more",
            "More: every engine, and heads of 8,192 and 16,384 rows",
            Table("As above.", found.savings, _SAVINGS),
            is_folded=True,
        ),
    )


def _tables_section(found: GpusFindings) -> Section | None:
    by_model = _by_model(found.models)
    return section(
        "tables",
        "What are the tables worth?",
        head_figure.picture(found),
        Table(
            "Mean error where a row, a whole size, or all large sizes are left out, and doubtful rows.",
            error_summary(found),
            _ERRORS,
        ),
        Points(missing(found)),
        section(
            "tables-more",
            "More: every latency model, and engines against each other",
            Table(
                "Mean error of latency models on sizes left out, over the numbers of tokens.",
                by_model,
                by_model.columns.tolist(),
                other="row_error",
            ),
            Table(
                "How far two engines' rows of the same shape are apart; both call the vendor's library.",
                found.repeats,
                found.repeats.columns.tolist(),
            ),
            is_folded=True,
        ),
    )


def _check_section(found: GpusFindings) -> Section | None:
    return section(
        "check",
        "Does the composition hold?",
        truth_figure.picture(found),
        Table(
            "Composed against measured time per output token of whole models, as the source has them.",
            truth_summary(found.truth),
            _TRUTH,
            legend=(
                "Decode rows: prefill of others is at most a tenth of the time. Decode step alone: as if "
                "a server let no prefill come between. Keys in 8 bits: whether servers used them is not "
                "recorded."
            ),
        ),
        Table(
            "Published rounds of speculative decoding, and what they take beyond their kernels.",
            found.rounds,
            [
                "pair",
                "gpu",
                "engine",
                "vocab_size",
                "draft_length",
                "round_ms",
                "kernels_ms",
                "beyond_ms",
            ],
        ),
        Points([f"{name}: {host.origin}" for name, host in found.hosts.items()]),
    )


def _about(found: GpusFindings) -> str:
    return (
        f"Measured by others, composed here; no GPU was used. Tables: {'; '.join(found.origins)}. "
        f"{found.question.lengths.origin[:1].upper()}{found.question.lengths.origin[1:]}."
    )


def _legend(found: GpusFindings) -> str:
    host = " With host: the same with the host's work beyond kernels, as in the check below."
    return (
        "x plain: over plain decoding. x full: over the whole head at its own best draft length; both with "
        f"kernels alone.{host if WITH_HOST in found.hosts else ''}"
    )


def _by_model(models: pd.DataFrame) -> pd.DataFrame:
    if models.empty:
        return models
    table = models.pivot_table(index=["gpu", "hidden_size"], columns="model", values="error", sort=False)
    return table.astype(float).reset_index()


def _refused(found: GpusFindings) -> pd.DataFrame:
    return found.refused.drop_duplicates()


def _gpu_colors(names: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    return dict(zip(names, sns.color_palette("husl", len(names)), strict=True))


@captioned(
    "gpus_gain",
    "Speed over the whole head at the fastest size of each GPU, kernels alone, at the smallest context. "
    "Bars: 95% intervals of acceptance and table errors. Light marks: with the host's work of published "
    "rounds.",
)
def gain_figure(found: GpusFindings) -> Figure | None:
    """Gain of trimming by batch, a panel per GPU."""
    rows = found.choices[found.choices["context"] == found.question.contexts[0]]
    names = sorted(rows["gpu"].unique())
    if not names:
        return None
    figure, axes = _panels(len(names), share_y=True)
    colors = dict(zip(sorted(rows["engine"].unique()), sns.color_palette(PALETTE), strict=False))
    batches = list(found.question.batches)
    for axis, name in zip(axes, names, strict=True):
        of_gpu = rows[(rows["gpu"] == name) & (rows["dtype"] == found.question.dtypes[0])]
        for place, (engine, color) in enumerate(colors.items()):
            shift = 0.12 * (place - 1)
            for host, alpha in ((KERNELS, 1.0), (WITH_HOST, 0.35)):
                chosen = of_gpu[(of_gpu["engine"] == engine) & (of_gpu["host"] == host)]
                x = [batches.index(batch) + shift for batch in chosen["batch"]]
                value = chosen["speedup_vs_full_vocab"]
                ends = (chosen["speedup_vs_full_vocab_ci_low"], chosen["speedup_vs_full_vocab_ci_high"])
                spread = np.maximum([value - ends[0], ends[1] - value], 0)
                label = engine if host == KERNELS else None
                style: dict[str, Any] = {"fmt": "o-", "markersize": 4, "color": color, "alpha": alpha}
                axis.errorbar(x, value, yerr=spread, label=label, **style)
        axis.axhline(1, color=INK, linewidth=1, linestyle="--")
        axis.set_title(name, fontsize="small")
        axis.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        axis.set_xlim(-0.4, len(batches) - 0.6)
    _finish(figure, axes, "batch (sequences)", "speed over the whole head (x)")
    axes[0].legend(fontsize="x-small")
    return _title(figure, found, f"What trimming gains, {found.question.dtypes[0]}")


@captioned(
    "gpus_speed",
    "Speed over plain decoding of every vocabulary size at its best draft length, kernels alone, at the "
    "smallest batch and context; a line per GPU. Stars: the fastest.",
)
def speed_figure(found: GpusFindings) -> Figure | None:
    """Speed over plain decoding against k."""
    dtypes = [dtype for dtype in found.question.dtypes if (found.curves["dtype"] == dtype).any()]
    if not dtypes:
        return None
    engines = usual(found).set_index("gpu")["engine"].to_dict()
    figure, axes = plt.subplots(1, len(dtypes), figsize=(6.2 * len(dtypes), 4.6), squeeze=False, sharey=True)
    colors = _gpu_colors(sorted(found.curves["gpu"].unique()))
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        for name, color in colors.items():
            rows = found.curves[(found.curves["gpu"] == name) & (found.curves["dtype"] == dtype)]
            rows = rows[rows["engine"] == engines.get(name)]
            if rows.empty:
                continue
            axis.plot(rows["vocab_size"], rows["speedup_vs_plain"], color=color, label=name)
            best = rows.nlargest(1, "speedup_vs_plain")
            star: dict[str, Any] = {"color": color, "markersize": 11, "markeredgecolor": "black", "zorder": 5}
            axis.plot(best["vocab_size"], best["speedup_vs_plain"], "*", **star)
        log_k_axis(axis, outlined_sizes(int(found.question.lengths.sizes[-1])))
        axis.set_xlim(left=float(found.question.lengths.sizes[0]) * 0.9)
        axis.set_xlabel(K_LABEL)
        axis.set_title(dtype, fontsize="small")
    axes[0, 0].set_ylabel("speed over plain decoding (x)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, -1].legend(handles, labels, fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1))
    return _title(figure, found, "Every vocabulary size on every GPU")


@captioned(
    "gpus_heads",
    "Latency of an LM head of one token by its rows, in bfloat16. Marks: rows of the tables; line: the "
    "surface fitted to all widths, dotted beyond the table. Hollow: left out as faster than memory "
    "(triangles) or as contradicting their neighbours (crosses).",
)
def head_figure(found: GpusFindings) -> Figure | None:
    """Tabulated heads and the fitted surface, a panel per GPU."""
    names = sorted(found.heads["gpu"].unique())
    if not names:
        return None
    figure, axes = _panels(len(names), share_y=False)
    styles: dict[str, dict[str, Any]] = {
        "tabulated": {"marker": "o", "facecolors": "C0", "edgecolors": "C0"},
        "faster than memory": {"marker": "^", "facecolors": "none", "edgecolors": "C1"},
        "contradicts its neighbours": {"marker": "X", "facecolors": "none", "edgecolors": "C3"},
    }
    for axis, name in zip(axes, names, strict=True):
        rows = found.heads[found.heads["gpu"] == name]
        line = rows[rows["kind"] == "surface"].sort_values("rows")
        largest = rows.loc[rows["kind"] != "surface", "rows"].max()
        inside, beyond = line[line["rows"] <= largest], line[line["rows"] >= largest]
        axis.plot(inside["rows"], inside["latency_ms"], color=INK, linewidth=1)
        axis.plot(beyond["rows"], beyond["latency_ms"], color=INK, linewidth=1, linestyle=":")
        for kind, style in styles.items():
            chosen = rows[rows["kind"] == kind]
            axis.scatter(chosen["rows"], chosen["latency_ms"], s=16, zorder=4, label=kind, **style)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(name, fontsize="small")
    _finish(figure, axes, "rows of the head", "latency (ms)")
    axes[0].legend(fontsize="x-small")
    hidden = int(found.heads["hidden_size"].iloc[0])
    return _title(figure, found, f"LM heads at hidden size {hidden:,}, as tabulated and as fitted")


@captioned(
    "gpus_check",
    "Time per output token of whole models, composed against measured; a mark per row that is judged, with "
    "all prefill of others; its line reaches down to the decode step alone. Dashed: equal; grey band: within "
    "10%.",
)
def truth_figure(found: GpusFindings) -> Figure | None:
    """Composed against measured."""
    rows = judged_rows(found.truth)
    if rows.empty:
        return None
    figure, axis = plt.subplots(figsize=(7, 5.2))
    groups = rows.groupby(["model", "gpu", "engine", "dtype"], sort=True)
    markers = "osD^vP*X<>"
    for (place, chosen), color, marker in zip(
        groups, sns.color_palette("husl", groups.ngroups), markers * 3, strict=False
    ):
        x, y = chosen["measured_ms"].astype(float), chosen["composed_ms"].astype(float)
        axis.vlines(x, chosen["step_ms"].astype(float), y, color=color, linewidth=1, alpha=0.5)
        axis.scatter(x, y, s=22, color=color, marker=marker, label=", ".join(map(str, place)), alpha=0.8)
    ends = np.array([rows["measured_ms"].min() * 0.9, rows["measured_ms"].max() * 1.1], dtype=float)
    axis.plot(ends, ends, color=INK, linewidth=1, linestyle="--")
    axis.fill_between(ends, ends * 0.9, ends * 1.1, color="0.5", alpha=0.2, linewidth=0)
    for axes, scale in ((axis.xaxis, axis.set_xscale), (axis.yaxis, axis.set_yscale)):
        scale("log")
        axes.set_major_locator(FixedLocator([5, 10, 20, 40, 80]))
        axes.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_minor_formatter(NullFormatter())
    axis.set_xlabel("measured time per output token (ms)")
    axis.set_ylabel("composed (ms)")
    axis.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.suptitle("Whole models: composed against measured", fontsize="medium")
    figure.tight_layout()
    return figure


def _panels(count: int, *, share_y: bool) -> tuple[Figure, list[Axes]]:
    columns = min(count, 5)
    lines = -(-count // columns)
    size = (2.9 * columns + 0.6, 2.6 * lines + 0.7)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=share_y)
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def _finish(figure: Figure, axes: Sequence[Axes], x_label: str, y_label: str) -> None:
    for axis in axes:
        axis.tick_params(labelsize="x-small")
    figure.supxlabel(x_label, fontsize="small")
    figure.supylabel(y_label, fontsize="small")


def _title(figure: Figure, found: GpusFindings, text: str) -> Figure:
    figure.suptitle(f"{text}\n{found.question.pair.name}; published by others", fontsize="medium")
    figure.tight_layout()
    return figure
