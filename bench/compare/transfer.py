"""The latency model of one device on another: fitted where it was measured, moved by the data sheets."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.compare.comparison import Comparison
from bench.cost.hardware import HardwareSpec
from bench.fit.errors import FitError
from bench.fit.judge import JudgedModel, judge
from bench.fit.resampling import median_estimates, resample_medians
from bench.fit.series import DRAFT_STEP, LatencySeries
from bench.fit.transfer import TransferError, transfer, transfer_error
from bench.measure.stats import Estimate, median
from bench.report.fit import series_of, times_of
from bench.report.frames import Run
from bench.report.hardware import hardware_of

TRANSFER_COLUMNS = ["case", "source", "target", "model", "mean_error", "worst_error", "reason"]
# Only the coefficients themselves are moved, not their intervals.
_RESAMPLES = 20


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
            error: TransferError = transfer_error(
                transfer(judged.fitted, from_spec, to_spec, dtype), measured
            )
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
