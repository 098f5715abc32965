"""The report of a draft that was measured alone: tables, figures, `fit.json`, page and console."""

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.analysis.doubts import doubts, write_doubts
from bench.analysis.fit import (
    choices_told,
    fit_table,
    judge_draft,
    reduction_table,
    utility_choices,
    write_fit,
)
from bench.analysis.hardware import draft_shape_of
from bench.analysis.latency import latency_frame
from bench.analysis.run import COLD, EAGER, WARM, DraftRun, read_draft_run, step_frame
from bench.errors import OutputError
from bench.fit.judge import JudgedComponent, Judgement, sentence
from bench.fit.series import DRAFT_STEP, DTYPE_BYTES, LM_HEAD
from bench.records import FailureRecord
from bench.report.drawing import INK, K_LABEL, PALETTE, Drawing, Drawings, draw, log_k_axis, title_figure
from bench.report.latency_figures import fit_figure, roofline_figure
from bench.report.telemetry_figure import telemetry_figure
from bench.report.text import show_failures, show_fit
from bench.stats.estimates import median

_CONSOLE_COLUMNS = (
    ("vocab_size", "k", ",d"),
    ("layer_ms", "layers ms", ".2f"),
    ("lm_head_ms", "head ms", ".3f"),
    ("select_ms", "select ms", ".3f"),
    ("draft_step_ms", "step ms", ".2f"),
    ("draft_step_warm_ms", "step, warm", ".2f"),
    ("lm_head_share", "head share", ".0%"),
    ("saving", "saving R", ".1%"),
)

_CAPTIONS = {
    "draft_latency": "A draft step by vocabulary size: its parts on their own, and the whole as one.",
    "isolated": "The same work with the cache emptied before every call, and repeated without a pause.",
    "roofline": "Work per byte against work per second, under the device's limits. Numbers are k.",
    "telemetry": "What was sampled beside the run.",
    "fit_lm_head": "Latency models of the LM head, and what they say a smaller vocabulary saves.",
    "fit_draft_step": "Latency models of a draft step, and what they say a smaller vocabulary saves.",
}

_METHOD = """\
- The draft runs alone: no target, and so no acceptance, no speed and no choice of k by speed.
- One step is the token before it through all decoder layers, the LM head over k tokens, and the best token
  of that as an id of the target. Every call starts from the same context of random tokens. The parts are
  timed on their own, and the whole step as one.
- A trimmed head is a copy of the first k rows: what it costs depends on how many rows it has, not on which.
- Every size is timed in the same process, in seeded random blocks, until its median is known to
  `timing.target_half_width` or `timing.budget_s` is spent.
- Cold: the cache is emptied before every call, as the rest of a round does in real decoding. The models are
  fitted to the cold times. Warm: the same call again and again.
- Intervals are 95%: of medians exact bootstrap, of savings and coefficients percentile bootstrap.
- R(k) = 1 - latency(k) / latency(full vocabulary).
"""


def render_draft(folder: Path, console: Console) -> Path:
    """Writes `latency.csv`, `fit.json`, `figures/` and `report.md` into the run's folder.

    Returns:
        The page.

    Raises:
        OutputError: the folder is not a run of `task=draft`, or cannot be written.
        FitError: the run cannot be judged.
    """
    draft, page = read_draft_run(folder), folder / "report.md"
    steps, judgement = step_frame(draft), judge_draft(draft)
    try:
        latency_frame(draft.run).to_csv(folder / "latency.csv", index=False)
        write_fit(judgement, folder)
        figures = draw(draft_drawings(draft, steps, judgement), folder / "figures")
        write_doubts(draft.run, folder)
        page.write_text(_page(draft, steps, judgement, figures), "utf-8")
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; its records are kept") from error
    _show(draft, steps, judgement, console)
    console.print("Report:", page, soft_wrap=True, highlight=False)
    return page


def facts(draft: DraftRun, steps: pd.DataFrame, judgement: Judgement) -> list[str]:
    """What the measured times say, in sentences."""
    environment = draft.run.environment
    smallest, full = steps.iloc[0], steps.iloc[-1]
    found = [
        f"With all {full['vocab_size']:,.0f} tokens a draft step takes {full['draft_step_ms']:.3g} ms, "
        f"{full['lm_head_share']:.0%} of it in the LM head; with {smallest['vocab_size']:,.0f} it takes "
        f"{smallest['draft_step_ms']:.3g} ms, {smallest['saving']:.0%} less."
    ]
    parts = steps[["layer_ms", "lm_head_ms", "select_ms"]].sum(axis=1)
    gap = float((parts / steps["draft_step_ms"] - 1).median())
    found.append(
        f"The parts on their own add up to {1 + gap:.1%} of the whole step (median over sizes); layers "
        f"through the {environment['draft_runner']} runner."
    )
    if environment.get("has_tied_head"):
        found.append(_copies(draft))
    found += choices_told(judgement)
    if draft.execution != EAGER:
        found.append(f"Every part was executed as {draft.execution}, not eagerly.")
    if draft.setting != COLD:
        found.append("The device does not say how large its cache is: all times are with a warm cache.")
    return found


