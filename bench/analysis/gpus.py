"""A pair on every published GPU: what to use where, what that rests on, and what the tables are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.end_to_end import (
    ROUND_COLUMNS,
    TRUTH_COLUMNS,
    end_to_end_rows,
    host_of,
    published_rounds,
)
from bench.analysis.parallel import in_parallel
from bench.analysis.published import (
    ERROR_COLUMNS,
    FLAG_COLUMNS,
    LEAST_ROWS,
    MODEL_COLUMNS,
    REPEAT_COLUMNS,
    SAVING_COLUMNS,
    WIDTHS,
    TableErrors,
    error_frame,
    flag_frame,
    model_frame,
    products_of,
    repeat_frame,
    saving_frame,
    table_errors,
)
from bench.analysis.schedules import SCHEDULE_COLUMNS, modelled_schedules
from bench.cost.shape import Pass
from bench.errors import BenchError, ConfigError, FitError
from bench.gpu_tables.attention import Attention
from bench.gpu_tables.compose import TableLatency, model_bytes, worst
from bench.gpu_tables.experts import ExpertTable
from bench.gpu_tables.products import Basis, Products
from bench.gpu_tables.ready import Pair, ready_names, ready_pair
from bench.gpu_tables.tidy import TableKey, Tables
from bench.surface.lengths import Lengths
from bench.surface.rounds import Choice, Errors, Host, Times, choose, times_of

CHOICE_COLUMNS = [
    "gpu", "engine", "version", "dtype", "batch", "context", "host", "vocab_size", "vocab_size_ci_low",
    "vocab_size_ci_high", "draft_length", "mean_acceptance_length", "speedup_vs_plain",
    "speedup_vs_plain_ci_low", "speedup_vs_plain_ci_high", "speedup_vs_full_vocab",
    "speedup_vs_full_vocab_ci_low", "speedup_vs_full_vocab_ci_high", "full_vocab_draft_length",
    "trimming_pays", "plain_token_ms", "draft_step_ms", "full_draft_step_ms", "full_lm_head_ms",
    "flops_vocab_size", "flops_loss", "basis",
]  # fmt: skip

REFUSED_COLUMNS = ["gpu", "engine", "dtype", "batch", "context", "reason"]

CURVE_COLUMNS = ["gpu", "engine", "dtype", "batch", "context", "vocab_size", "speedup_vs_plain"]

# Weights and keys that leave less than this of the memory do not run.
_MEMORY_SHARE = 0.92

KERNELS, WITH_HOST = "kernels alone", "with the host of 2025"

HEAD_COLUMNS = ["gpu", "engine", "version", "hidden_size", "rows", "latency_ms", "kind"]

# A typical absolute error is 0.8 standard deviations of a normal distribution.
_TO_SD = 1.25


@dataclass(frozen=True)
class Question:
    """What is asked of every GPU.

    Attributes:
        pair: target and draft.
        lengths: acceptance.
        dtypes: of the target's layers.
        batches: sequences together.
        contexts: positions that each holds.
        judge_widths: hidden sizes at which latency models are judged.
    """

    pair: Pair
    lengths: Lengths
    dtypes: Sequence[str]
    batches: Sequence[int]
    contexts: Sequence[int]
    judge_widths: Sequence[int]


@dataclass(frozen=True)
class GpusFindings:
    """Everything that is said of a pair on published GPUs.

    Attributes:
        question: what was asked.
        origins: of the tables, with licence.
        choices: what to use, with `CHOICE_COLUMNS`.
        curves: speed over plain decoding by size at the smallest batch and context, with `CURVE_COLUMNS`.
        refused: what could not be composed and why, with `REFUSED_COLUMNS`.
        errors: of every table, as `bench.analysis.published.ERROR_COLUMNS`.
        models: latency models on tables, as `MODEL_COLUMNS` there.
        savings: R(k) by FLOPs and by tables, as `SAVING_COLUMNS` there.
        flags: doubtful rows, as `FLAG_COLUMNS` there.
        repeats: how far engines are apart on the same GPU.
        heads: LM heads of one token, tabulated and fitted, with `HEAD_COLUMNS`.
        truth: composed against measured whole models, as `bench.analysis.end_to_end.TRUTH_COLUMNS`.
        rounds: published times of speculative rounds, as `ROUND_COLUMNS` there.
        schedules: draft lengths by batch size, with `bench.analysis.schedules.SCHEDULE_COLUMNS`.
        hosts: by name, what kernels wait for.
        assumptions: in words.
    """

    question: Question
    origins: Sequence[str]
    choices: pd.DataFrame
    curves: pd.DataFrame
    refused: pd.DataFrame
    errors: pd.DataFrame
    models: pd.DataFrame
    savings: pd.DataFrame
    flags: pd.DataFrame
    repeats: pd.DataFrame
    heads: pd.DataFrame
    truth: pd.DataFrame
    rounds: pd.DataFrame
    schedules: pd.DataFrame
    hosts: Mapping[str, Host]
    assumptions: Sequence[str]

    def tables(self) -> dict[str, pd.DataFrame]:
        """By file name."""
        return {
            "choices": self.choices,
            "speed_by_size": self.curves,
            "not_composed": self.refused,
            "table_errors": self.errors,
            "latency_models": self.models,
            "savings": self.savings,
            "doubtful_rows": self.flags,
            "engines_apart": self.repeats,
            "heads": self.heads,
            "whole_models": self.truth,
            "rounds": self.rounds,
            "schedules": self.schedules,
        }


@dataclass(frozen=True)
class _Part:
    """Of one GPU with one engine of one source."""

    choices: list[tuple[Any, ...]]
    curves: list[tuple[Any, ...]]
    refused: list[tuple[Any, ...]]
    errors: pd.DataFrame
    models: pd.DataFrame
    savings: pd.DataFrame
    flags: pd.DataFrame
    heads: pd.DataFrame
    truth: list[tuple[Any, ...]]
    schedules: list[tuple[Any, ...]]
    assumptions: list[str]


def ask_gpus(
    sources: Sequence[Tables], question: Question, names: Sequence[str], engines: Sequence[str]
) -> GpusFindings:
    """Asks every GPU and engine that has tables.

    Args:
        sources: of tables; attention of a source without any is taken from the published ones.
        question: what is asked.
        names: of GPUs; all where empty.
        engines: all where empty.

    Raises:
        ConfigError: no table is left.
    """
    _check_names(sources, names, engines)
    places = [
        (tables, gpu, [engine for engine in of_gpu if not engines or engine in engines])
        for tables in sources
        for gpu, of_gpu in _engines(tables).items()
        if not names or gpu in names
    ]
    places = [place for place in places if place[2]]
    if not places:
        known = sorted({place[0] for tables in sources for place in tables.places})
        kinds = sorted({place[1] for tables in sources for place in tables.places})
        raise ConfigError(
            f"no table is left: gpus.names are of {', '.join(known)}, gpus.engines of {', '.join(kinds)}"
        )
    published = next((tables for tables in sources if tables.is_published), None)
    rounds = pd.DataFrame(columns=ROUND_COLUMNS) if published is None else _published_rounds(published)
    hosts = {KERNELS: Host()}
    if (host := host_of(rounds)) is not None:
        hosts[WITH_HOST] = host
    found = in_parallel([partial(_of_gpu, *place, question, published, hosts) for place in places])
    parts = [part for of_gpu, _ in found for part in of_gpu]
    assumptions = list(dict.fromkeys(text for part in parts for text in part.assumptions))
    return GpusFindings(
        question=question,
        origins=[f"{tables.origin} ({tables.licence})" for tables in sources],
        choices=_frame([row for part in parts for row in part.choices], CHOICE_COLUMNS),
        curves=_frame([row for part in parts for row in part.curves], CURVE_COLUMNS),
        refused=_frame([row for part in parts for row in part.refused], REFUSED_COLUMNS),
        errors=_joined([part.errors for part in parts], ERROR_COLUMNS),
        models=_joined([part.models for part in parts], MODEL_COLUMNS),
        savings=_joined([part.savings for part in parts], SAVING_COLUMNS),
        flags=_joined([part.flags for part in parts], FLAG_COLUMNS),
        repeats=_joined([repeats for _, repeats in found], REPEAT_COLUMNS),
        heads=_joined([part.heads for part in parts], HEAD_COLUMNS),
        truth=_frame([row for part in parts for row in part.truth], TRUTH_COLUMNS),
        rounds=rounds,
        schedules=_frame([row for part in parts for row in part.schedules], SCHEDULE_COLUMNS),
        hosts=hosts,
        assumptions=assumptions,
    )


def _check_names(sources: Sequence[Tables], names: Sequence[str], engines: Sequence[str]) -> None:
    places = [place for tables in sources for place in tables.places]
    for key, wanted, known in (
        ("gpus.names", names, sorted({gpu for gpu, _ in places})),
        ("gpus.engines", engines, sorted({engine for _, engine in places})),
    ):
        unknown = [name for name in wanted if name not in known]
        # Where none is known, no table is left, which is said of both.
        if 0 < len(unknown) < len(wanted):
            raise ConfigError(f"{key}: no table is of {unknown[0]}; there are {', '.join(known)}")


def _engines(tables: Tables) -> dict[str, list[str]]:
    """By GPU."""
    found: dict[str, list[str]] = {}
    for gpu, engine in tables.places:
        found.setdefault(gpu, []).append(engine)
    return found


def _of_gpu(
    tables: Tables,
    gpu: str,
    engines: Sequence[str],
    question: Question,
    published: Tables | None,
    hosts: Mapping[str, Host],
) -> tuple[list[_Part], pd.DataFrame]:
    """Of every engine, and how far these are apart."""
    parts = [_of_engine(tables, gpu, engine, question, published, hosts) for engine in engines]
    keys = [key for engine in engines for key in tables.keys_of(gpu, engine) if key.dtype == "bfloat16"]
    return parts, repeat_frame(tables, keys)


def _of_engine(
    tables: Tables,
    gpu: str,
    engine: str,
    question: Question,
    published: Tables | None,
    hosts: Mapping[str, Host],
) -> _Part:
    kept = [key for key in tables.keys_of(gpu, engine) if key.dtype in {"bfloat16", *question.dtypes}]
    look_up = {key: products_of(tables, key) for key in kept}
    memory = tables.gpus[gpu].memory_bytes_per_s
    judged: dict[TableKey, TableErrors] = {}
    too_small: dict[str, str] = {}
    for key, table in look_up.items():
        try:
            judged[key] = table_errors(table, memory)
        except FitError as error:
            too_small[key.dtype] = f"{key.label}: {error}"
    wanted = list(judged)
    wide = next((key for key in wanted if key.dtype == "bfloat16"), None)
    # Engines call the same library for these products; the first one of a GPU is judged for all.
    is_judged = engine == tables.usual_engine(gpu)
    found = _Part(
        choices=[],
        curves=[],
        refused=[],
        errors=error_frame(judged.items()),
        models=model_frame(tables, [wide] if wide and is_judged else [], question.judge_widths, look_up),
        savings=saving_frame([wide] if wide else [], question.judge_widths[0], look_up),
        flags=flag_frame(wanted, look_up),
        heads=_heads(look_up[wide], question) if wide and is_judged else pd.DataFrame(columns=HEAD_COLUMNS),
        truth=[],
        schedules=[],
        assumptions=[],
    )
    for dtype in question.dtypes:
        layers = next((key for key in wanted if key.dtype == dtype), None)
        missing = next((name for name, key in (("bfloat16", wide), (dtype, layers)) if key is None), None)
        if missing or wide is None or layers is None:
            reason = f"{tables.origin} has no {missing} table of {gpu} with {engine}"
            reason = too_small.get(str(missing), reason)
            found.refused.append((gpu, engine, dtype, None, None, reason))
            continue
        try:
            latency = compose(tables, published, look_up[layers], look_up[wide])
        except BenchError as error:
            found.refused.append((gpu, engine, dtype, None, None, str(error)))
            continue
        errors = Errors(
            *(_TO_SD * part for part in (judged[wide].row, judged[wide].size, judged[wide].beyond))
        )
        _choose_all(found, latency, layers, question, errors, hosts)
        found.truth.extend(end_to_end_rows(tables, latency, layers))
    return found


def _published_rounds(published: Tables) -> pd.DataFrame:
    """Of every ready pair, on the GPU and engine that they were published of."""
    frames = []
    for name in ready_names():
        pair = ready_pair(name, "")
        known = pair.rounds
        if known is None or pair.profile is None or (known["gpu"], known["engine"]) not in published.places:
            continue
        wide = products_of(published, published.find(known["gpu"], known["engine"], "bfloat16"))
        frames.append(published_rounds(name, compose(published, published, wide, wide), wide.key))
    return _joined(frames, ROUND_COLUMNS)


def _heads(table: Products, question: Question) -> pd.DataFrame:
    """LM heads of one token by rows: as tabulated, which of them are doubtful, and the surface."""
    hidden, key, one = question.judge_widths[0], table.key, table.slice(int(table.tokens[0]))
    place, rows = (key.gpu, key.engine, key.version, hidden), []
    if hidden not in one.k:
        return _frame([], HEAD_COLUMNS)
    for n, k, ms, warm, against in zip(one.n, one.k, one.ms, one.is_warm, one.contradicts, strict=True):
        if k == hidden and n >= LEAST_ROWS:
            kind = "faster than memory" if warm else "contradicts its neighbours" if against else "tabulated"
            rows.append((*place, int(n), float(ms), kind))
    sizes = np.unique(np.geomspace(LEAST_ROWS, question.pair.target.vocab_size, 80).round().astype(np.int64))
    for n, ms in zip(sizes, table.curve(one.m, sizes, hidden), strict=True):
        rows.append((*place, int(n), float(ms), "surface"))
    return pd.DataFrame(rows, columns=HEAD_COLUMNS)


def compose(tables: Tables, published: Tables | None, layers: Products, wide: Products) -> TableLatency:
    """Latency of passes from tables of one GPU and engine.

    Raises:
        ConfigError: there is no attention of this GPU and engine.
    """
    key = layers.key
    source = tables if tables.is_published or published is None else published
    attention, experts = _attention_of(source, key.gpu, key.engine), _experts_of(source, key.gpu, key.engine)
    return TableLatency(tables.gpus[key.gpu], layers, wide, attention, experts, tables.origin)


@lru_cache(maxsize=32)
def _experts_of(source: Tables, gpu: str, engine: str) -> ExpertTable:
    """As attention, the same for every dtype of the layers."""
    return ExpertTable(partial(source.experts, gpu, engine))


@lru_cache(maxsize=32)
def _attention_of(source: Tables, gpu: str, engine: str) -> Attention:
    """The same for every dtype of the layers."""
    return Attention(source.attention(gpu, engine))


def _choose_all(
    found: _Part,
    latency: TableLatency,
    key: TableKey,
    question: Question,
    errors: Errors,
    hosts: Mapping[str, Host],
) -> None:
    pair, lengths = question.pair, question.lengths
    composed: dict[int, dict[int, Times]] = {}
    for batch in question.batches:
        for context in question.contexts:
            place = (key.gpu, key.engine, key.dtype, batch, context)
            try:
                reason = _too_large(latency, pair, batch, context)
                if reason:
                    found.refused.append((*place, reason))
                    continue
                times = times_of(latency, pair.draft, pair.target, lengths, batch, context)
                basis = _basis(latency, pair, lengths, batch, context)
            except BenchError as error:
                found.refused.append((*place, str(error)))
                continue
            composed.setdefault(context, {})[batch] = times
            for name, host in hosts.items():
                choice = choose(times, lengths, errors, host, pair.draft, basis)
                found.choices.append(_choice_row(key, batch, context, name, choice))
                if name == KERNELS and (batch, context) == _first(question):
                    sizes = zip(lengths.sizes.tolist(), choice.curve.tolist(), strict=True)
                    found.curves.extend((*place, size, speed) for size, speed in sizes)
    found.schedules.extend(modelled_schedules(key, composed, lengths, hosts))
    found.assumptions.extend([*_of_experts(latency, pair), *latency.assumptions[1:]])


def _of_experts(latency: TableLatency, pair: Pair) -> list[str]:
    try:
        known = latency.expert_format(pair.target)
    except BenchError:
        return []
    if known is None:
        return []
    key = latency.layers.key
    return [
        f"experts on {key.label}: {known[0]} by {known[1]}, routed as unevenly as the middle of the table; "
        "the router is left out"
    ]


def _first(question: Question) -> tuple[int, int]:
    return question.batches[0], question.contexts[0]


def _basis(latency: TableLatency, pair: Pair, lengths: Lengths, batch: int, context: int) -> Basis:
    """The least certain of what a round is made of."""
    draft_run, verify = Pass(1, context, batch), Pass(lengths.draft_lengths[0] + 1, context, batch)
    parts = [*latency.parts(pair.draft, draft_run).values(), *latency.parts(pair.target, verify).values()]
    heads = [
        latency.head_basis(pair.draft, draft_run, int(lengths.sizes[-1])),
        latency.head_basis(pair.target, verify, pair.target.vocab_size),
    ]
    least = worst([part.basis for part in parts] + list(heads))
    return least or Basis.EXACT


def _too_large(latency: TableLatency, pair: Pair, batch: int, context: int) -> str | None:
    memory = latency.gpu.memory_bytes
    if memory is None:
        return None
    weights = latency.weight_bytes(pair.target) + model_bytes(pair.draft, 2.0)
    keys = sum(2 * 2 * m.num_layers * m.num_key_value_heads * m.head_dim for m in (pair.target, pair.draft))
    needed = weights + keys * batch * context
    if needed <= _MEMORY_SHARE * memory:
        return None
    return f"needs {needed / 1e9:,.0f} GB of weights and keys, the GPU has {memory / 1e9:,.0f}"


def _choice_row(key: TableKey, batch: int, context: int, host: str, choice: Choice) -> tuple[Any, ...]:
    return (
        key.gpu, key.engine, key.version, key.dtype, batch, context, host, choice.vocab_size,
        *choice.size_interval, choice.draft_length, choice.mean_acceptance_length,
        *vars(choice.vs_plain).values(), *vars(choice.vs_full).values(), choice.full_draft_length,
        choice.trims, choice.plain_ms, choice.step_ms, choice.full_step_ms, choice.full_head_ms,
        choice.flops_size, choice.flops_loss, choice.basis.value,
    )  # fmt: skip


def nearest_width(hidden_size: int) -> int:
    """The tabulated hidden size that is nearest, as latency models are judged at one."""
    return min(WIDTHS, key=lambda width: abs(np.log(width / hidden_size)))


def _frame(rows: list[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns)


def _joined(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    kept = [frame for frame in frames if len(frame)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=columns)
