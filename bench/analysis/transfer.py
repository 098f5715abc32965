"""What a draft step takes on every device, and whether the latency model of one holds on another."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from bench.analysis.comparison import Comparison
from bench.analysis.fit import goals_of, series_of, times_of
from bench.analysis.hardware import hardware_of
from bench.analysis.parallel import in_parallel
from bench.analysis.run import Run
from bench.cost.hardware import HardwareSpec
from bench.errors import FitError
from bench.fit.fitting import median_estimates, resample_medians
from bench.fit.judge import JudgedComponent, JudgedModel, judge
from bench.fit.models import Published
from bench.fit.series import DRAFT_STEP, LatencySeries
from bench.stats.estimates import Estimate, median

STEP_COLUMNS = [
    "case", "device", "vocab_size", "median_ms", "ci_low_ms", "ci_high_ms", "num_samples",
    "moved_bytes", "memory_bytes_per_s", "rates_from",
]  # fmt: skip

TRANSFER_COLUMNS = ["case", "source", "target", "model", "mean_error", "worst_error", "reason"]

# Only the coefficients themselves are moved, not their intervals.
_RESAMPLES = 20


def step_frame(comparison: Comparison) -> pd.DataFrame:
    """Median chained draft step inside real rounds by case, device and size, with `STEP_COLUMNS`.

    Domains are pooled, as a step does not depend on its text. The bandwidth is None where neither the run nor
    a data sheet has it, and the bytes that a step moves where the shape of the draft is not known.
    """
    rows = []
    for case in comparison.cases:
        for device, runs in sorted(comparison.runs_of(case).items()):
            spec, series = hardware_of(runs[0]), step_series(runs)
            rates = (None, None) if spec is None else (spec.memory_bytes_per_s, spec.source)
            moved = (
                dict(zip(series.work.sizes.tolist(), series.work.total_bytes.tolist(), strict=True))
                if isinstance(series, LatencySeries)
                else {}
            )
            counts = {size: len(samples) for size, samples in step_times(runs).items()}
            for size, estimate in step_medians(runs).items():
                interval = vars(estimate).values()
                rows.append((case, device, size, *interval, counts[size], moved.get(size), *rates))
    frame = pd.DataFrame(rows, columns=STEP_COLUMNS)
    return frame.astype({"moved_bytes": float, "memory_bytes_per_s": float})


def step_times(runs: Sequence[Run]) -> dict[int, list[float]]:
    """Samples of a chained draft step inside real rounds, by k, over all domains; empty at gamma = 1."""
    return times_of(runs, DRAFT_STEP)


def step_medians(runs: Sequence[Run]) -> dict[int, Estimate]:
    """Median of `step_times` by k, with an interval over whole prompts, as steps of one are not independent.

    Steps of runs that do not say the shape of their draft are taken as independent.
    """
    series, run = step_series(runs), runs[0]
    if isinstance(series, str):
        return {size: median(np.array(samples)) for size, samples in step_times(runs).items()}
    estimates = median_estimates(series, resample_medians(series, run.num_resamples, run.seed))
    return dict(zip(series.work.sizes.tolist(), estimates, strict=True))


def step_series(runs: Sequence[Run]) -> LatencySeries | str:
    """Chained draft steps of one device with the work of every size; a reason where there is none.

    Args:
        runs: of one case on one device.
    """
    try:
        found = {series.component: series for series in series_of(runs)}
    except FitError:
        return "the run does not say the shape of its draft"
    reason = "no chained draft step was measured: measure a draft length of 2 or more"
    return found.get(DRAFT_STEP, reason)


def transfer_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per case and ordered pair of devices, with `TRANSFER_COLUMNS`.

    The model is the one that predicts held-out sizes of the source best and can be moved. Errors are those
    of the target's draft step, predicted over measured less 1, as absolute values over its sizes; they are
    None with a reason where no model can be moved.
    """
    rows = []
    for case in comparison.cases:
        by_device = comparison.runs_of(case)
        series = {device: step_series(runs) for device, runs in by_device.items()}
        specs = {device: hardware_of(runs[0]) for device, runs in by_device.items()}
        models = {
            device: _models(found, specs[device], by_device[device][0])
            for device, found in series.items()
            if isinstance(found, LatencySeries)
        }
        for source in sorted(by_device):
            for target in sorted(by_device):
                if source != target:
                    dtype = by_device[source][0].environment["dtype"]
                    row = _moved(series, specs, models.get(source, []), source, target, dtype)
                    rows.append((case, source, target, *row))
    return pd.DataFrame(rows, columns=TRANSFER_COLUMNS).astype({"mean_error": float, "worst_error": float})


def _moved(
    series: dict[str, LatencySeries | str],
    specs: dict[str, HardwareSpec | None],
    models: list[JudgedModel],
    source: str,
    target: str,
    dtype: str,
) -> tuple[str | None, float | None, float | None, str]:
    for device in (source, target):
        found = series[device]
        if isinstance(found, str):
            return None, None, None, f"on {device} {found}"
        if specs[device] is None:
            return None, None, None, f"{device} has no data sheet, and its run did not probe its rates"
    from_spec, to_spec, measured = specs[source], specs[target], series[target]
    assert from_spec is not None and to_spec is not None and isinstance(measured, LatencySeries)
    reason = f"on {source} too few sizes were measured to judge a model"
    for judged in models:
        try:
            error = judged.fitted.moved_to(to_spec.limits(dtype)).error_on(measured)
        except FitError as refused:
            reason = str(refused)
            continue
        return judged.fitted.model.label, error.mape, error.worst_error, ""
    return None, None, None, reason


def _models(series: LatencySeries, spec: HardwareSpec | None, run: Run) -> list[JudgedModel]:
    """Those that explain something, the best on held-out sizes first."""
    judged = judge(series, spec, run.environment["dtype"], num_resamples=_RESAMPLES, seed=run.seed)
    explaining = [model for model in judged.models if not model.fitted.model.is_yardstick]

    def rank(model: JudgedModel) -> tuple[bool, float]:
        error = model.scores.loo_mape
        return model.fitted.model.name != judged.best, float("inf") if error is None else error

    return sorted(explaining, key=rank)


# Would FLOPs have picked the vocabulary on every device, and which latency model holds there?

MODEL_COLUMNS = [
    "case", "device", "best_model", "held_out_error", "flops_held_out_error", "smallest_k", "measured_saving",
    "flops_predicted_saving", "flops_largest_regret_share", "flops_regret_domain", "bandwidth_share",
    "launch_share", "note",
]  # fmt: skip


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
    flops = judged.model(Published.name)
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
