"""Judges every latency model: its errors, the k it would choose, and what a wrong choice loses."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.cost.hardware import HardwareSpec
from bench.errors import FitError
from bench.fit.fitting import (
    FittedModel,
    Scores,
    Unfit,
    fit,
    interval_doubt,
    median_estimates,
    reduction_estimates,
    resample_medians,
    score,
)
from bench.fit.models import Monotone, Published, all_models
from bench.fit.series import (
    VERIFY,
    Decision,
    Decisions,
    Goal,
    Goals,
    LatencySeries,
    UtilityGoal,
    decide,
    reduction,
)
from bench.stats.estimates import Estimate
from bench.stats.robust import Floats

# At batch 1 in 16 bits FLOPs and bytes are the same number: models whose errors round to the same tenth of a
# percent are equals, of which the one with fewer parameters is the best, then the one that takes precedence.
_EQUAL_MAPE_DECIMALS = 3


@dataclass(frozen=True)
class JudgedModel:
    """One model of one component.

    Attributes:
        fitted: with its coefficients.
        scores: how well it fits.
        reduction: R that it predicts for every measured size `(n,)`.
        decisions: the k that it would choose, by domain.
        by_utility: the k that it would choose by a coverage of no domain; None without one.
    """

    fitted: FittedModel
    scores: Scores
    reduction: Floats
    decisions: Mapping[str, Decisions]
    by_utility: Decision | None = None


@dataclass(frozen=True)
class Efficiency:
    """Which share of the hardware's limits every measured size reaches; None if a limit is unknown.

    Attributes:
        bandwidth_share: bytes moved per second over the memory bandwidth `(n,)`; above 1 where a cache
            serves them.
        peak_share: FLOP/s over the peak `(n,)`.
        launch_share: t0 over the latency `(n,)`.
        launch_model: whose t0.
    """

    bandwidth_share: Floats | None
    peak_share: Floats | None
    launch_share: Floats | None
    launch_model: str | None


@dataclass(frozen=True)
class JudgedComponent:
    """Every model of one component.

    Attributes:
        series: what was measured.
        medians: with 95% intervals, per size.
        reductions: R measured, with 95% intervals, per size.
        models: that could be fitted.
        unfit: that could not, with the reason.
        best: name of the model with the lowest error on held-out sizes, the yardstick aside; None where
            there is none.
        efficiency: distance to the hardware's limits.
        doubt: why its intervals deserve little trust; None where they hold.
    """

    series: LatencySeries
    medians: list[Estimate]
    reductions: list[Estimate]
    models: list[JudgedModel]
    unfit: list[Unfit]
    best: str | None
    efficiency: Efficiency
    doubt: str | None = None

    def model(self, name: str | None) -> JudgedModel | None:
        """The model of this name; None if it could not be fitted."""
        return next((judged for judged in self.models if judged.fitted.model.name == name), None)


@dataclass(frozen=True)
class Judgement:
    """All components of one run.

    Attributes:
        device_name: as the driver says.
        dtype: of the arithmetic.
        spec: of the device; None where it has no data sheet and was not probed.
        components: by name.
        setting: where the samples are from: `in_situ` (inside real rounds), `isolated_cold` or
            `isolated_warm`.
        why_no_speed: why no k was chosen for speed; None where one was.
    """

    device_name: str
    dtype: str
    spec: HardwareSpec | None
    components: Mapping[str, JudgedComponent] = field(default_factory=dict)
    setting: str = "in_situ"
    why_no_speed: str | None = None


def judge(
    series: LatencySeries,
    spec: HardwareSpec | None,
    dtype: str,
    goals: Mapping[str, Goals] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    utility: UtilityGoal | None = None,
) -> JudgedComponent:
    """Fits and judges every model of one component.

    Args:
        series: what was measured.
        spec: of the device.
        dtype: of the arithmetic, as torch names it.
        goals: what a k is chosen for, by domain; none for a verification.
        num_resamples: bootstrap resamples.
        seed: of the bootstrap.
        utility: what a k is chosen for where there is no domain, only a coverage.
    """
    resampled = resample_medians(series, num_resamples, seed)
    models = all_models(None if spec is None else spec.limits(dtype))
    results = [fit(model, series, resampled, seed) for model in models]
    fits = [result for result in results if isinstance(result, FittedModel)]
    judged = [_judged(result, series, goals or {}, utility) for result in fits]
    best = _best(judged)
    return JudgedComponent(
        series=series,
        medians=median_estimates(series, resampled),
        reductions=reduction_estimates(series, resampled),
        models=judged,
        unfit=[result for result in results if isinstance(result, Unfit)],
        best=best,
        efficiency=_efficiency(series, spec, dtype, judged, best),
        doubt=interval_doubt(series),
    )


def _judged(
    fitted: FittedModel, series: LatencySeries, goals: Mapping[str, Goals], utility: UtilityGoal | None
) -> JudgedModel:
    decisions = {
        domain: Decisions(
            goal.draft_length,
            _decision(fitted, series, goal.speed),
            _decision(fitted, series, goal.utility),
        )
        for domain, goal in goals.items()
    }
    by_utility = _decision(fitted, series, utility) if utility else None
    saving = reduction(fitted.predict(fitted.work))
    return JudgedModel(fitted, score(fitted, series), saving, decisions, by_utility)


def _decision(fitted: FittedModel, series: LatencySeries, goal: Goal) -> Decision:
    if series.component == VERIFY:
        raise FitError("a verification has no vocabulary to choose: give it no goal")
    work = series.work
    if goal.sizes[0] < work.sizes[0] or goal.sizes[-1] > work.sizes[-1]:
        raise FitError(
            f"{series.component}: candidates {goal.sizes[0]} to {goal.sizes[-1]} go beyond the measured "
            f"sizes, {work.sizes[0]} to {work.sizes[-1]}; judge inside them"
        )
    between, truth = work.at(goal.sizes), Monotone()
    measured = truth.predict(truth.solve(work, series.medians_ms[None]), between)[0]
    return decide(goal, fitted.predict(between), measured)


def _best(models: list[JudgedModel]) -> str | None:
    def rank(judged: JudgedModel) -> tuple[float, int, int]:
        error = judged.scores.loo_mape
        assert error is not None
        rounded = round(error, _EQUAL_MAPE_DECIMALS)
        return rounded, judged.fitted.num_parameters, judged.fitted.model.precedence

    ranked = [
        judged
        for judged in models
        if judged.scores.loo_mape is not None and not judged.fitted.model.is_yardstick
    ]
    return min(ranked, key=rank).fitted.model.name if ranked else None


def _held_out(judged: JudgedModel) -> float:
    error = judged.scores.loo_mape
    return np.inf if error is None else error


def _efficiency(
    series: LatencySeries, spec: HardwareSpec | None, dtype: str, models: list[JudgedModel], best: str | None
) -> Efficiency:
    seconds, work = series.medians_ms / 1e3, series.work
    peak = None if spec is None else spec.peak(dtype)
    with_launches = [m for m in models if m.fitted.coefficient("t0_ms") is not None]
    with_launches.sort(key=lambda m: (m.fitted.model.name != best, _held_out(m)))
    launch = with_launches[0].fitted if with_launches else None
    t0_ms = None if launch is None else launch.coefficient("t0_ms")
    return Efficiency(
        bandwidth_share=None if spec is None else work.total_bytes / seconds / spec.memory_bytes_per_s,
        peak_share=None if peak is None else work.flops / seconds / peak,
        launch_share=None if t0_ms is None else t0_ms / series.medians_ms,
        launch_model=None if launch is None else launch.model.name,
    )


def sentence(judgement: Judgement, component: str) -> str:
    """One sentence on one component: do FLOPs predict the saving, and which model predicts held-out sizes."""
    judged = judgement.components[component]
    parts = [_saving(judged), _prediction(judged), judged.doubt]
    return f"On {judgement.device_name}, {'; '.join(part for part in parts if part)}."


def _saving(judged: JudgedComponent) -> str:
    published = judged.model(Published.name)
    if published is None or judged.series.component == VERIFY or len(judged.reductions) < 2:
        return ""
    gaps = published.reduction - np.array([measured.value for measured in judged.reductions])
    place = int(np.argmax(np.abs(gaps[:-1])))
    measured, predicted = judged.reductions[place], published.reduction[place]
    figures = (
        f"(k = {judged.series.work.sizes[place]:,}: {predicted:.0%} predicted, {measured.value:.0%} measured)"
    )
    if measured.ci_low <= predicted <= measured.ci_high:
        return f"FLOPs predict the saving of a smaller vocabulary within the measurement's error {figures}"
    verb = "overestimate" if gaps[place] > 0 else "underestimate"
    points = f"{100 * abs(gaps[place]):.1f} percentage points"
    return f"FLOPs {verb} the saving of a smaller vocabulary by up to {points} {figures}"


def _prediction(judged: JudgedComponent) -> str:
    best = judged.model(judged.best)
    if best is None:
        return "no model can be judged on held-out sizes, for which more sizes must be measured"
    return f"{best.fitted.model.label} predicts held-out sizes within {best.scores.loo_mape:.1%} on average"


# `fit.json`: the judgement of a run, as numbers.

SCHEMA_VERSION = 1

_DECIDED = (
    "draft_length", "chosen_k", "best_k", "regret_tokens_per_s", "regret_share", "chosen_k_by_utility",
    "regret_utility",
)  # fmt: skip


def to_json(judgement: Judgement) -> str:
    """The content of `fit.json`."""
    return json.dumps(to_values(judgement), indent=1) + "\n"


def to_values(judgement: Judgement) -> dict[str, Any]:
    """The same as plain values; null if there is no value."""
    spec = judgement.spec
    return {
        "schema": SCHEMA_VERSION,
        "device_name": judgement.device_name,
        "dtype": judgement.dtype,
        "setting": judgement.setting,
        "why_no_speed": judgement.why_no_speed,
        "hardware": None
        if spec is None
        else {
            "name": spec.name,
            "source": spec.source,
            "peak_flops_per_s": spec.peak(judgement.dtype),
            "memory_bytes_per_s": spec.memory_bytes_per_s,
            "cache_bytes": spec.cache_bytes,
        },
        "components": {
            name: {**_component(component), "sentence": sentence(judgement, name)}
            for name, component in judgement.components.items()
        },
    }


def _component(component: JudgedComponent) -> dict[str, Any]:
    work = component.series.work
    return {
        "size_is": component.series.size_is,
        "sizes": work.sizes.tolist(),
        "setting": component.series.setting,
        "num_prompts": component.series.num_groups or None,
        "interval_doubt": component.doubt,
        "num_samples": [len(samples) for samples in component.series.samples_ms],
        "flops": work.flops.tolist(),
        "bytes": work.total_bytes.tolist(),
        "median_ms": [_estimate(value) for value in component.medians],
        "reduction": [_estimate(value) for value in component.reductions],
        "best": component.best,
        "efficiency": _efficiency_json(component.efficiency),
        "models": {judged.fitted.model.name: _model(judged) for judged in component.models},
        "unfit": {unfit.model.name: unfit.reason for unfit in component.unfit},
    }


def _model(judged: JudgedModel) -> dict[str, Any]:
    fitted = judged.fitted
    decisions = {domain: _decisions(found) for domain, found in judged.decisions.items()}
    first = next(iter(judged.decisions), None)
    return {
        "label": fitted.model.label,
        "coefficients": {
            c.name: {"unit": c.unit, "value": c.value, "ci_low": c.ci_low, "ci_high": c.ci_high}
            for c in fitted.coefficients()
        },
        "num_parameters": fitted.num_parameters,
        **vars(judged.scores),
        "predicted_ms": fitted.predict(fitted.work).tolist(),
        "reduction": judged.reduction.tolist(),
        "domain": first,
        **(decisions[first] if first else _without_domain(judged.by_utility)),
        "decisions": decisions,
    }


def _decisions(found: Decisions) -> dict[str, int | float]:
    speed, by_utility = found.speed, found.utility
    values = (
        found.draft_length, speed.vocab_size, speed.best_vocab_size, speed.regret, speed.regret_share,
        by_utility.vocab_size, by_utility.regret,
    )  # fmt: skip
    return dict(zip(_DECIDED, values, strict=True))


def _without_domain(by_utility: Decision | None) -> dict[str, int | float | None]:
    values: dict[str, int | float | None] = dict.fromkeys(_DECIDED)
    if by_utility:
        values |= {"chosen_k_by_utility": by_utility.vocab_size, "regret_utility": by_utility.regret}
    return values


def _efficiency_json(efficiency: Efficiency) -> dict[str, Any]:
    return {
        "bandwidth_share": _list(efficiency.bandwidth_share),
        "peak_share": _list(efficiency.peak_share),
        "launch_share": _list(efficiency.launch_share),
        "launch_model": efficiency.launch_model,
    }


def _estimate(value: Estimate) -> dict[str, float]:
    return {"value": value.value, "ci_low": value.ci_low, "ci_high": value.ci_high}


def _list(values: Floats | None) -> list[float] | None:
    return None if values is None else values.tolist()
