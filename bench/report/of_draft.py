"""The report of a draft that was measured alone, with its figures."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bench.analysis.findings import DraftFindings
from bench.analysis.latency_models import TITLES, ComponentFindings
from bench.analysis.run import COLD, DRAFT_STEP, LM_HEAD, WARM
from bench.report.drawing import (
    INK,
    K_LABEL,
    captioned,
    error_bars,
    log_k_axis,
    stack_bars,
    title_figure,
)
from bench.report.latency_figures import fit_captioned, roofline_figure
from bench.report.of_run import environment_section, model_tables, not_measured, telemetry_section
from bench.report.sections import Paragraph, Points, Section, Table, section

_STEPS = (
    "vocab_size", "layer_ms", "lm_head_ms", "select_ms", "draft_step_ms", "draft_step_warm_ms",
    "lm_head_share", "saving",
)  # fmt: skip

_STACK = (("layer_ms", "decoder layers"), ("lm_head_ms", "LM head"), ("select_ms", "token selection"))

_CACHES = ((COLD, "cold cache", "o-"), (WARM, "warm cache", "^:"))

_METHOD = (
    "The draft runs alone: no target, and so no acceptance, no speed and no choice of k by speed.",
    "One step is the token before it through all decoder layers, the LM head over k tokens, and the best "
    "token of that as an id of the target. Every call starts from the same context of random tokens. The "
    "parts are timed on their own, and the whole step as one.",
    "A trimmed head is a copy of the first k rows: what it costs depends on how many rows it has, not on "
    "which.",
    "Every size is timed in the same process, in seeded random blocks, until its median is known to "
    "timing.target_half_width or timing.budget_s is spent.",
    "Cold: the cache is emptied before every call, as the rest of a round does in real decoding. The models "
    "are fitted to the cold times. Warm: the same call again and again.",
    "Intervals are 95%: of medians exact bootstrap, of savings and coefficients percentile bootstrap.",
    "R(k) = 1 - latency(k) / latency(full vocabulary).",
)


def draft_report(found: DraftFindings) -> Section:
    """What a draft step costs by vocabulary size."""
    environment = found.run.environment
    components = found.latency_models.components
    verdicts = [
        Paragraph(f"{item.title}: {item.sentence}", is_brief=True, tone="strong") for item in components
    ]
    doubts = Points([doubt.text for doubt in found.doubts], is_brief=True, mark="Doubt:")
    parts = [
        section("answer", "The answer", *verdicts, Points(found.facts, is_brief=True)),
        section("doubts", "What makes these figures doubtful", doubts, label="Doubts"),
        not_measured(found.failures, is_brief=True),
        _latency(found),
        *(_models(item) for item in components),
        telemetry_section(found, "the whole run"),
        section("method", "Method", Points(_METHOD)),
        environment_section(found.run),
    ]
    title = f"What does a draft step cost? {environment['pair']} on {environment['device_name']}"
    return Section("report", title, [Paragraph(found.origin), *(part for part in parts if part)])


def _latency(found: DraftFindings) -> Section | None:
    caption = "A draft step by vocabulary size; 95% intervals of the median."
    return section(
        "latency",
        "What does a draft step cost here, and how far is that from the hardware's limit?",
        step_figure.picture(found),
        Table(caption, found.steps, _STEPS, is_brief=True),
        section(
            "latency-more",
            "More: cold and warm cache, and the roofline",
            cache_figure.picture(found),
            roofline_figure.picture(found.latency_models, "parts on their own"),
            is_folded=True,
        ),
        label="Draft step",
    )


def _models(item: ComponentFindings) -> Section | None:
    utility = "The k that each model would choose by the utility."
    return section(
        f"models-{item.name}",
        f"Latency models of the {item.title}",
        fit_captioned(item).picture(item, "parts on their own"),
        *model_tables(item, is_brief=True),
        _savings(item),
        Table(utility, item.utility, item.utility.columns.tolist()),
    )


def _savings(item: ComponentFindings) -> Table:
    columns = [name for name in item.savings.columns.tolist() if name not in ("ci_low", "ci_high")]
    return Table("Saving R(k), measured and by each model.", item.savings, columns, other="saving")


@captioned(
    "draft_latency",
    "Bars: parts on their own; marks: the whole step, with 95% intervals of its median.",
)
def step_figure(found: DraftFindings) -> Figure:
    """Median step by size: its parts stacked, and the whole measured as one."""
    figure, axis = plt.subplots(figsize=(9, 4.8))
    steps = found.steps
    stack_bars(axis, steps, _STACK)
    names, ends = [f"{k:,}" for k in steps["vocab_size"]], ("draft_step_ci_low_ms", "draft_step_ci_high_ms")
    style = {"fmt": "D", "color": INK, "markersize": 5, "label": "whole step"}
    error_bars(axis, names, steps, "draft_step_ms", ends, **style)
    axis.set_ylabel("median latency (ms)")
    axis.tick_params(axis="x", rotation=40, labelsize="small")
    axis.legend()
    return title_figure(figure, found.run.environment, "Where the time of a draft step goes")


@captioned(
    "isolated",
    "The cache emptied before every call (cold), and the same call repeated without a pause (warm). Bars: "
    "95% intervals of the median.",
)
def cache_figure(found: DraftFindings) -> Figure:
    """LM head and draft step with the cache cold and warm."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    for axis, part in zip(axes, (LM_HEAD, DRAFT_STEP), strict=True):
        times = found.caches[found.caches["part"] == part]
        for setting, label, style in _CACHES:
            rows = times[times["setting"] == setting]
            if len(rows):
                ends = ("ci_low_ms", "ci_high_ms")
                error_bars(axis, rows["vocab_size"], rows, "median_ms", ends, fmt=style, label=label)
        axis.set_xlabel(K_LABEL)
        axis.set_ylabel(f"median {TITLES[part]} (ms)")
        axis.set_ylim(bottom=0)
        log_k_axis(axis, times["vocab_size"])
    axes[0].legend(fontsize="small")
    return title_figure(figure, found.run.environment, "Cold and warm cache")
