"""Would FLOPs have picked the vocabulary on every device, and which latency model holds there?"""

from functools import partial

import numpy as np
import pandas as pd

from bench.compare.comparison import Comparison
from bench.compare.transfer import step_series
from bench.fit.judge import JudgedComponent, judge
from bench.fit.models import PUBLISHED
from bench.fit.series import LatencySeries
from bench.report.fit import goals_of
from bench.report.hardware import hardware_of
from bench.report.parallel import in_parallel

MODEL_COLUMNS = [
    "case", "device", "best_model", "held_out_error", "flops_held_out_error", "smallest_k", "measured_saving",
    "flops_predicted_saving", "flops_largest_regret_share", "flops_regret_domain", "bandwidth_share",
    "launch_share", "note",
]  # fmt: skip
# Only the models themselves are compared here, not their intervals.
_RESAMPLES = 20


def model_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per case and device: of its chained draft step, with `MODEL_COLUMNS`.

    Savings are those of the smallest measured size, regrets the largest over the domains, shares of the
    hardware's limits those of the full vocabulary. None with a note where nothing can be judged.
    """
    places = [(case, device) for case in comparison.cases for device in comparison.devices_of(case)]
    rows = in_parallel([partial(_row, comparison, case, device) for case, device in places])
    found = [
        {"case": case, "device": device, **row} for (case, device), row in zip(places, rows, strict=True)
    ]
    return pd.DataFrame(found, columns=MODEL_COLUMNS).astype(object).replace({np.nan: None})


def _row(comparison: Comparison, case: str, device: str) -> dict[str, object]:
    runs = comparison.runs_of(case)[device]
    series = step_series(runs)
    if isinstance(series, str):
        return {"note": series}
    entries = [entry for entry in comparison.entries if (entry.case, entry.device) == (case, device)]
    goals = {entry.domain: goals_of(entry.surfaces, series)[entry.domain] for entry in entries}
    judged = judge(
        series, hardware_of(runs[0]), runs[0].environment["dtype"], goals, _RESAMPLES, runs[0].seed
    )
    return {**_of_best(judged), **_of_flops(judged, series), "note": judged.doubt}


def _of_best(judged: JudgedComponent) -> dict[str, object]:
    best, efficiency = judged.model(judged.best), judged.efficiency
    return {
        "best_model": None if best is None else best.fitted.model.label,
        "held_out_error": None if best is None else best.scores.loo_mape,
        "bandwidth_share": None if efficiency.bandwidth_share is None else efficiency.bandwidth_share[-1],
        "launch_share": None if efficiency.launch_share is None else efficiency.launch_share[-1],
    }


def _of_flops(judged: JudgedComponent, series: LatencySeries) -> dict[str, object]:
    flops = judged.model(PUBLISHED.name)
    if flops is None:
        return {}
    regrets = {domain: found.speed.regret_share for domain, found in flops.decisions.items()}
    worst = max(regrets, key=regrets.__getitem__) if regrets else None
    return {
        "flops_held_out_error": flops.scores.loo_mape,
        "smallest_k": int(series.work.sizes[0]),
        "measured_saving": judged.reductions[0].value,
        "flops_predicted_saving": float(flops.reduction[0]),
        "flops_largest_regret_share": None if worst is None else regrets[worst],
        "flops_regret_domain": worst,
    }
