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
from bench.analysis.run import Run
from bench.analysis.transfer import step_medians
from bench.cost.shape import DraftShape, Pass
from bench.errors import BenchError
from bench.fit.series import DRAFT_STEP, LM_HEAD
from bench.gpu_tables.compose import TableLatency
from bench.gpu_tables.tidy import Tables

MEASURED, PUBLISHED = "measured here", "published by others"

STEP_COLUMNS = [
    "pair", "device", "origin", "engine", "version", "dtype", "vocab_size", "draft_step_ms", "share_of_full",
    "basis",
]  # fmt: skip

ERROR_COLUMNS = [
    "pair", "device", "gpu", "engine", "version", "part", "setting", "execution", "vocab_size", "measured_ms",
    "published_ms", "error",
]  # fmt: skip

_ENGINE, _DTYPE = "vllm", "bfloat16"


@dataclass(frozen=True)
class PublishedBeside:
    """Published GPUs beside measured runs.

    Attributes:
        steps: a chained draft step of every measured size, measured and composed, with `STEP_COLUMNS`.
        errors: LM heads on their own and draft steps inside rounds against the tables of the same GPU, with
            `ERROR_COLUMNS`; empty where no run is of a published GPU in 16 bits.
        origin: of the tables.
        reasons: why a draft or a GPU is missing.
    """

    steps: pd.DataFrame
    errors: pd.DataFrame
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
        f"{tables.origin}, {tables.licence}",
        reasons,
    )


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
    for part, setting, published in (
        (LM_HEAD, "isolated_cold", latency.head_ms),
        (DRAFT_STEP, "in_situ", latency.pass_ms),
    ):
        chosen = found.latency[(found.latency["part"] == part) & (found.latency["setting"] == setting)]
        medians = chosen.groupby(["execution", "vocab_size"], as_index=False)["median_ms"].median()
        for execution, size, ms in medians.itertuples(index=False, name=None):
            there = float(published(shape, run, np.array([int(size)]))[0])
            place = (pair, found.label, key.gpu, key.engine, key.version, part, setting, execution, int(size))
            rows.append((*place, ms, there, there / ms - 1))
    return rows
