"""Latency models for readers: tables, sentences and curves of what was judged."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.fit.fitting import Coefficient
from bench.fit.judge import JudgedComponent, JudgedModel, Judgement, sentence
from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY, IntArray, reduction
from bench.stats.robust import Floats

TITLES = {LM_HEAD: "LM head", DRAFT_STEP: "draft step", VERIFY: "verification"}

_CURVE_POINTS = 200

# Curves that are nowhere further apart look the same in a figure: they are drawn as one.
_SAME_CURVE = 0.002

WHY_NO_UTILITY = (
    "no coverage is known, without which the utility of arXiv 2603.05210 chooses none; give draft.coverage"
)

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


@dataclass(frozen=True)
class Curve:
    """One model over the sizes, or several that say the same.

    Attributes:
        label: names and error on held-out sizes.
        is_best: whether the best model is among them.
        sizes: k, or tokens verified `(n,)`.
        latency_ms: predicted `(n,)`.
        saving: R predicted `(n,)`.
        errors: predicted over measured, less 1, of every measured size `(m,)`.
    """

    label: str
    is_best: bool
    sizes: IntArray
    latency_ms: Floats
    saving: Floats
    errors: Floats


@dataclass(frozen=True)
class ComponentFindings:
    """The latency models of one part of a round.

    Attributes:
        name: of the component.
        title: for readers.
        sentence: the verdict.
        has_k: whether its size is a vocabulary's.
        setting: where its samples are from, as of `LatencySeries`.
        models: as `fit_table`.
        sizes: as `size_table`, with the saving by the best model as `reduction_best`.
        decisions: as `decision_table`.
        savings: as `reduction_table`.
        utility: as `utility_choices`.
        curves: the best first.
        intensity: FLOPs per byte of every measured size `(m,)`.
        flops_per_s: reached at every measured size `(m,)`.
    """

    name: str
    title: str
    sentence: str
    has_k: bool
    setting: str
    models: pd.DataFrame
    sizes: pd.DataFrame
    decisions: pd.DataFrame
    savings: pd.DataFrame
    utility: pd.DataFrame
    curves: list[Curve]
    intensity: Floats
    flops_per_s: Floats


@dataclass(frozen=True)
class LatencyFindings:
    """The latency models of a run.

    Attributes:
        judgement: what `fit.json` says.
        components: parts of a round.
    """

    judgement: Judgement
    components: list[ComponentFindings]

    @classmethod
    def of(cls, judgement: Judgement) -> "LatencyFindings":
        """What a judgement says of every component."""
        return cls(judgement, [_component(judgement, name) for name in judgement.components])

    @property
    def memory_bytes_per_s(self) -> float | None:
        """Limit of the device; None where it has no data sheet and was not probed."""
        spec = self.judgement.spec
        return None if spec is None else spec.memory_bytes_per_s

    @property
    def peak_flops_per_s(self) -> float | None:
        """Limit of the device in this dtype; None where it is not known."""
        spec = self.judgement.spec
        return None if spec is None else spec.peak_flops_per_s.get(self.judgement.dtype)

    @property
    def limits_from(self) -> str:
        """Where the limits are from."""
        return self.judgement.spec.source if self.judgement.spec else ""


def _component(judgement: Judgement, name: str) -> ComponentFindings:
    judged = judgement.components[name]
    work, sizes = judged.series.work, size_table(judged)
    shown = f"reduction_{judged.best}"
    return ComponentFindings(
        name=name,
        title=TITLES.get(name, name),
        sentence=sentence(judgement, name),
        has_k=name != VERIFY,
        setting=judged.series.setting,
        models=fit_table(judged),
        sizes=sizes.assign(reduction_best=sizes[shown]) if shown in sizes else sizes,
        decisions=decision_table(judged),
        savings=reduction_table(judged),
        utility=utility_choices(judged),
        curves=_curves(judged),
        intensity=work.flops / work.total_bytes,
        flops_per_s=work.flops / (judged.series.medians_ms / 1e3),
    )


def _curves(judged: JudgedComponent) -> list[Curve]:
    """Models by curve, with models of the same curve together; the best first."""
    measured = judged.series.work.sizes
    dense = np.geomspace(measured[0], measured[-1], _CURVE_POINTS).round().astype(np.int64)
    dense = np.unique(np.concatenate([dense, measured]))
    work = judged.series.work.at(dense)
    groups: list[tuple[Floats, list[JudgedModel]]] = []
    explaining = [model for model in judged.models if not model.fitted.model.is_yardstick]
    for model in sorted(explaining, key=lambda m: m.fitted.model.name != judged.best):
        curve = model.fitted.predict(work)
        for first, group in groups:
            if np.abs(curve / first - 1).max() <= _SAME_CURVE:
                group.append(model)
                break
        else:
            groups.append((curve, [model]))
    return [
        Curve(
            label=_label(group),
            is_best=any(model.fitted.model.name == judged.best for model in group),
            sizes=dense,
            latency_ms=curve,
            saving=reduction(curve),
            errors=group[0].fitted.relative_errors,
        )
        for curve, group in groups
    ]


def _label(group: list[JudgedModel]) -> str:
    errors = [model.scores.loo_mape for model in group]
    known = [error for error in errors if error is not None]
    error = f"held-out error {min(known):.1%}" if known else "too few sizes to hold one out"
    names = "\n= ".join(model.fitted.model.label for model in group)
    return f"{names}: {error}"


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


def choice_facts(judgement: Judgement) -> list[str]:
    """Which k is chosen, or why none is, in sentences."""
    found = [f"No k is chosen for speed: {judgement.why_no_speed}."]
    judged = judgement.components[DRAFT_STEP]
    best = judged.model(judged.best)
    decision = best.by_utility if best else None
    if best is None or decision is None:
        return [*found, f"No k is chosen by utility: {WHY_NO_UTILITY}."]
    text = (
        f"By the utility of arXiv 2603.05210 with the coverage given, the measured draft step chooses "
        f"k = {decision.best_vocab_size:,}"
    )
    return [*found, f"{text}, {best.fitted.model.label} chooses {decision.vocab_size:,}."]
