"""The latency models of a run: series from its probes, goals from its surface, judgement, `fit.json`."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.errors import OutputError
from bench.fit.choice import Goal, SpeedGoal, UtilityGoal
from bench.fit.errors import FitError
from bench.fit.fit_json import to_json
from bench.fit.judge import Judgement, judge
from bench.fit.series import (
    DRAFT_STEP,
    DTYPE_BYTES,
    LM_HEAD,
    VERIFY,
    LatencySeries,
    draft_work,
    verify_work,
)
from bench.records import DecodeRecord
from bench.report.frames import Run
from bench.report.hardware import draft_shape_of, hardware_of, target_shape_of
from bench.report.latency import step_samples
from bench.report.summary import held_out_tokens
from bench.report.surfaces import Surfaces

FILE_NAME = "fit.json"
# Goals look at every size at which acceptance changes; this many of them tell the same.
_MOST_CANDIDATES = 400


def judge_run(surfaces: Surfaces) -> Judgement:
    """Every latency model of every component, on what was timed inside real rounds.

    What a wrong model would lose is judged on the first domain.

    Raises:
        FitError: the run does not say the shape of its draft.
    """
    run = surfaces.run
    spec, dtype = hardware_of(run), run.environment["dtype"]
    components = {}
    for series in series_of([run]):
        goals = _goals(surfaces, series)
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
        times = times_of(runs, component)
        if not times or (component == VERIFY and target is None):
            continue
        sizes = np.array(list(times), dtype=np.int64)
        if component == VERIFY:
            assert target is not None
            work = verify_work(target, sizes, context, dtype_bytes=width)
        else:
            work = draft_work(draft, component, sizes, context, dtype_bytes=width)
        found.append(LatencySeries(component, work, [np.array(samples) for samples in times.values()]))
    return found


def times_of(runs: Sequence[Run], component: str) -> dict[int, list[float]]:
    """Samples in ms by size: k, or the tokens that a verification takes in."""
    found: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for probes in run.probes.values():
            for probe in probes:
                samples = step_samples(probe.laps_ms, probe.draft_length)
                size = probe.draft_length + 1 if component == VERIFY else probe.vocab_size
                found[size] += samples.get(component, [])
    return {size: samples for size, samples in sorted(found.items()) if samples}


def _context(runs: Sequence[Run]) -> int:
    """Mean number of positions held while decoding."""
    records: list[DecodeRecord] = []
    for run in runs:
        records += [
            r for keys in run.decodes.values() for by_prompt in keys.values() for r in by_prompt.values()
        ]
    return int(np.mean([record.num_prompt_tokens + len(record.token_ids) / 2 for record in records]))


def _goals(surfaces: Surfaces, series: LatencySeries) -> dict[str, Goal]:
    """What k is chosen for: speed with the replayed acceptance, and the paper's utility."""
    if series.component == VERIFY:
        return {}
    run, domain = surfaces.run, next(iter(surfaces.run.decodes))
    surface, sizes = surfaces.of(domain), series.work.sizes
    candidates = surface.sizes[(surface.sizes >= sizes[0]) & (surface.sizes <= sizes[-1])]
    candidates = candidates[:: max(1, len(candidates) // _MOST_CANDIDATES)]
    candidates = np.union1d(candidates, sizes[[0, -1]])
    columns = [surface.column(int(size)) for size in candidates]
    gamma = surface.best[1]
    tau = surface.mean_acceptance_length[surface.draft_lengths.index(gamma)][columns]
    latency = surfaces.latency[domain]
    once = np.ones((1, len(latency.prompts)))
    full_ms = float(latency.round_ms(gamma, sizes[-1:], once)[0, 0])
    # A round of gamma drafts has gamma heads, and one chained step less than that.
    runs_per_round = gamma if series.component == LM_HEAD else gamma - 1
    other_ms = max(0.0, full_ms - runs_per_round * float(series.medians_ms[-1]))
    goals: dict[str, Goal] = {}
    if runs_per_round:
        goals["speed"] = SpeedGoal(candidates, 1 / tau, runs_per_round, other_ms)
    ranking = run.rankings[run.plans[domain].source]
    coverage = ranking.coverage_of(held_out_tokens(run, domain))[candidates - 1]
    goals["utility"] = UtilityGoal(candidates, coverage, float(run.config["select"]["coverage_weight"]))
    return goals
