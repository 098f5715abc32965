"""The latency models of a run: series from its probes, goals from its surface, judgement, `fit.json`."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bench.analysis.hardware import draft_shape_of, hardware_of, target_shape_of
from bench.analysis.latency import graph_samples, step_samples
from bench.analysis.run import GRAPH, DraftRun, Run, counted_cache
from bench.analysis.summary import held_out_tokens
from bench.analysis.surfaces import Surfaces
from bench.errors import FitError, OutputError
from bench.fit.judge import Judgement, judge, to_json
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

# Goals look at every size at which acceptance changes; this many of them say the same.
_MOST_CANDIDATES = 400


def judge_run(surfaces: Surfaces) -> Judgement:
    """Every latency model of every component, on what `series_of` takes.

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
    timed is left out: no chained step is without a draft length of 2. Where rounds are graphs, head and step
    are graphs on their own.

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
    context, width = context_of(runs), DTYPE_BYTES[run.environment["dtype"]]
    found = []
    for component in (LM_HEAD, DRAFT_STEP, VERIFY):
        is_alone = _is_alone(run, component)
        times = times_of(runs, component) if is_alone else {}
        laps = {} if is_alone else _laps_of(runs, component)
        if not (times or laps) or (component == VERIFY and target is None):
            continue
        sizes = np.array(list(times or laps), dtype=np.int64)
        if component == VERIFY:
            assert target is not None
            work = verify_work(target, sizes, context, dtype_bytes=width)
        else:
            work = draft_work(draft, component, sizes, context, dtype_bytes=width)
        if is_alone:
            samples = [np.array(samples) for samples in times.values()]
            setting = f"isolated_{counted_cache(run.isolated)}_{GRAPH}"
            found.append(LatencySeries(component, work, samples, setting=setting))
        else:
            found.append(LatencySeries(component, work, *_grouped(laps.values())))
    return found


def times_of(runs: Sequence[Run], component: str) -> dict[int, list[float]]:
    """Samples in ms by size: k, or the tokens that a verification takes in."""
    found: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        if _is_alone(run, component):
            for size, samples in graph_samples(run)[component].items():
                found[size] += samples
        else:
            for size, blocks in _laps_of([run], component).items():
                found[size] += [time for _, samples in blocks for time in samples]
    return dict(sorted(found.items()))


def _is_alone(run: Run, component: str) -> bool:
    return component != VERIFY and run.execution == GRAPH


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


def context_of(runs: Sequence[Run]) -> int:
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
    gamma = surface.fastest.draft_length
    tau = surface.mean_acceptance_length[surface.draft_lengths.index(gamma)][columns]
    latency = surfaces.latency_as_met(domain)
    once = np.ones((1, latency.num_blocks))
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
            raise OutputError(f"{run.folder}: {component} was not timed; the same task=draft resumes it")
        work = draft_work(shape, component, np.array(list(times)), context, dtype_bytes=width)
        samples = [np.array(samples) for samples in times.values()]
        found.append(LatencySeries(component, work, samples, setting=draft.setting))
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
