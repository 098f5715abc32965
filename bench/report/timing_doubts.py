"""Doubts about how a run timed: its clock, and its parts timed on their own."""

import numpy as np

from bench.measure.stats import median
from bench.records import IsolatedRecord
from bench.report.doubt import Doubt
from bench.report.frames import Run
from bench.report.latency import step_samples

_MOST_HALF_WIDTH = 0.05  # of the median of a part timed on its own
_MOST_MARKS = 0.05  # cost of the marks of a draft step, over the step
_MARKS_PER_STEP = 3  # layer, LM head and selection
_MOST_RESOLUTION = 0.1  # of the clock over the shortest LM head; many laps average a finer one out
_MOST_TREND = 0.1  # change of a part from the first half of its samples to the second
_MOST_LAUNCH_RATIO = 1.5  # of a part launched kernel by kernel over the same as a CUDA graph


def timing_doubts(run: Run) -> list[Doubt]:
    """Everything that is doubtful about how a run timed."""
    return [doubt for doubt in (_imprecise(run), _unsettled(run), _timer(run), _launches(run)) if doubt]


def _imprecise(run: Run) -> Doubt | None:
    wide = [record for record in run.isolated if record.relative_half_width > _MOST_HALF_WIDTH]
    if not wide:
        return None
    worst = max(wide, key=lambda record: record.relative_half_width)
    size = worst.vocab_size or worst.num_tokens
    return Doubt(
        "imprecise",
        f"{len(wide)} of {len(run.isolated)} parts timed on their own are known to no better than "
        f"{_MOST_HALF_WIDTH:.0%}, the worst ({worst.part}{f' at {size:,}' if size else ''}) to "
        f"{worst.relative_half_width:.0%}",
        "raise timing.budget_s",
    )


def _unsettled(run: Run) -> Doubt | None:
    """Times that had not settled when sampling began, and went on changing."""
    # A slow part ends its warm-up before it was called often enough to tell; its samples then tell.
    found = [r for r in run.isolated if r.warmup_stable is False and _has_trend(r.device_ms)]
    if not found:
        return None
    names = ", ".join(sorted({record.part for record in found}))
    return Doubt(
        "unsettled",
        f"{len(found)} of {len(run.isolated)} parts timed on their own ({names}) had not settled when their "
        f"warm-up ended, and changed by more than {_MOST_TREND:.0%} while they were timed",
        "raise timing.max_warmup_s",
    )


def _has_trend(samples_ms: list[float]) -> bool:
    """Whether the medians of either half are apart, by much and beyond their intervals."""
    half = len(samples_ms) // 2
    if half < 3:
        return False
    before, after = median(np.array(samples_ms[:half])), median(np.array(samples_ms[half:]))
    are_apart = before.ci_low > after.ci_high or after.ci_low > before.ci_high
    return are_apart and abs(after.value / before.value - 1) > _MOST_TREND


def _launches(run: Run) -> Doubt | None:
    """Parts of a draft step that take longer to launch than to compute, so that a smaller head gains less."""
    worst: tuple[float, int, str, float, float] | None = None
    for size in sorted({r.vocab_size for r in run.isolated if r.vocab_size is not None}):
        for name, parts in (("LM head", ("lm_head",)), ("draft step", ("layer", "lm_head", "select"))):
            eager, graph = (_sums(run.isolated, parts, size, how) for how in ("eager", "graph"))
            if eager is None or graph is None:
                continue
            # Behind a queue or from an idle device: launches may hide in the one, and show in the other.
            ratio, eager_ms, graph_ms = max((e / g, e, g) for e, g in zip(eager, graph, strict=True))
            if worst is None or ratio > worst[0]:
                worst = ratio, size, name, eager_ms, graph_ms
    if worst is None or worst[0] <= _MOST_LAUNCH_RATIO:
        return None
    _, size, name, eager_ms, graph_ms = worst
    return Doubt(
        "launch_bound",
        f"rounds here are bound by launches: the {name} of k = {size:,} takes {eager_ms:.3g} ms launched "
        f"kernel by kernel, and {graph_ms:.3g} ms as a CUDA graph",
        "an engine with CUDA graphs gains more from a smaller head than is measured here: see latency.csv",
    )


def _sums(
    records: list[IsolatedRecord], parts: tuple[str, ...], size: int, execution: str
) -> tuple[float, float] | None:
    """Device and wall time of these parts together; None where one lacks."""
    # Rounds find the cache cold, as far as it can be told.
    cache = "cold" if any(record.cache == "cold" for record in records) else "warm"
    found = [
        record
        for record in records
        if (record.cache, record.execution) == (cache, execution)
        and record.part in parts
        and record.vocab_size in (None, size)
    ]
    if len(found) < len(parts):
        return None
    device_ms = sum(float(np.median(record.device_ms)) for record in found)
    return device_ms, sum(float(np.median(record.wall_ms)) for record in found)


def _timer(run: Run) -> Doubt | None:
    """The clock against the shortest draft steps; a part that is merely short is no reason to doubt it."""
    timer = run.environment.get("timer")
    steps, heads = [], []
    for probe in (probe for probes in run.probes.values() for probe in probes):
        samples = step_samples(probe.laps_ms, probe.draft_length)
        steps += samples["draft_step"]
        heads += samples.get("lm_head", [])
    if not timer or not heads:
        return None
    head_ms, tick_ms = float(np.quantile(heads, 0.05)), timer["resolution_ms"]
    if tick_ms is None or tick_ms > _MOST_RESOLUTION * head_ms:
        told = "stands still between marks" if tick_ms is None else f"has steps of {tick_ms * 1e3:.2g} us"
        what = f"the clock {told}, and the shortest LM head takes {head_ms * 1e3:.3g} us"
        return Doubt("coarse_timer", what, "update the driver; until then rely on whole decodes alone")
    # At draft length 1 no step is chained, and one mark ends the head.
    num_marks = _MARKS_PER_STEP if steps else 1
    shortest_ms = float(np.quantile(steps, 0.05)) if steps else head_ms
    marks_ms = num_marks * timer["mark_ms"]
    # Of the host's pace nothing follows for laps of a busy device.
    if not timer.get("is_device_pace", True) or marks_ms <= _MOST_MARKS * shortest_ms:
        return None
    return Doubt(
        "coarse_timer",
        f"the marks of a draft step cost {marks_ms * 1e3:.2g} us, more than {_MOST_MARKS:.0%} of the "
        f"shortest ({shortest_ms * 1e3:.3g} us)",
        "read the shortest parts as upper bounds",
    )
