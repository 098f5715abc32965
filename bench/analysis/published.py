"""What published tables are worth: how well each is predicted where it is left out, and what is doubtful.

Every figure is of others' measurements, and named with GPU, engine and version.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.config.gpu import match
from bench.cost.hardware import HardwareSpec
from bench.fit.fitting import held_out_errors
from bench.fit.models import Monotone, all_models
from bench.fit.series import LM_HEAD, LatencySeries, Work
from bench.gpu_tables.products import Products, Slice, moved_bytes
from bench.gpu_tables.tidy import WEIGHT_BYTES, Gpu, TableKey, Tables
from bench.stats.robust import Floats

# Hidden sizes of common targets, and tokens of a step or a verification.
WIDTHS = (2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192)

TOKENS = (1, 4, 16, 128)

# Smaller vocabularies than this cost a launch.
LEAST_ROWS = 512

# Above it a model is said to miss a table.
GOAL, WORST = 0.05, 0.08

ERROR_COLUMNS = [
    "gpu", "engine", "version", "dtype", "row_error", "size_error", "beyond_error", "worst_row_error",
    "warm_share", "contradicting_share", "largest_rate_over_memory", "num_rows",
]  # fmt: skip

MODEL_COLUMNS = [
    "gpu", "engine", "version", "dtype", "hidden_size", "tokens", "model", "error", "worst_error", "note",
]  # fmt: skip

SAVING_COLUMNS = [
    "gpu", "engine", "version", "dtype", "hidden_size", "tokens", "rows", "of_rows", "by_flops", "tabulated",
    "fitted", "basis",
]  # fmt: skip

FLAG_COLUMNS = [
    "gpu", "engine", "version", "dtype", "tokens", "outputs", "inputs", "latency_ms", "bytes_per_s", "doubt",
]  # fmt: skip

REPEAT_COLUMNS = ["gpu", "first", "second", "difference", "num_rows"]


def hardware_of_gpu(gpu: Gpu, dtype: str) -> HardwareSpec | None:
    """Data sheet of a GPU of the tables: of `conf/gpu` where its device is known, else the source's own."""
    known = None if gpu.device_name is None else match(gpu.device_name)
    if known is not None and known.peak(dtype) is not None:
        return known
    if gpu.memory_bytes_per_s is None:
        return known
    return HardwareSpec(
        name=gpu.name,
        source=gpu.origin,
        name_pattern=None,
        peak_flops_per_s=gpu.peak_flops_per_s,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        cache_bytes=None if known is None else known.cache_bytes,
        memory_bytes=None if gpu.memory_bytes is None else int(gpu.memory_bytes),
        num_multiprocessors=None if known is None else known.num_multiprocessors,
    )


def products_of(tables: Tables, key: TableKey) -> Products:
    """The look-up in one table; fp8 as checkpoints with fixed scales run it."""
    scales = tables.scales(key.gpu, key.engine) if key.dtype == "fp8" else None
    return Products(key, tables.products(key), tables.gpus[key.gpu].memory_bytes_per_s, scales)


@dataclass(frozen=True)
class TableErrors:
    """How well a table is predicted where it is left out, over `TOKENS` and `WIDTHS`; shares of the latency.

    Attributes:
        row: mean, of a product whose row is left out.
        size: mean, of a number of outputs that is left out at every width.
        beyond: mean, of the two largest numbers of outputs from all that are at least three times smaller.
        worst_row: largest mean over the tokens.
        warm: share of rows that are faster than memory.
        contradicting: share of rows that contradict their neighbours.
        rate_over_memory: largest rate of a row over the memory's; None where that is unknown.
        num_rows: that were judged.
    """

    row: float
    size: float
    beyond: float
    worst_row: float
    warm: float
    contradicting: float
    rate_over_memory: float | None
    num_rows: int


def table_errors(table: Products, memory_bytes_per_s: float | None) -> TableErrors:
    """Judges one table.

    Raises:
        FitError: it has too few rows at every number of tokens.
    """
    slices = [table.slice(int(m)) for m in TOKENS if m in table.tokens]
    if not slices:
        slices = [table.slice(int(m)) for m in table.tokens[:4]]
    rows, sizes, beyond, count = [], [], [], 0
    for one in slices:
        left_out = one.left_out
        common = np.isin(left_out.k, WIDTHS) & (left_out.n >= LEAST_ROWS)
        if not common.any():
            common = np.ones(len(left_out.n), bool)
        count += int(common.sum())
        rows.append(float(np.abs(left_out.row_errors[common]).mean()))
        sizes.append(float(np.abs(left_out.size_errors[common]).mean()))
        beyond.append(_beyond(one))
    weight_bytes = WEIGHT_BYTES[table.key.dtype]
    rates = [float((one.n * one.k * weight_bytes / (one.ms / 1e3)).max()) for one in slices]
    return TableErrors(
        row=float(np.mean(rows)),
        size=float(np.mean(sizes)),
        beyond=float(np.nanmean(beyond)) if not np.isnan(beyond).all() else float(np.mean(sizes)),
        worst_row=max(rows),
        warm=float(np.mean(np.concatenate([one.is_warm for one in slices]))),
        contradicting=float(np.mean(np.concatenate([one.contradicts for one in slices]))),
        rate_over_memory=None if memory_bytes_per_s is None else max(rates) / memory_bytes_per_s,
        num_rows=count,
    )


