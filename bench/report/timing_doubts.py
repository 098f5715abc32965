"""Doubts about how a run timed: its clock, and its parts timed on their own."""

import numpy as np

from bench.report.doubt import Doubt
from bench.report.frames import Run
from bench.report.latency import step_samples

_MOST_HALF_WIDTH = 0.05  # of the median of a part timed on its own
_MOST_MARKS = 0.05  # cost of the marks of a draft step, over the step
_MARKS_PER_STEP = 3  # layer, LM head and selection
_MOST_RESOLUTION = 0.1  # of the clock over the shortest LM head; many laps average a finer one out


def timing_doubts(run: Run) -> list[Doubt]:
    """Everything that is doubtful about how a run timed."""
    return [doubt for doubt in (_imprecise(run), _timer(run)) if doubt]


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
