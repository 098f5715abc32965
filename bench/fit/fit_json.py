"""`fit.json`: the judgement of a run, as numbers.

Format history:
    1: per component and model: coefficients with intervals, scores, predicted R, chosen k and regret of the
        first domain, which is named with its draft length, and of every domain in `decisions`; where the
        samples are from, and why there is no k for speed where there is none.
"""

import json
from typing import Any

from bench.fit.choice import Decision, Decisions
from bench.fit.judge import Efficiency, JudgedComponent, JudgedModel, Judgement, sentence
from bench.fit.series import Floats
from bench.measure.stats import Estimate

SCHEMA_VERSION = 1

_DECIDED = (
    "draft_length", "chosen_k", "best_k", "regret_tokens_per_s", "regret_share", "chosen_k_by_utility",
    "regret_utility",
)  # fmt: skip


def to_json(judgement: Judgement) -> str:
    """The whole file."""
    return json.dumps(to_values(judgement), indent=1) + "\n"


def to_values(judgement: Judgement) -> dict[str, Any]:
    """The same as plain values; null wherever there is no value."""
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
        "num_prompts": component.series.num_groups or None,
        "interval_doubt": component.doubt,
        "num_samples": [len(samples) for samples in component.series.samples_ms],
        "flops": work.flops.tolist(),
        "bytes": work.total_bytes.tolist(),
        "median_ms": [_estimate(value) for value in component.medians],
        "reduction": [_estimate(value) for value in component.reductions],
        "best": component.best,
        "efficiency": _efficiency(component.efficiency),
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


def _efficiency(efficiency: Efficiency) -> dict[str, Any]:
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
