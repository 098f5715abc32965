"""The latency models of a draft that was measured alone: series from its own times, no speed to choose by."""

import numpy as np
import pandas as pd

from bench.errors import OutputError
from bench.fit.choice import UtilityGoal
from bench.fit.errors import FitError
from bench.fit.judge import JudgedComponent, Judgement, judge
from bench.fit.series import DRAFT_STEP, DTYPE_BYTES, LM_HEAD, LatencySeries, draft_work
from bench.report.draft_frames import DraftRun
from bench.report.hardware import draft_shape_of, hardware_of

WHY_NO_SPEED = (
    "a draft alone has no acceptance, without which no k is the fastest; measure the pair with task=bench"
)
WHY_NO_UTILITY = (
    "no coverage is known, without which the utility of arXiv 2603.05210 chooses none; give draft.coverage"
)
# Goals look at so many sizes between the measured ones.
_NUM_CANDIDATES = 400


def judge_draft(draft: DraftRun) -> Judgement:
    """Every latency model of LM head and draft step.

    Raises:
        FitError: the run does not say the shape of its draft.
    """
    run = draft.run
    spec, dtype = hardware_of(run), str(run.environment["dtype"])
    components = {}
    for series in _series(draft):
        goal = _utility(draft, series)
        judged = judge(series, spec, dtype, None, run.num_resamples, run.seed, goal)
        components[series.component] = judged
    device_name = str(run.environment["device_name"])
    return Judgement(device_name, dtype, spec, components, draft.setting, WHY_NO_SPEED)


def reduction_table(judged: JudgedComponent) -> pd.DataFrame:
    """R(k) of every size: measured with its interval, and what each model predicts; shares of 1."""
    columns = {
        "vocab_size": judged.series.work.sizes,
        "measured": [estimate.value for estimate in judged.reductions],
        "ci_low": [estimate.ci_low for estimate in judged.reductions],
        "ci_high": [estimate.ci_high for estimate in judged.reductions],
    }
    for model in judged.models:
        if not model.fitted.model.is_yardstick:
            columns[model.fitted.model.label] = model.reduction
    return pd.DataFrame(columns)


def utility_choices(judged: JudgedComponent) -> pd.DataFrame:
    """The k that each model would choose by the utility, and what that loses; empty without a coverage."""
    rows = [
        (model.fitted.model.label, decision.vocab_size, decision.best_vocab_size, decision.regret)
        for model in judged.models
        if (decision := model.by_utility) is not None
    ]
    return pd.DataFrame(rows, columns=["model", "chosen_k", "best_k", "regret_utility"])


def choices_told(judgement: Judgement) -> list[str]:
    """Which k is chosen, or why none is, in sentences."""
    told = [f"No k is chosen for speed: {judgement.why_no_speed}."]
    judged = judgement.components[DRAFT_STEP]
    best = judged.model(judged.best)
    decision = best.by_utility if best else None
    if best is None or decision is None:
        return [*told, f"No k is chosen by utility: {WHY_NO_UTILITY}."]
    text = (
        f"By the utility of arXiv 2603.05210 with the coverage given, the measured draft step chooses "
        f"k = {decision.best_vocab_size:,}"
    )
    return [*told, f"{text}, {best.fitted.model.label} chooses {decision.vocab_size:,}."]


def _series(draft: DraftRun) -> list[LatencySeries]:
    run = draft.run
    shape = draft_shape_of(run)
    if shape is None:
        raise FitError(f"{run.folder} does not say the shape of its draft; measure it again")
    context = int(run.config["draft"]["context_length"])
    width, found = DTYPE_BYTES[str(run.environment["dtype"])], []
    for component in (LM_HEAD, DRAFT_STEP):
        times = draft.times(component)
        if not times:
            raise OutputError(f"{run.folder}: {component} was not timed; the same task=draft goes on with it")
        work = draft_work(shape, component, np.array(list(times)), context, dtype_bytes=width)
        found.append(LatencySeries(component, work, [np.array(samples) for samples in times.values()]))
    return found


def _utility(draft: DraftRun, series: LatencySeries) -> UtilityGoal | None:
    """The paper's utility where a coverage is known."""
    if draft.coverage is None:
        return None
    sizes = series.work.sizes
    spread = np.geomspace(sizes[0], sizes[-1], _NUM_CANDIDATES).round().astype(np.int64)
    candidates = np.unique(np.concatenate([sizes, spread.clip(sizes[0], sizes[-1])]))
    weight = float(draft.run.config["select"]["coverage_weight"])
    return UtilityGoal(candidates, draft.coverage.at(candidates), weight)
