"""A run of `task=draft` read back: a draft's step alone, by vocabulary size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.errors import OutputError
from bench.fit.series import DRAFT_STEP, LM_HEAD
from bench.measure.stats import median
from bench.records import CoverageRecord, FailureRecord, IsolatedRecord, SessionRecord, read_records
from bench.report.coverage_table import CoverageTable
from bench.report.frames import Run, read_settings
from bench.report.latency import COLD, EAGER, WARM

LAYER, SELECT = "layer", "select"
STEP_COLUMNS = [
    "vocab_size", "layer_ms", "lm_head_ms", "select_ms", "draft_step_ms", "draft_step_ci_low_ms",
    "draft_step_ci_high_ms", "draft_step_warm_ms", "lm_head_share", "saving",
]  # fmt: skip


@dataclass(frozen=True)
class DraftRun:
    """What was measured.

    Attributes:
        run: the run, with latencies and nothing that needs a target.
        setting: of the times that count: cold, as the rest of a step leaves the cache; warm where the device
            does not say how large its cache is.
        execution: of the times that count: eager, as decoding loops are, where parts were timed so.
        coverage: what share of tokens k tokens cover; None where the user gave no curve.
    """

    run: Run
    setting: str
    execution: str
    coverage: CoverageTable | None

    def times(self, part: str, setting: str | None = None) -> dict[int, list[float]]:
        """Samples in ms of a part by k, ascending; in the setting that counts, unless another is named."""
        found = {r.vocab_size: r.device_ms for r in self._records(part, setting) if r.vocab_size}
        return dict(sorted(found.items()))

    def layer_times(self, setting: str | None = None) -> list[float]:
        """Samples in ms of the decoder layers; empty where they were not timed."""
        return next((record.device_ms for record in self._records(LAYER, setting)), [])

    def _records(self, part: str, setting: str | None) -> list[IsolatedRecord]:
        wanted = (part, setting or self.setting, self.execution)
        return [r for r in self.run.isolated if (r.part, f"isolated_{r.cache}", r.execution) == wanted]


def read_draft_run(folder: Path) -> DraftRun:
    """Reads the folder of a run of `task=draft`.

    Raises:
        OutputError: it is not one, or nothing in it was timed yet.
    """
    environment, config = read_settings(folder)
    isolated: list[IsolatedRecord] = []
    failures: list[FailureRecord] = []
    coverage, num_sessions = None, 0
    for record in read_records(folder):
        if isinstance(record, IsolatedRecord):
            isolated.append(record)
        elif isinstance(record, CoverageRecord):
            coverage = CoverageTable(np.array(record.sizes), np.array(record.coverage))
        elif isinstance(record, SessionRecord):
            # A session tries again what failed in the one before.
            failures, num_sessions = [], num_sessions + 1
        elif isinstance(record, FailureRecord):
            failures.append(record)
    is_cold = any(record.cache == "cold" for record in isolated)
    if not any(record.part == DRAFT_STEP for record in isolated):
        reasons = "; ".join(f"{failure.error}: {failure.message}" for failure in failures[:1])
        raise OutputError(f"{folder}: no draft step was timed{f' ({reasons})' if reasons else ' yet'}")
    run = Run(folder, environment, config, {}, {}, {}, {}, {}, isolated, [], {}, failures, num_sessions)
    execution = EAGER if any(r.execution == EAGER for r in isolated) else isolated[0].execution
    return DraftRun(run, COLD if is_cold else WARM, execution, coverage)


def step_frame(draft: DraftRun) -> pd.DataFrame:
    """Medians of a step and its parts, one row per size; empty where something was not timed."""
    heads, selects, steps = (draft.times(part) for part in (LM_HEAD, SELECT, DRAFT_STEP))
    warm = draft.times(DRAFT_STEP, WARM)
    layer = _median(draft.layer_times())
    full_ms = _median(steps.get(draft.run.full_size, []))
    rows = []
    for size, samples in steps.items():
        step, head_ms = median(np.array(samples)), _median(heads.get(size, []))
        rows.append(
            (
                size,
                layer,
                head_ms,
                _median(selects.get(size, [])),
                *vars(step).values(),
                _median(warm.get(size, [])),
                None if head_ms is None else head_ms / step.value,
                None if full_ms is None else 1 - step.value / full_ms,
            )
        )
    return pd.DataFrame(rows, columns=STEP_COLUMNS)


def _median(samples: list[float]) -> float | None:
    return float(np.median(samples)) if samples else None
