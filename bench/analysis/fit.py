"""The latency models of a run: series from its probes, goals from its surface, judgement, `fit.json`."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench.analysis.hardware import draft_shape_of, hardware_of, target_shape_of
from bench.analysis.latency import step_samples
from bench.analysis.run import DraftRun, Run
from bench.analysis.summary import held_out_tokens
from bench.analysis.surfaces import Surfaces
from bench.errors import FitError, OutputError
from bench.fit.fitting import Coefficient
from bench.fit.judge import JudgedComponent, JudgedModel, Judgement, judge, to_json
from bench.fit.series import (
    DRAFT_STEP,
    DTYPE_BYTES,
    LM_HEAD,
    VERIFY,
    Goals,
    IntArray,
    LatencySeries,
    SpeedGoal,
    UtilityGoal,
    draft_work,
    verify_work,
)
from bench.records import DecodeRecord
from bench.stats.robust import Floats

FILE_NAME = "fit.json"

# A prompt of one of the runs, and what was timed on it at once.
_Block = tuple[tuple[int, str, str], list[float]]

# Goals look at every size at which acceptance changes; this many of them tell the same.
_MOST_CANDIDATES = 400


def judge_run(surfaces: Surfaces) -> Judgement:
    """Every latency model of every component, on what was timed inside real rounds.

    What a wrong model would lose is judged on every domain, at the draft length that is fastest there.

    Raises:
        FitError: the run does not say the shape of its draft.
    """
    run = surfaces.run
    spec, dtype = hardware_of(run), run.environment["dtype"]
    components = {}
    for series in series_of([run]):
        goals = goals_of(surfaces, series)
        components[series.component] = judge(series, spec, dtype, goals, run.num_resamples, run.seed)
    return Judgement(run.environment["device_name"], dtype, spec, components)


def write_fit(judgement: Judgement, folder: Path) -> Path:
    """Writes `fit.json`, whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = folder / FILE_NAME
    temporary = path.with_suffix(".partial")
    try:
        temporary.write_text(to_json(judgement), "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    return path


def series_of(runs: Sequence[Run]) -> list[LatencySeries]:
    """LM head, chained draft step and verification inside real rounds, by size, over all domains.

    A chained step is layer, head and selection of one depth, from the second of a round on. What was not
    timed is left out: no chained step is without a draft length of 2.

    Args:
        runs: of one pair on one device.

    Raises:
        FitError: they do not say the shape of the draft.
    """
    run = runs[0]
    draft, target = draft_shape_of(run), target_shape_of(run)
    if draft is None:
        raise FitError(
            f"{run.folder} does not say the shape of its draft, as runs before this version do not; "
            "measure it again"
        )
    context, width = _context(runs), DTYPE_BYTES[run.environment["dtype"]]
    found = []
    for component in (LM_HEAD, DRAFT_STEP, VERIFY):
        laps = _laps_of(runs, component)
        if not laps or (component == VERIFY and target is None):
            continue
        sizes = np.array(list(laps), dtype=np.int64)
        if component == VERIFY:
            assert target is not None
            work = verify_work(target, sizes, context, dtype_bytes=width)
        else:
            work = draft_work(draft, component, sizes, context, dtype_bytes=width)
        found.append(LatencySeries(component, work, *_grouped(laps.values())))
    return found


def times_of(runs: Sequence[Run], component: str) -> dict[int, list[float]]:
    """Samples in ms by size: k, or the tokens that a verification takes in."""
    laps = _laps_of(runs, component)
    return {size: [time for _, samples in blocks for time in samples] for size, blocks in laps.items()}


def _laps_of(runs: Sequence[Run], component: str) -> dict[int, list[_Block]]:
    """Samples in ms with the prompt that they were taken on, by size."""
    found: dict[int, list[_Block]] = defaultdict(list)
    for place, run in enumerate(runs):
        for domain, probes in run.probes.items():
            for probe in probes:
                samples = step_samples(probe.laps_ms, probe.draft_length).get(component)
                size = probe.draft_length + 1 if component == VERIFY else probe.vocab_size
                if samples:
                    found[size].append(((place, domain, probe.prompt_id), samples))
    return dict(sorted(found.items()))


def _grouped(laps: Iterable[list[_Block]]) -> tuple[list[Floats], list[IntArray]]:
    """Samples of every size, and the number of the prompt of each."""
    laps = list(laps)
    number = {prompt: place for place, prompt in enumerate(sorted({p for blocks in laps for p, _ in blocks}))}
    samples = [np.concatenate([times for _, times in blocks]) for blocks in laps]
    groups = [np.concatenate([np.full(len(times), number[p]) for p, times in blocks]) for blocks in laps]
    return samples, groups


def _context(runs: Sequence[Run]) -> int:
    """Mean number of positions held while decoding."""
    records: list[DecodeRecord] = []
    for run in runs:
        records += [
            r for keys in run.decodes.values() for by_prompt in keys.values() for r in by_prompt.values()
        ]
    return int(np.mean([record.num_prompt_tokens + len(record.token_ids) / 2 for record in records]))


def goals_of(surfaces: Surfaces, series: LatencySeries) -> dict[str, Goals]:
    """What k is chosen for, by domain: speed with the replayed acceptance, and the paper's utility.

    A round of gamma drafts has gamma heads and, but for a constant, gamma chained steps: its first step has
    no layer, whatever k is. So either component changes a round by gamma times what it changes by itself.
    The rest of a round is what they leave of it, on average over the sizes, as what a round costs beside its
    heads is also known on average only: a layer is slower behind a head that fills the cache.

    Args:
        surfaces: of a run.
        series: of one of its components; a verification has no k to choose, and no goals.
    """
    if series.component == VERIFY:
        return {}
    return {domain: _goals(surfaces, series, domain) for domain in surfaces.run.decodes}


def _goals(surfaces: Surfaces, series: LatencySeries, domain: str) -> Goals:
    run, surface, sizes = surfaces.run, surfaces.of(domain), series.work.sizes
    candidates = surface.sizes[(surface.sizes >= sizes[0]) & (surface.sizes <= sizes[-1])]
    candidates = candidates[:: max(1, len(candidates) // _MOST_CANDIDATES)]
    candidates = np.union1d(candidates, sizes[[0, -1]])
    columns = [surface.column(int(size)) for size in candidates]
    gamma = surface.best[1]
    tau = surface.mean_acceptance_length[surface.draft_lengths.index(gamma)][columns]
    latency = surfaces.latency[domain]
    once = np.ones((1, len(latency.prompts)))
    round_ms = latency.round_ms(gamma, sizes, once)[0]
    other_ms = float((round_ms - gamma * series.medians_ms).mean())
    ranking = run.rankings[run.plans[domain].source]
    coverage = ranking.coverage_of(held_out_tokens(run, domain))[candidates - 1]
    return Goals(
        gamma,
        SpeedGoal(candidates, 1 / tau, gamma, other_ms),
        UtilityGoal(candidates, coverage, float(run.config["select"]["coverage_weight"])),
    )


# The latency models of a draft that was measured alone: series from its own times, no speed to choose by.

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


# The latency models of one component as tables: models, what each would choose, and size by size.

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


def judged(surfaces: Surfaces) -> Judgement | None:
    """None for a run of an earlier version, which does not say what to judge by."""
    try:
        return judge_run(surfaces)
    except FitError:
        return None