def _beyond(one: Slice) -> float:
    """Mean error of the two largest numbers of outputs, predicted from those up to a third of the smaller."""
    sizes = np.unique(one.n)
    if len(sizes) < 6:
        return float("nan")
    least = sizes[-2]
    return one.error_beyond(int(least / 3), [int(size) for size in sizes[-2:]], WIDTHS)


def error_frame(found: Iterable[tuple[TableKey, TableErrors]]) -> pd.DataFrame:
    """One row per table, with `ERROR_COLUMNS`."""
    rows = [
        (
            key.gpu, key.engine, key.version, key.dtype, errors.row, errors.size, errors.beyond,
            errors.worst_row, errors.warm, errors.contradicting, errors.rate_over_memory, errors.num_rows,
        )
        for key, errors in found
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=ERROR_COLUMNS)


def head_work(n: NDArray[np.int64], tokens: int, hidden_size: int, weight_bytes: float) -> Work:
    """Work of an LM head of each number of rows."""
    sizes = np.asarray(n, dtype=np.int64)
    weights = sizes.astype(np.float64) * hidden_size
    moved = moved_bytes(tokens, sizes, np.full_like(sizes, hidden_size), weight_bytes)
    return Work(sizes, 2 * tokens * weights, 2 * tokens * weights, weight_bytes * weights, moved)


def head_series(table: Products, tokens: int, hidden_size: int) -> LatencySeries | None:
    """Tabulated LM heads of one hidden size; None where there are fewer than six that are not warm."""
    one = table.slice(tokens)
    kept = (one.k == hidden_size) & (one.n >= LEAST_ROWS) & ~one.is_warm
    if kept.sum() < 6:
        return None
    order = np.argsort(one.n[kept])
    n, ms = one.n[kept][order], one.ms[kept][order]
    work = head_work(n, tokens, hidden_size, WEIGHT_BYTES[table.key.dtype])
    return LatencySeries(LM_HEAD, work, [np.array([value]) for value in ms])


def model_frame(
    tables: Tables, keys: Sequence[TableKey], widths: Sequence[int], look_up: dict[TableKey, Products]
) -> pd.DataFrame:
    """Errors of every latency model on sizes that it did not see, with `MODEL_COLUMNS`.

    Models see the sizes of one hidden size and number of tokens; the last row of each is the surface, which
    sees all widths but no row of the size.
    """
    rows = []
    for key in keys:
        table, spec = look_up[key], hardware_of_gpu(tables.gpus[key.gpu], key.dtype)
        limits = None if spec is None else spec.limits(key.dtype)
        for hidden in widths:
            for tokens in TOKENS:
                if tokens not in table.tokens:
                    continue
                series = head_series(table, tokens, hidden)
                if series is None:
                    continue
                place = (key.gpu, key.engine, key.version, key.dtype, hidden, tokens)
                for model in all_models(limits):
                    errors = held_out_errors(model, series)
                    note = "" if errors is not None else (model.why_not(series.work) or "too few sizes")
                    mean, worst = (None, None) if errors is None else _mean_and_worst(errors)
                    rows.append((*place, model.label, mean, worst, note))
                mean, worst = _mean_and_worst(_surface_errors(table.slice(tokens), hidden))
                rows.append((*place, SURFACE, mean, worst, ""))
    return pd.DataFrame(rows, columns=MODEL_COLUMNS)


SURFACE = "surface over all widths"


def _mean_and_worst(errors: Floats) -> tuple[float, float]:
    return float(np.abs(errors).mean()), float(np.abs(errors).max())


def _surface_errors(one: Slice, hidden_size: int) -> Floats:
    left_out = one.left_out
    return left_out.size_errors[(left_out.k == hidden_size) & (left_out.n >= LEAST_ROWS)]


