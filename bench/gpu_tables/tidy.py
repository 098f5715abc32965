"""Kernel latencies under one set of names and units: the pinned wheel's tables, and files of a user's own.

The wheel is data here: its Parquet, YAML and CSV files are read, and nothing of it is installed or run.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from bench.assets import CATALOG, Wheel, fetch
from bench.errors import AssetError, ConfigError

ASSET = "gpu-tables"

COLUMNS = ["gpu", "engine", "version", "kernel", "dtype", "m", "n", "k", "latency_ms"]

# Bytes of one weight. Formats with a scale per block of 16 weights store a byte more for each block.
WEIGHT_BYTES = {
    "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5 + 1 / 16, "int8_wo": 1.0,
    "int4_wo": 0.5, "sq": 1.0,
}  # fmt: skip

# Rates of reading large weights that no GPU has: below the slowest memory, above the fastest cache.
_LARGE_BYTES, _SLOWEST, _FASTEST = 32e6, 5e9, 2e14

# As `systems/<gpu>.yaml` calls the peak of a dtype; formats of weights alone compute in bfloat16.
_PEAKS = {
    "bfloat16": "bfloat16_tc_flops", "fp8": "fp8_tc_flops", "fp8_block": "fp8_tc_flops",
    "nvfp4": "fp4_tc_flops", "int8_wo": "bfloat16_tc_flops", "int4_wo": "bfloat16_tc_flops",
    "sq": "int8_tc_flops",
}  # fmt: skip


@dataclass(frozen=True)
class TableKey:
    """One table of matrix products.

    Attributes:
        gpu: as the source calls it.
        engine: whose kernels were called.
        version: of the engine.
        dtype: of the weights.
    """

    gpu: str
    engine: str
    version: str
    dtype: str

    @property
    def label(self) -> str:
        """For readers."""
        return f"{self.gpu}, {self.engine} {self.version}, {self.dtype}"


@dataclass(frozen=True)
class Gpu:
    """What the source says of a GPU.

    Attributes:
        name: as the source calls it.
        device_name: as its driver does; None where the source does not say.
        memory_bytes_per_s: bandwidth of its memory; None where unknown.
        memory_bytes: size of its memory; None where unknown.
        peak_flops_per_s: dense, by dtype of the tables.
        origin: where these are from.
    """

    name: str
    device_name: str | None
    memory_bytes_per_s: float | None
    memory_bytes: float | None
    peak_flops_per_s: dict[str, float] = field(default_factory=dict)
    origin: str = ""


class Tables:
    """Everything that one source holds; files are read when they are asked for, and kept.

    Attributes:
        origin: what the figures are from, for readers.
        licence: of them.
        is_published: whether others measured it.
    """

    def __init__(
        self,
        origin: str,
        licence: str,
        is_published: bool,
        read: Callable[[str, str], pd.DataFrame],
        tables: Iterable[tuple[str, str]],
        gpus: dict[str, Gpu],
        folder: Path | None = None,
    ):
        self.origin, self.licence, self.is_published = origin, licence, is_published
        self._read, self._tables, self._folder = cache(read), sorted(tables), folder
        self.gpus = gpus

    @property
    def places(self) -> list[tuple[str, str]]:
        """GPUs with the engines that there are tables of."""
        return list(self._tables)

    def keys_of(self, gpu: str, engine: str) -> list[TableKey]:
        """Tables of one GPU and engine, by dtype; none where there are none."""
        if (gpu, engine) not in self._tables:
            return []
        kinds = self._read(gpu, engine)[["version", "dtype"]].drop_duplicates()
        return sorted(
            (TableKey(gpu, engine, *kind) for kind in kinds.itertuples(index=False, name=None)),
            key=lambda key: (key.dtype, key.version),
        )

    def products(self, key: TableKey) -> pd.DataFrame:
        """Rows of one table, with `COLUMNS`.

        Raises:
            ConfigError: there is none; the message says which there are.
        """
        if (key.gpu, key.engine) not in self._tables:
            there = ", ".join(f"{gpu} ({engine})" for gpu, engine in self._tables)
            raise ConfigError(f"no table of {key.gpu} with {key.engine} in {self.origin}: it has {there}")
        table = self._read(key.gpu, key.engine)
        rows = table[(table["dtype"] == key.dtype) & (table["version"] == key.version)]
        if rows.empty:
            dtypes = ", ".join(sorted(table["dtype"].unique()))
            raise ConfigError(
                f"{key.gpu} with {key.engine} {key.version} has no {key.dtype} table in {self.origin}: "
                f"choose {dtypes}"
            )
        return rows

    def find(self, gpu: str, engine: str, dtype: str) -> TableKey:
        """The table of a GPU, engine and dtype.

        Raises:
            ConfigError: there is none; the message says which there are.
        """
        known = []
        for key in self.keys_of(gpu, engine):
            if key.dtype == dtype:
                return key
            known.append(key.dtype)
        if known:
            raise ConfigError(
                f"{gpu} with {engine} has no {dtype} table in {self.origin}: choose {', '.join(known)}"
            )
        there = ", ".join(f"{name} ({engine})" for name, engine in self._tables)
        raise ConfigError(f"no table of {gpu} with {engine} in {self.origin}: it has {there}")

    def attention(self, gpu: str, engine: str, *, is_context: bool = False) -> pd.DataFrame:
        """Rows of attention, tidy: of one new token over a context, or of a whole context at once.

        Columns: kernel, batch, query_heads, key_value_heads, head_dim, kv_dtype, window (0 for none),
        context (positions held before the new ones) or tokens, latency_ms.

        Raises:
            ConfigError: there is none.
        """
        name = "context_attention_perf" if is_context else "generation_attention_perf"
        return _attention(self._file(gpu, "attention", engine, name), is_context)

    def usual_engine(self, gpu: str) -> str:
        """VLLM where it has tables of a GPU, as it has of every published one, else the first engine."""
        engines = [engine for place, engine in self.places if place == gpu]
        return "vllm" if "vllm" in engines else engines[0]

    def experts(self, gpu: str, engine: str) -> pd.DataFrame:
        """Rows of whole expert layers, tidy.

        Columns: kernel, dtype, routing, tokens, hidden_size, expert_size, experts_per_token, num_experts,
        latency_ms.

        Raises:
            ConfigError: there is none.
        """
        return _experts(self._file(gpu, "moe", engine, "moe_perf"))

    def scales(self, gpu: str, engine: str) -> pd.DataFrame | None:
        """What finding the fp8 scale of inputs takes, with m, k and latency_ms; None without a table.

        Rows of fp8 products include it; checkpoints with fixed scales, as most are published, do without.
        """
        try:
            table = _parquet(self._file(gpu, "quantize", engine, "computescale_perf"))
        except ConfigError:
            return None
        table = table[table["quant_dtype"] == "fp8"].drop_duplicates(["m", "k"])
        return table.rename(columns={"latency": "latency_ms"})[["m", "k", "latency_ms"]]

    @cached_property
    def end_to_end(self) -> pd.DataFrame:
        """Measured times of whole models, as the source has them; empty without any."""
        path = None if self._folder is None else self._folder / "silicon_sample.csv"
        return pd.DataFrame() if path is None or not path.exists() else pd.read_csv(path)

    def _file(self, gpu: str, family: str, engine: str, name: str) -> Path:
        below = f"data/{gpu}/{family}/{engine}/*/{name}.parquet"
        paths = [] if self._folder is None else sorted(self._folder.glob(below))
        if not paths:
            raise ConfigError(f"{self.origin} has no table of {family} for {gpu} with {engine}")
        return max(paths, key=lambda path: _version(path.parent.name))


def published() -> Tables:
    """The tables of the pinned wheel, which is fetched on first use; newest version of every engine.

    Raises:
        AssetError: it cannot be fetched, is not the pinned one, or is not laid out as it was.
    """
    wheel = CATALOG[ASSET]
    assert isinstance(wheel, Wheel)
    return read_folder(fetch(ASSET), wheel.requirement.replace("==", " "), wheel.licence)


def read_folder(folder: Path, origin: str, licence: str) -> Tables:
    """Tables of a folder that is laid out as the pinned wheel is.

    Raises:
        AssetError: it is not.
    """
    newest: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("data/*/gemm/*/*/gemm_perf.parquet")):
        gpu, _, engine, version = path.relative_to(folder / "data").parts[:4]
        known = newest.get((gpu, engine))
        if known is None or _version(version) > _version(known.parent.name):
            newest[gpu, engine] = path
    if not newest:
        raise AssetError(f"{folder} holds no table of {origin}: delete the folder, and it is fetched again")

    def read(gpu: str, engine: str) -> pd.DataFrame:
        path = newest[gpu, engine]
        table = _parquet(path, ["kernel_source", "gemm_dtype", "m", "n", "k", "latency"])
        found = pd.DataFrame({
            "gpu": gpu,
            "engine": engine,
            "version": path.parent.name,
            "kernel": table["kernel_source"],
            "dtype": table["gemm_dtype"],
            **{name: table[name].astype(np.int64) for name in ("m", "n", "k")},
            "latency_ms": table["latency"].astype(float),
        })  # fmt: skip
        return _checked(found, str(path))

    names = sorted({gpu for gpu, _ in newest})
    # Every row of a table names the same device.
    devices = {gpu: next(path for (name, _), path in newest.items() if name == gpu) for gpu in names}
    gpus = {name: _gpu(folder / f"{name}.yaml", devices[name], origin) for name in names}
    return Tables(origin, licence, True, read, newest, gpus, folder)


def read_csv(path: Path, key: str = "gpu_tables") -> Tables:
    """A user's own measurements: a CSV with `COLUMNS`; `version` and `kernel` may be left out.

    Args:
        path: of the file.
        key: configuration key that named it, for errors.

    Raises:
        ConfigError: it cannot be read, or a row is no measurement; the message names the row.
    """
    where = f"{key}={path}"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    missing = [name for name in COLUMNS if name not in table and name not in ("version", "kernel")]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}: it needs the columns {', '.join(COLUMNS)}")
    unknown = [name for name in table.columns if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"{where}: nothing is known of the column {unknown[0]}; leave it out")
    if table.empty:
        raise ConfigError(f"{where} has no rows: give one for every measured product")
    for name in ("version", "kernel"):
        table[name] = table[name].fillna("unknown").astype(str) if name in table else "unknown"
    for name in ("gpu", "engine", "dtype"):
        if (blank := table[name].isna()).any():
            raise ConfigError(f"{where}, row {int(blank.to_numpy().argmax()) + 1}: {name} is empty")
        table[name] = table[name].astype(str).str.strip()
    table = _checked(table[COLUMNS], where)
    strange = sorted(set(table["dtype"]) - set(WEIGHT_BYTES))
    if strange:
        raise ConfigError(f"{where}: dtype {strange[0]} is unknown; known are {', '.join(WEIGHT_BYTES)}")
    _check_units(table, where)
    pairs = table[["gpu", "engine"]].drop_duplicates().itertuples(index=False, name=None)

    def read(gpu: str, engine: str) -> pd.DataFrame:
        return table[(table["gpu"] == gpu) & (table["engine"] == engine)]

    gpus = {name: Gpu(name, name, None, None, origin=where) for name in table["gpu"].unique()}
    return Tables(path.name, "your own", False, read, pairs, gpus)


def _check_units(table: pd.DataFrame, where: str) -> None:
    """Refuses latencies that no GPU has, as those in microseconds or seconds are."""
    weights = table["n"] * table["k"] * table["dtype"].map(WEIGHT_BYTES)
    rates = weights / (table["latency_ms"] / 1e3)
    for _, rows in table.assign(weights=weights).groupby(["gpu", "engine", "dtype"], sort=False):
        few = rows[rows["m"] == rows["m"].min()]
        largest = few["weights"].idxmax()
        if few["weights"].max() >= _LARGE_BYTES and not _SLOWEST <= rates[largest] <= _FASTEST:
            row = table.loc[largest]
            raise ConfigError(
                f"{where}, row {table.index.tolist().index(largest) + 1}: m = {row['m']}, n = {row['n']}, "
                f"k = {row['k']} in {row['latency_ms']:g} ms would read weights at "
                f"{rates[largest] / 1e9:,.3g} GB/s, which no GPU does; give latency_ms in milliseconds"
            )


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Refuses what is no measurement, and shapes that are there twice."""
    try:
        numbers = table[["m", "n", "k", "latency_ms"]].astype(float)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}{_not_a_number(table)}") from error
    values = numbers.to_numpy()
    bad = ~(np.isfinite(values) & (values > 0)).all(axis=1) | (values[:, :3] % 1 != 0).any(axis=1)
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        raise ConfigError(
            f"{where}, row {place + 1}: m, n and k must be whole numbers and latency_ms a time, all above 0, "
            f"not {values[place].tolist()}"
        )
    whole = table.astype({"m": np.int64, "n": np.int64, "k": np.int64, "latency_ms": float})
    # Sizes by number: comparing texts of many rows takes longer than all else.
    kinds = whole.groupby(["gpu", "engine", "version", "dtype"], sort=False).ngroup().rename("kind")
    twice = pd.concat([kinds, whole[["m", "n", "k"]]], axis=1).duplicated()
    if twice.any():
        row = whole[twice].iloc[0]
        raise ConfigError(
            f"{where}: the product m = {row['m']}, n = {row['n']}, k = {row['k']} in {row['dtype']} is there "
            f"twice for {row['gpu']} with {row['engine']}; give one latency"
        )
    return whole