def _copies(draft: DraftRun) -> str:
    """With tied embeddings a trimmed head needs memory beside the embedding, which stays whole."""
    shape = draft_shape_of(draft.run)
    assert shape is not None
    row_bytes = shape.hidden_size * DTYPE_BYTES[draft.run.environment["dtype"]]
    return (
        f"Head and embedding are tied, so that a trimmed head is a copy beside the whole embedding of "
        f"{shape.vocab_size * row_bytes / 1e6:,.0f} MB: {1000 * row_bytes / 1e6:.2g} MB more for every "
        "thousand tokens that it keeps."
    )


def _page(draft: DraftRun, steps: pd.DataFrame, judgement: Judgement, figures: list[Path]) -> str:
    run, environment = draft.run, draft.run.environment
    lines = [f"# What does a draft step cost? {environment['pair']} on {environment['device_name']}", ""]
    lines += [f"- **{name}: {sentence(judgement, name)}**" for name in judgement.components]
    lines += [f"- {fact}" for fact in facts(draft, steps, judgement)]
    lines += [
        "",
        f"{environment['dtype']}; {run.config['draft']['context_length']} positions held; torch "
        f"{environment['packages']['torch']}, transformers {environment['packages']['transformers']}; "
        f"started {environment['started_at']}.",
    ]
    if run.num_sessions > 1:
        lines += ["", f"Measured in {run.num_sessions} sessions: the run was cut off and gone on with."]
    if found := doubts(run):
        lines += ["", "## Doubts", "", *[f"- {doubt.what}: {doubt.remedy}." for doubt in found]]
    if run.failures:
        lines += ["", "## Not measured", "", *[f"- {_told(failure)}" for failure in run.failures]]
    for figure in figures:
        caption = _CAPTIONS[figure.stem]
        lines += ["", f"![{caption}]({figure.parent.name}/{figure.name})", "", caption]
    lines += ["", "## Latency", "", _step_table(steps).to_markdown(index=False, disable_numparse=True)]
    for name in judgement.components:
        lines += _models(judgement, name)
    lines += ["", "## Reading it", "", _METHOD]
    return "\n".join(lines)


def _models(judgement: Judgement, name: str) -> list[str]:
    judged = judgement.components[name]
    unused = ["aicc", "chosen_k", "regret_tokens_per_s"]
    choices = utility_choices(judged)
    lines = ["", f"## Latency models: {name}", "", sentence(judgement, name), ""]
    lines += [fit_table(judged).drop(columns=unused).to_markdown(index=False, floatfmt=".3g", missingval="")]
    lines += ["", "Saving R(k), measured and predicted:", ""]
    lines += [_saving_table(judged).to_markdown(index=False, disable_numparse=True)]
    if choices.empty:
        return lines
    lines += ["", "k that each would choose by the utility of arXiv 2603.05210, with the coverage given:", ""]
    return [*lines, choices.to_markdown(index=False, floatfmt=".3g", intfmt=",")]


def _step_table(steps: pd.DataFrame) -> pd.DataFrame:
    table = {
        heading: [_cell(value, form) for value in steps[name]] for name, heading, form in _CONSOLE_COLUMNS
    }
    ends = zip(steps["draft_step_ci_low_ms"], steps["draft_step_ci_high_ms"], strict=True)
    table["step ms"] = [
        f"{value} [{low:.2f}, {high:.2f}]" for value, (low, high) in zip(table["step ms"], ends, strict=True)
    ]
    return pd.DataFrame(table)


def _saving_table(judged: JudgedComponent) -> pd.DataFrame:
    found = reduction_table(judged)
    ends = zip(found["measured"], found["ci_low"], found["ci_high"], strict=True)
    table = {
        "k": [f"{k:,}" for k in found["vocab_size"]],
        "measured": [f"{value:.1%} [{low:.1%}, {high:.1%}]" for value, low, high in ends],
    }
    return pd.DataFrame(table | {label: [f"{r:.1%}" for r in found[label]] for label in found.columns[4:]})