def saving_frame(
    keys: Sequence[TableKey], hidden_size: int, look_up: dict[TableKey, Products]
) -> pd.DataFrame:
    """What a smaller LM head saves, by FLOPs and by the tables, with `SAVING_COLUMNS`.

    Of 65,536 rows, the largest that is tabulated, at one token; None where a row is not.
    """
    rows, of_rows = [], 65_536
    for key in keys:
        table = look_up[key]
        for size in (2048, 8192, 16_384):
            low, high = (table.at(1, n, hidden_size) for n in (size, of_rows))
            fitted = table.curve(1, np.array([size, of_rows]), hidden_size)
            bases = {low.basis.value, high.basis.value}
            tabulated = 1 - low.ms / high.ms if bases == {"exact"} else None
            place = (key.gpu, key.engine, key.version, key.dtype, hidden_size, 1, size, of_rows)
            basis = "exact" if bases == {"exact"} else "interpolated"
            rows.append((*place, 1 - size / of_rows, tabulated, 1 - float(fitted[0] / fitted[1]), basis))
    return pd.DataFrame(rows, columns=SAVING_COLUMNS)


def flag_frame(keys: Sequence[TableKey], look_up: dict[TableKey, Products]) -> pd.DataFrame:
    """Rows that are doubtful and why, at `TOKENS` and `WIDTHS`, with `FLAG_COLUMNS`."""
    rows = []
    for key in keys:
        weight_bytes = WEIGHT_BYTES[key.dtype]
        for tokens in TOKENS:
            if tokens not in look_up[key].tokens:
                continue
            one = look_up[key].slice(tokens)
            doubtful = (one.is_warm | one.contradicts) & np.isin(one.k, WIDTHS) & (one.n >= LEAST_ROWS)
            for place in np.flatnonzero(doubtful):
                n, k, ms = int(one.n[place]), int(one.k[place]), float(one.ms[place])
                rate = n * k * weight_bytes / ms * 1e3
                rows.append(
                    (
                        key.gpu,
                        key.engine,
                        key.version,
                        key.dtype,
                        tokens,
                        n,
                        k,
                        ms,
                        rate,
                        one.doubt(int(place)),
                    )
                )
    return pd.DataFrame(rows, columns=FLAG_COLUMNS)


def repeat_frame(tables: Tables, keys: Sequence[TableKey]) -> pd.DataFrame:
    """How far two engines' rows of the same shape are apart, which bounds every model.

    The difference is the mean of the absolute log ratio. In bfloat16 both engines call the vendor's library,
    so that most of it is the measurement.

    Args:
        tables: the source.
        keys: of one GPU and dtype.
    """
    rows, columns = [], ["m", "n", "k", "latency_ms"]
    for first, second in combinations(keys, 2):
        pair = tables.products(first)[columns].merge(tables.products(second)[columns], on=columns[:3])
        pair = pair[pair["m"].isin(TOKENS) & pair["k"].isin(WIDTHS) & (pair["n"] >= LEAST_ROWS)]
        apart = np.abs(np.log(pair["latency_ms_x"] / pair["latency_ms_y"]))
        rows.append((first.gpu, first.engine, second.engine, float(apart.mean()), len(pair)))
    return pd.DataFrame(rows, columns=REPEAT_COLUMNS)


def what_is_missing(models: pd.DataFrame, errors: pd.DataFrame, dtype: str = "bfloat16") -> list[str]:
    """One sentence per GPU: what t0 + B/W lacks there."""
    found = []
    for gpu, rows in models[models["dtype"] == dtype].groupby("gpu", sort=True):
        by_model = rows.groupby("model")["error"].mean()
        affine = by_model.get("t0 + B/W")
        if affine is None:
            continue
        of_gpu = errors[(errors["gpu"] == gpu) & (errors["dtype"] == dtype)]
        found.append(f"{gpu}: {_missing(by_model, float(affine), of_gpu)}.")
    return found


def _missing(by_model: pd.Series, affine: float, errors: pd.DataFrame) -> str:
    named = {
        "t0 + B/W + idle part of the last wave": "the last wave of blocks, which does not fill the GPU",
        "t0 + B/W, two W around the cache": "a cache of the data sheet's size",
        "t0 + B/W, two W around a fitted cache": "a second, slower rate beyond some size",
        Monotone.label: "steps that no smooth law has, where kernels change with the size",
        SURFACE: "what other widths show of the same size range",
    }
    known = {
        label: float(by_model[label]) for label in named if label in by_model and not pd.isna(by_model[label])
    }
    text = f"t0 + B/W is off by {affine:.1%} on sizes left out"
    physical = {label: error for label, error in known.items() if label not in (Monotone.label, SURFACE)}
    if physical:
        best = min(physical, key=physical.__getitem__)
        if physical[best] < 0.9 * affine:
            text += f"; {named[best]}, explains part of it ({physical[best]:.1%})"
        else:
            text += "; neither waves nor a cache explain it"
    if known.get(SURFACE, 1.0) < affine:
        text += f"; the surface over all widths is off by {known[SURFACE]:.1%}"
    warm = float(errors["warm_share"].max()) if len(errors) else 0.0
    if warm > 0.01:
        text += f"; up to {warm:.0%} of a table's rows are faster than memory and left out as warm"
    return text