def _not_a_number(table: pd.DataFrame) -> str:
    """Which value it is that is none."""
    for name in ("m", "n", "k", "latency_ms"):
        bad = pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()
        if bad.any():
            place = int(bad.to_numpy().argmax())
            value = table[name].iloc[place]
            return f", row {place + 1}: m, n, k and latency_ms must be numbers, and {name} is {value!r}"
    return ": m, n, k and latency_ms must be numbers"


def _attention(path: Path, is_context: bool) -> pd.DataFrame:
    table = _parquet(path)
    window = table["window_size"] if "window_size" in table else pd.Series(0, table.index)
    length = "isl" if is_context else "step"
    found = pd.DataFrame({
        "kernel": table["kernel_source"],
        "batch": table["batch_size"],
        "query_heads": table["num_heads"],
        "key_value_heads": table["num_key_value_heads"],
        "head_dim": table["head_dim"],
        "dtype": table["attn_dtype"],
        "kv_dtype": table["kv_cache_dtype"],
        "window": window.fillna(0).astype(np.int64),
        ("tokens" if is_context else "context"): table[length],
        "latency_ms": table["latency"].astype(float),
    })  # fmt: skip
    return found


def _experts(path: Path) -> pd.DataFrame:
    table = _parquet(path)
    on_one_gpu = table[(table["moe_tp_size"] == 1) & (table["moe_ep_size"] == 1)]
    names = {
        "kernel_source": "kernel", "moe_dtype": "dtype", "distribution": "routing", "num_tokens": "tokens",
        "hidden_size": "hidden_size", "inter_size": "expert_size", "topk": "experts_per_token",
        "num_experts": "num_experts", "latency": "latency_ms",
    }  # fmt: skip
    return on_one_gpu[list(names)].rename(columns=names)


def _gpu(path: Path, table: Path, origin: str) -> Gpu:
    try:
        values = yaml.safe_load(path.read_text("utf-8"))["gpu"]
        peaks = {dtype: float(values[name]) for dtype, name in _PEAKS.items() if name in values}
        rate, size = float(values["mem_bw"]), float(values["mem_capacity"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise AssetError(f"{path} does not say what {origin} said of a GPU: {error!r}") from error
    name = str(_parquet(table, ["device"])["device"].iloc[0])
    return Gpu(path.stem, name, rate, size, peaks, f"{origin}, {path.name}")


def _parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{path} cannot be read ({error}): delete its folder, and it is fetched again"
        ) from error


def _version(text: str) -> tuple[Any, ...]:
    """Versions in their order: 0.5.14 after 0.5.6."""
    return tuple(int(number) for number in re.findall(r"\d+", text))
