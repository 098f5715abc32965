"""The drafts of measured runs on published GPUs, and the error of tables on a GPU that was measured here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.analysis.findings import Findings
from bench.analysis.fit import context_of
from bench.analysis.gpus import compose
from bench.analysis.hardware import draft_shape_of
from bench.analysis.published import products_of
from bench.analysis.run import EAGER, GRAPH, Run
from bench.analysis.transfer import step_medians
from bench.cost.shape import DraftShape, Pass
from bench.errors import BenchError
from bench.fit.series import DRAFT_STEP, LM_HEAD
from bench.gpu_tables.compose import TableLatency
from bench.gpu_tables.tidy import Tables
from bench.records import ProbeRecord
from bench.variant import EXTEND, HEAD, LAYER, PREFILL, SELECT, VERIFY

MEASURED, PUBLISHED = "measured here", "published by others"

STEP_COLUMNS = [
    "pair", "device", "origin", "engine", "version", "dtype", "vocab_size", "draft_step_ms", "share_of_full",
    "basis",
]  # fmt: skip

ERROR_COLUMNS = [
    "pair", "device", "gpu", "engine", "version", "part", "setting", "execution", "vocab_size", "measured_ms",
    "published_ms", "error",
]  # fmt: skip

ROUND_COLUMNS = [
    "pair", "device", "vocab_size", "draft_length", "measured_ms", "composed_ms", "error",
    "drafting_measured_ms", "drafting_composed_ms", "drafting_error", "num_rounds",
]  # fmt: skip

_ENGINE, _DTYPE = "vllm", "bfloat16"


@dataclass(frozen=True)
class PublishedBeside:
    """Published GPUs beside measured runs.

    Attributes:
        steps: a chained draft step of every measured size, measured and composed, with `STEP_COLUMNS`.
        errors: LM heads on their own and draft steps inside rounds against the tables of the same GPU, with
            `ERROR_COLUMNS`; empty where no run is of a published GPU in 16 bits.
        rounds: rounds composed of parts on their own against measured ones, with `ROUND_COLUMNS`.
        origin: of the tables.
        reasons: why a draft or a GPU is missing.
    """

    steps: pd.DataFrame
    errors: pd.DataFrame
    rounds: pd.DataFrame
    origin: str
    reasons: Sequence[str]


def published_beside(runs: Sequence[Findings], tables: Tables) -> PublishedBeside:
    """Composes the draft of every measured pair on every published GPU, at the sizes that were measured."""
    steps: list[tuple] = []
    errors: list[tuple] = []
    reasons: list[str] = []
    by_pair: dict[str, list[Findings]] = {}
    for found in runs:
        by_pair.setdefault(str(found.run.environment["pair"]), []).append(found)
    for pair, of_pair in by_pair.items():
        shape = draft_shape_of(of_pair[0].run)
        if shape is None:
            reasons.append(f"{pair}: the run does not say the shape of its draft")
            continue
        measured = {found.label: _steps(found.run) for found in of_pair}
        for found in of_pair:
            dtype = found.run.environment["dtype"]
            place = (pair, found.label, MEASURED, "", "", dtype)
            steps += _rows(place, measured[found.label], "measured")
        sizes = sorted({size for times in measured.values() for size in times})
        if not sizes:
            reasons.append(f"{pair}: no chained draft step was measured")
            continue
        context = context_of([found.run for found in of_pair])
        for name in tables.gpus:
            try:
                latency = _latency(tables, name)
                rows, basis = _composed(latency, shape, context, sizes)
            except BenchError as error:
                reasons.append(f"{pair} on {name}: {error}")
                continue
            key = latency.wide.key
            steps += _rows((pair, name, PUBLISHED, key.engine, key.version, key.dtype), rows, basis)
            for found in of_pair:
                errors += _errors(found, pair, shape, latency, context)
    return PublishedBeside(
        pd.DataFrame(steps, columns=STEP_COLUMNS),
        pd.DataFrame(errors, columns=ERROR_COLUMNS),
        round_frame(runs),
        f"{tables.origin} ({tables.licence})",
        reasons,
    )


def round_frame(runs: Sequence[Findings]) -> pd.DataFrame:
    """Rounds composed of parts timed on their own, cold, against probed rounds, with `ROUND_COLUMNS`.

    It is what a composition from tables does, on the machine of the run. A round without its share of the
    prompt: gamma heads and selections, gamma - 1 layers between them, verification and extension; the host's
    own work, which is in no part, is not composed. Empty where no part was timed on its own.
    """
    rows: list[tuple] = []
    for found in runs:
        alone = _alone(found)
        place = (str(found.run.environment["pair"]), found.label)
        by_case: dict[tuple[int, int], list[ProbeRecord]] = {}
        for probes in found.run.probes.values():
            for probe in probes:
                by_case.setdefault((probe.vocab_size, probe.draft_length), []).append(probe)
        for (size, gamma), probes in sorted(by_case.items()):
            if (
                gamma < 1
                or not {(HEAD, size), (SELECT, size), (VERIFY, gamma), (EXTEND, gamma)} <= alone.keys()
            ):
                continue
            drafting = gamma * (alone[HEAD, size] + alone[SELECT, size]) + (gamma - 1) * alone[LAYER, None]
            composed = drafting + alone[VERIFY, gamma] + alone[EXTEND, gamma]
            whole = float(np.median([_per_round(probe, None) for probe in probes]))
            # A chain that is one graph has no laps inside.
            is_split = all(HEAD in probe.laps_ms for probe in probes)
            parts = (HEAD, SELECT, LAYER)
            drafted = float(np.median([_per_round(p, parts) for p in probes])) if is_split else float("nan")
            rows.append((
                *place, size, gamma, whole, composed, composed / whole - 1, drafted, drafting,
                drafting / drafted - 1, sum(len(probe.laps_ms[VERIFY]) for probe in probes),
            ))  # fmt: skip
    return pd.DataFrame(rows, columns=ROUND_COLUMNS)


def round_sentence(rounds: pd.DataFrame) -> str:
    """How well parts add up to rounds; empty where none could be composed."""
    if rounds.empty:
        return ""
    whole, drafting = rounds["error"].abs(), rounds["drafting_error"]
    by_size = drafting.groupby(rounds["vocab_size"]).median()
    return (
        f"Rounds of these runs, composed of parts timed on their own with a cold cache: off by "
        f"{whole.median():.1%} in the median and {whole.max():.1%} at most over {len(rounds)} settings of "
        f"{rounds['num_rounds'].min()} to {rounds['num_rounds'].max()} rounds. The drafting in them alone: "
        f"{by_size.iloc[0]:+.0%} at k = {by_size.index[0]:,}, {by_size.iloc[-1]:+.0%} at "
        f"k = {by_size.index[-1]:,} (medians). Parts on their own leave out what the host does between them, "
        "and read weights again that a round may keep in a cache."
    )


def _alone(found: Findings) -> dict[tuple[str, int | None], float]:
    """Parts on their own, cold and executed as rounds are, by part and k or gamma, if it has one."""
    table = found.latency
    is_cold = table["setting"].str.startswith("isolated_cold")
    # Compiled layers are called one by one, as eager ones are.
    executed = GRAPH if found.run.execution == GRAPH else EAGER
    chosen = table[is_cold & (table["execution"] == executed)]
    alone: dict[tuple[str, int | None], float] = {}
    for part, size, gamma, ms in chosen[["part", "vocab_size", "draft_length", "median_ms"]].itertuples(
        index=False, name=None
    ):
        at = size if not pd.isna(size) else gamma
        alone[part, None if pd.isna(at) else int(at)] = float(ms)
    return alone


def _per_round(probe: ProbeRecord, parts: tuple[str, ...] | None) -> float:
    """Mean time of a probe's round in ms, of some parts or of all but the prompt's."""
    laps = probe.laps_ms
    named = [name for name in laps if name != PREFILL and (parts is None or name in parts)]
    # The first round has nothing to take in before it.
    rounds = len(laps[VERIFY])
    return sum(sum(laps[name]) / (len(laps[name]) if name == EXTEND else rounds) for name in named)


def _steps(run: Run) -> dict[int, float]:
    return {size: estimate.value for size, estimate in step_medians([run]).items()}


def _latency(tables: Tables, gpu: str) -> TableLatency:
    wide = products_of(tables, tables.find(gpu, _ENGINE, _DTYPE))
    return compose(tables, tables, wide, wide)


def _composed(
    latency: TableLatency, shape: DraftShape, context: int, sizes: Sequence[int]
) -> tuple[dict[int, float], str]:
    run = Pass(1, context, 1)
    step_ms = latency.pass_ms(shape, run, np.array(sizes))
    basis = latency.head_basis(shape, run, sizes[-1])
    return dict(zip(sizes, step_ms.tolist(), strict=True)), basis.value


def _rows(place: tuple, times: dict[int, float], basis: str) -> list[tuple]:
    full = times[max(times)] if times else float("nan")
    return [(*place, size, ms, ms / full, basis) for size, ms in sorted(times.items())]


def _errors(
    found: Findings, pair: str, shape: DraftShape, latency: TableLatency, context: int
) -> list[tuple]:
    """Tables against a run of the same GPU; none of another one."""
    environment = found.run.environment
    is_here = environment["device_name"] == latency.gpu.device_name
    if not is_here or environment["dtype"] not in ("bfloat16", "float16"):
        return []
    rows, key, run = [], latency.wide.key, Pass(1, context, 1)
    table = found.latency
    for part, start, published in (
        (LM_HEAD, "isolated_cold", latency.head_ms),
        (DRAFT_STEP, "in_situ", latency.pass_ms),
    ):
        chosen = table[(table["part"] == part) & table["setting"].str.startswith(start)]
        if (chosen["execution"] == "graph").any():
            # As published ones are.
            chosen = chosen[chosen["execution"] == "graph"]
        medians = chosen.groupby(["setting", "execution", "vocab_size"], as_index=False)["median_ms"].median()
        for setting, execution, size, ms in medians.itertuples(index=False, name=None):
            there = float(published(shape, run, np.array([int(size)]))[0])
            place = (pair, found.label, key.gpu, key.engine, key.version, part, setting, execution, int(size))
            rows.append((*place, ms, there, there / ms - 1))
    return rows
