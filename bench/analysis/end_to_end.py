"""Composed latency against measured whole models: the source's own end-to-end rows.

Comparable are dense models on one GPU, served by one engine, in a format that is tabulated: their time per
output token is a decode step of the batch, and the share of others' prefill that falls between two tokens of
a request: (batch - 1) prefills while it writes its answer. Where weights and keys do not fit into the memory,
the requests cannot all have run at once.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.cost.shape import Pass
from bench.errors import BenchError, ConfigError
from bench.gpu_tables.attention import Attention
from bench.gpu_tables.compose import ATTENTION, TableLatency
from bench.gpu_tables.ready import ready_pair
from bench.gpu_tables.target import Target
from bench.gpu_tables.tidy import TableKey, Tables
from bench.stats.robust import Floats
from bench.surface.lengths import of_profile
from bench.surface.rounds import Host, times_of

TRUTH_COLUMNS = [
    "model", "gpu", "engine", "version", "table_version", "dtype", "input_tokens", "output_tokens", "batch",
    "measured_ms", "step_ms", "step_fp8_keys_ms", "prefill_share", "composed_ms", "error", "error_fp8_keys",
    "note",
]  # fmt: skip

# Models of the rows whose sizes are at hand; Llama 3.1 and 3.3 of 70B have the same.
_MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B": "llama-3.3-70b",
    "Qwen/Qwen3-32B": "qwen3-32b",
}

_DTYPES = {"fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}

# Beyond it a row says more of prefill, and of how it is scheduled, than of decoding.
MOST_PREFILL = 0.5

_MEMORY_SHARE = 0.95


def end_to_end_rows(tables: Tables, latency: TableLatency, key: TableKey) -> list[tuple[Any, ...]]:
    """Rows that are comparable with one table, with `TRUTH_COLUMNS`; none of a source without any."""
    if tables.end_to_end.empty:
        return []
    rows = _comparable(tables.end_to_end, key)
    if rows.empty:
        return []
    narrow = _with_fp8_keys(tables, latency, key)
    prefill = _Prefill(tables, latency, key)
    return [_row(row, key, latency, narrow, prefill) for _, row in rows.iterrows()]


def _comparable(table: pd.DataFrame, key: TableKey) -> pd.DataFrame:
    dtype = table["gemm_quant_mode"].map(_DTYPES).where(table["gemm_quant_mode"].notna(), "bfloat16")
    on_one_gpu = (table["tp_size"] == 1) & (table["pp_size"] == 1) & (table["mode"] == "agg")
    here = (table["system"] == key.gpu) & (table["backend"] == key.engine) & (dtype == key.dtype)
    return table[on_one_gpu & here & table["model_path"].isin(_MODELS)]


def _row(
    row: pd.Series, key: TableKey, latency: TableLatency, narrow: TableLatency | None, prefill: "_Prefill"
) -> tuple[Any, ...]:
    name = _MODELS[str(row["model_path"])]
    target = ready_pair(name, "").target
    batch, inputs, outputs = int(row["batch_size"]), int(row["isl"]), int(row["osl"])
    run, whole = Pass(1, inputs + outputs // 2, batch), np.array([target.vocab_size])
    measured = float(row["silicon_tpot_ms"])
    versions = (row["backend_version"], key.version)
    place = (name, key.gpu, key.engine, *versions, key.dtype, inputs, outputs, batch)
    try:
        step = float(latency.pass_ms(target, run, whole)[0])
        with_fp8 = None if narrow is None else float(narrow.pass_ms(target, run, whole)[0])
        others = (batch - 1) * prefill.ms(target, inputs) / outputs
    except BenchError as error:
        return (*place, measured, None, None, None, None, None, None, str(error))
    composed = step + others
    share = others / composed
    narrower = None if with_fp8 is None else (with_fp8 + others) / measured - 1
    note = _note(latency, target, batch, inputs + outputs, share)
    return (*place, measured, step, with_fp8, share, composed, composed / measured - 1, narrower, note)


def _note(latency: TableLatency, target: Target, batch: int, length: int, share: float) -> str:
    """Why a row is not judged; empty where it is."""
    keys = 2 * 2 * target.num_layers * target.num_key_value_heads * target.head_dim * batch * length
    needed, memory = latency.weight_bytes(target) + keys, latency.gpu.memory_bytes
    if memory is not None and needed > _MEMORY_SHARE * memory:
        return "weights and 16-bit keys of so many requests do not fit into the memory"
    return "prefill of others is most of the time" if share > MOST_PREFILL else ""


def _with_fp8_keys(tables: Tables, latency: TableLatency, key: TableKey) -> TableLatency | None:
    """The same with keys in 8 bits, which servers of 8-bit weights often use and the rows do not say."""
    if key.dtype == "bfloat16":
        return None
    try:
        heads = Attention(tables.attention(key.gpu, key.engine), "fp8")
    except BenchError:
        return None
    return TableLatency(latency.gpu, latency.layers, latency.wide, heads, origin=latency.origin)


class _Prefill:
    """Time of a whole prompt on its own."""

    def __init__(self, tables: Tables, latency: TableLatency, key: TableKey):
        self._latency = latency
        self._rows: pd.DataFrame | None = None
        with suppress(ConfigError):
            self._rows = tables.attention(key.gpu, key.engine, is_context=True)

    def ms(self, target: Target, num_tokens: int) -> float:
        parts = self._latency.parts(target, Pass(num_tokens, 0, 1))
        attention = self._attention(target, num_tokens)
        return sum(part.ms for name, part in parts.items() if name != ATTENTION) + attention

    def _attention(self, target: Target, num_tokens: int) -> float:
        if self._rows is None:
            return 0.0
        rows = self._rows
        wanted = {
            "batch": 1, "query_heads": target.num_attention_heads, "window": 0, "kv_dtype": "bfloat16",
            "key_value_heads": target.num_key_value_heads, "head_dim": target.head_dim,
        }  # fmt: skip
        here = np.logical_and.reduce([rows[name] == value for name, value in wanted.items()])
        found = rows[here].groupby("tokens")["latency_ms"].median().sort_index()
        if found.empty:
            return 0.0
        tokens: Floats = np.log(found.index.to_numpy(float))
        one = np.exp(np.interp(np.log(num_tokens), tokens, np.log(found.to_numpy(float))))
        return float(one) * target.num_layers


ROUND_COLUMNS = [
    "pair", "gpu", "engine", "vocab_size", "draft_length", "mean_acceptance_length", "token_ms", "round_ms",
    "kernels_ms", "beyond_ms", "source",
]  # fmt: skip


def published_rounds(name: str, latency: TableLatency, key: TableKey) -> pd.DataFrame:
    """Published times of a ready pair's speculative rounds against their kernels, with `ROUND_COLUMNS`.

    A draft length of 0 is plain decoding.

    Args:
        name: of a ready pair with published rounds.
        latency: of the GPU and engine that they were published of.
        key: of its table.
    """
    pair = ready_pair(name, "")
    known, profile = pair.rounds, pair.profile
    assert known is not None and profile is not None
    lengths = of_profile(profile, pair.draft, name)
    size, context = int(known["vocab_size"]), int(known["context"])
    at_sizes = replace(lengths, sizes=np.array([size, pair.draft.vocab_size]))
    times = times_of(latency, pair.draft, pair.target, at_sizes, 1, context)
    kernels = times.rounds(np.array(lengths.draft_lengths, dtype=float), Host())[:, 0]
    place, source = (name, key.gpu, key.engine, size), known["source"]
    plain = float(known["plain_ms"])
    rows = [(*place, 0, 1.0, plain, plain, times.plain, plain - times.plain, source)]
    for gamma, kernel_ms in zip(lengths.draft_lengths, kernels.tolist(), strict=True):
        token, tau = float(known["token_ms"][gamma]), float(profile["mean_acceptance_length"][gamma])
        rows.append((*place, gamma, tau, token, token * tau, kernel_ms, token * tau - kernel_ms, source))
    return pd.DataFrame(rows, columns=ROUND_COLUMNS)


def host_of(rounds: pd.DataFrame) -> Host | None:
    """What published rounds have beyond their kernels: per pass, per round and per further drafted token.

    None where there are fewer than three draft lengths.
    """
    drafted = rounds[rounds["draft_length"] > 0]
    plain = rounds[rounds["draft_length"] == 0]
    if len(drafted) < 3 or plain.empty:
        return None
    chained = drafted["draft_length"].to_numpy(float) - 1
    slope, start = np.polyfit(chained, drafted["beyond_ms"].to_numpy(float), 1)
    each, start, slope = (max(float(value), 0.0) for value in (plain["beyond_ms"].iloc[0], start, slope))
    return Host(each, start, slope, f"work of the host as in {drafted['source'].iloc[0]}")


def judged_rows(truth: pd.DataFrame) -> pd.DataFrame:
    """Those that are judged."""
    return truth[(truth["note"] == "") & truth["error"].notna()]


def truth_summary(truth: pd.DataFrame) -> pd.DataFrame:
    """Errors by model, GPU, engine and dtype, of all rows that are judged and of those of decoding.

    Of decoding are those whose prefill of others is at most a tenth of the time.

    Columns: model, gpu, engine, dtype, num_rows, median_error, median_absolute_error, worst_absolute_error,
    median_absolute_error_fp8_keys, num_decode_rows, decode_median_absolute_error, step_median_error (of the
    decode step alone, without the prefill of others), between_share (of rows whose measured time lies between
    0.9 of the step alone and 1.1 of the step with all prefill).
    """
    found = []
    for place, rows in judged_rows(truth).groupby(["model", "gpu", "engine", "dtype"], sort=True):
        errors, narrow = rows["error"].astype(float), rows["error_fp8_keys"].astype(float)
        decode = rows[rows["prefill_share"].astype(float) <= 0.1]
        step_error = (rows["step_ms"].astype(float) / rows["measured_ms"] - 1).median()
        above = rows["measured_ms"] >= 0.9 * rows["step_ms"].astype(float)
        between = above & (rows["measured_ms"] <= 1.1 * rows["composed_ms"].astype(float))
        found.append((
            *place, len(rows), errors.median(), errors.abs().median(), errors.abs().max(),
            narrow.abs().median(), len(decode), decode["error"].astype(float).abs().median(), step_error,
            float(between.mean()),
        ))  # fmt: skip
    names = [
        "model", "gpu", "engine", "dtype", "num_rows", "median_error", "median_absolute_error",
        "worst_absolute_error", "median_absolute_error_fp8_keys", "num_decode_rows",
        "decode_median_absolute_error", "step_median_error", "between_share",
    ]  # fmt: skip
    return pd.DataFrame(found, columns=names)
