"""The latency models of one component as tables: models, what each would choose, and size by size."""

import numpy as np
import pandas as pd

from bench.fit.fitting import Coefficient
from bench.fit.judge import JudgedComponent, JudgedModel
from bench.fit.series import VERIFY, Floats

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

TABLE_COLUMNS = [
    "model", "coefficients", "held_out_error", "fit_error", "worst_error", "r2", "aicc",
    "predicted_saving", "measured_saving", "domain", "draft_length", "chosen_k", "regret_tokens_per_s",
    "note",
]  # fmt: skip
DECISION_COLUMNS = [
    "domain", "draft_length", "model", "chosen_k", "best_k", "tokens_per_s", "best_tokens_per_s",
    "regret_tokens_per_s", "regret_share", "chosen_k_by_utility", "regret_utility",
]  # fmt: skip


def fit_table(judged: JudgedComponent, domain: str | None = None) -> pd.DataFrame:
    """One row per model, best first; shares of 1, and None where there is no value.

    Savings are those of the smallest size; models that could not be fitted come last, with the reason.

    Args:
        judged: the component.
        domain: whose k is chosen; None takes the run's first. `decision_table` has all of them.
    """
    rows = [_row(model, judged, domain) for model in _ranked(judged)]
    rows += [{"model": unfit.model.label, "note": unfit.reason} for unfit in judged.unfit]
    return _frame(rows, TABLE_COLUMNS)


def decision_table(judged: JudgedComponent) -> pd.DataFrame:
    """What each model would choose on each domain, and what that loses there; best model first.

    Empty for a verification, which has no k.
    """
    rows = []
    for domain in judged.models[0].decisions if judged.models else ():
        for model in _ranked(judged):
            found = model.decisions[domain]
            speed, by_utility = found.speed, found.utility
            values = (
                domain, found.draft_length, model.fitted.model.label, speed.vocab_size, speed.best_vocab_size,
                speed.value, speed.best_value, speed.regret, speed.regret_share, by_utility.vocab_size,
                by_utility.regret,
            )  # fmt: skip
            rows.append(dict(zip(DECISION_COLUMNS, values, strict=True)))
    return pd.DataFrame(rows, columns=DECISION_COLUMNS)


def size_table(judged: JudgedComponent) -> pd.DataFrame:
    """One row per measured size: latency, R(k) measured and by every model, and distance to the limits.

    Columns: `vocab_size` (of a verification `num_tokens`); `measured_ms` with its 95% interval; `reduction`,
    the share of the full vocabulary's latency that a size saves, with its interval; the same by model as
    `reduction_<name in fit.json>`; `bandwidth_share`, `peak_share` and `launch_share` (t0) of the latency, as
    `bench.fit.judge.Efficiency`. A verification has no R(k). None where a limit is not known.
    """
    series, efficiency = judged.series, judged.efficiency
    columns: dict[str, object] = {
        series.size_is: series.work.sizes,
        "measured_ms": [estimate.value for estimate in judged.medians],
        "measured_ci_low": [estimate.ci_low for estimate in judged.medians],
        "measured_ci_high": [estimate.ci_high for estimate in judged.medians],
    }
    if series.component != VERIFY:
        columns |= {
            "reduction": [estimate.value for estimate in judged.reductions],
            "reduction_ci_low": [estimate.ci_low for estimate in judged.reductions],
            "reduction_ci_high": [estimate.ci_high for estimate in judged.reductions],
        }
        columns |= {f"reduction_{m.fitted.model.name}": m.reduction for m in _ranked(judged)}
    columns |= {
        "bandwidth_share": _or_none(efficiency.bandwidth_share, len(series.work)),
        "peak_share": _or_none(efficiency.peak_share, len(series.work)),
        "launch_share": _or_none(efficiency.launch_share, len(series.work)),
    }
    return pd.DataFrame(columns)


def _or_none(values: Floats | None, count: int) -> Floats | list[None]:
    return [None] * count if values is None else values


def _ranked(judged: JudgedComponent) -> list[JudgedModel]:
    def rank(model: JudgedModel) -> tuple[bool, float]:
        error = model.scores.loo_mape
        return model.fitted.model.is_yardstick, np.inf if error is None else error

    return sorted(judged.models, key=rank)


def _row(judged: JudgedModel, component: JudgedComponent, domain: str | None) -> dict[str, object]:
    fitted, scores = judged.fitted, judged.scores
    chosen_on = domain or next(iter(judged.decisions), None)
    decisions = judged.decisions.get(chosen_on) if chosen_on else None
    has_k = component.series.component != VERIFY
    return {
        "model": fitted.model.label,
        "coefficients": ", ".join(_coefficient(c) for c in fitted.coefficients()),
        "held_out_error": scores.loo_mape,
        "fit_error": scores.mape,
        "worst_error": scores.worst_error,
        "r2": scores.r2,
        "aicc": scores.aicc,
        "predicted_saving": judged.reduction[0] if has_k else None,
        "measured_saving": component.reductions[0].value if has_k else None,
        "domain": chosen_on if decisions else None,
        "draft_length": decisions.draft_length if decisions else None,
        "chosen_k": decisions.speed.vocab_size if decisions else None,
        "regret_tokens_per_s": decisions.speed.regret if decisions else None,
        "note": _note(judged, component.best),
    }


def _note(judged: JudgedModel, best: str | None) -> str:
    if judged.fitted.model.is_yardstick:
        return "yardstick"
    return "best" if judged.fitted.model.name == best else ""


def _coefficient(coefficient: Coefficient) -> str:
    """As a reader takes it in: value, interval and unit."""
    name = coefficient.name.partition("_")[0] if coefficient.name == "t0_ms" else coefficient.name
    if coefficient.value is None:
        return f"{name} not bounded by these sizes"
    scale, prefix = next(((s, p) for s, p in _SCALES if coefficient.value >= s), (1.0, ""))
    ends = [
        "unbounded" if end is None else f"{end / scale:.3g}"
        for end in (coefficient.ci_low, coefficient.ci_high)
    ]
    return f"{name} {coefficient.value / scale:.3g} [{ends[0]}, {ends[1]}] {prefix}{coefficient.unit}"


def _frame(rows: list[dict[str, object]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns).astype(object).replace({np.nan: None})