def _told(failure: FailureRecord) -> str:
    case = " ".join(str(part) for part in failure.case if part is not None)
    return f"{case}: {failure.error}: {failure.message}"


def _show(draft: DraftRun, steps: pd.DataFrame, judgement: Judgement, console: Console) -> None:
    environment = draft.run.environment
    title = f"draft step: {environment['pair']}, {environment['dtype']}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for _, heading, _ in _CONSOLE_COLUMNS:
        table.add_column(heading, justify="right")
    for _, row in steps.iterrows():
        table.add_row(*(_cell(row[name], form) for name, _, form in _CONSOLE_COLUMNS))
    console.print(table)
    console.print(f"Device: {environment['device_name']}\n", highlight=False)
    show_fit(judgement, console)
    for fact in facts(draft, steps, judgement):
        console.print(escape(fact), highlight=False)
    for doubt in doubts(draft.run):
        console.print(
            f"[yellow]Doubt[/yellow]: {escape(doubt.what)}. {escape(doubt.remedy)}.", highlight=False
        )
    if draft.run.failures:
        show_failures(draft.run.failures, console)


def _cell(value: float | None, form: str) -> str:
    if value is None or pd.isna(value):
        return ""
    return format(int(value) if form.endswith("d") else value, form)


# Figures of a draft that was measured alone: what a step costs by size, and what smaller sizes save.

_STACK = (("layer_ms", "decoder layers"), ("lm_head_ms", "LM head"), ("select_ms", "token selection"))

_WHAT = {LM_HEAD: "LM head", DRAFT_STEP: "draft step"}

_CACHES = ((COLD, "cold cache", "o-"), (WARM, "warm cache", "^:"))


def draft_drawings(draft: DraftRun, steps: pd.DataFrame, judgement: Judgement) -> Drawings:
    """Every figure of a draft that was measured alone, by name, to be drawn."""
    drawings: dict[str, Drawing] = {
        "draft_latency": lambda: step_figure(draft, steps),
        "isolated": lambda: cache_figure(draft),
        "roofline": lambda: roofline_figure(judgement),
        "telemetry": lambda: telemetry_figure(draft.run),
    }
    for name in judgement.components:
        drawings[f"fit_{name}"] = partial(fit_figure, judgement, name)
    return drawings


def step_figure(draft: DraftRun, steps: pd.DataFrame) -> Figure:
    """Median step by size: its parts stacked, and the whole measured as one."""
    figure, axis = plt.subplots(figsize=(9, 4.8))
    names = [f"{k:,}" for k in steps["vocab_size"]]
    base = np.zeros(len(steps))
    for color, (column, label) in zip(sns.color_palette(PALETTE), _STACK, strict=False):
        heights = steps[column].to_numpy(dtype=float)
        axis.bar(names, heights, bottom=base, color=color, label=label)
        base += np.nan_to_num(heights)
    value = steps["draft_step_ms"]
    spread = [value - steps["draft_step_ci_low_ms"], steps["draft_step_ci_high_ms"] - value]
    axis.errorbar(names, value, yerr=spread, fmt="D", color=INK, markersize=5, capsize=3, label="whole step")
    axis.set_xlabel(K_LABEL)
    axis.set_ylabel("median latency (ms)")
    axis.tick_params(axis="x", rotation=40, labelsize="small")
    axis.legend()
    text = "Where a draft step's time goes: parts and the whole step; bars: 95% interval of the median"
    return title_figure(figure, draft.run.environment, text)


def cache_figure(draft: DraftRun) -> Figure:
    """LM head and draft step with the cache cold and warm."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    for axis, part in zip(axes, (LM_HEAD, DRAFT_STEP), strict=True):
        for setting, label, style in _CACHES:
            times = draft.times(part, setting)
            if not times:
                continue
            found = [median(np.array(samples)) for samples in times.values()]
            value = np.array([estimate.value for estimate in found])
            spread = [value - [e.ci_low for e in found], [e.ci_high for e in found] - value]
            axis.errorbar(list(times), value, yerr=spread, fmt=style, capsize=3, label=label)
        axis.set_xlabel(K_LABEL)
        axis.set_ylabel(f"median {_WHAT[part]} (ms)")
        axis.set_ylim(bottom=0)
        log_k_axis(axis, draft.times(part))
    axes[0].legend(fontsize="small")
    text = "Cold and warm cache; bars: 95% interval of the median"
    return title_figure(figure, draft.run.environment, text)
