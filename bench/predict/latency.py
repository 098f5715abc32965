"""Where the latency of a prediction is from: published kernels of the GPU, or its data sheet."""

import re

from rich.console import Console

from bench.analysis.gpus import compose
from bench.analysis.published import products_of
from bench.assets import notice_of
from bench.config import GpuConfig, PredictConfig
from bench.cost.hardware import HardwareSpec
from bench.errors import AssetError, ConfigError
from bench.gpu_tables.compose import TableLatency
from bench.gpu_tables.tidy import ASSET, TableKey, Tables, published
from bench.predict.model import Calibration, DataSheetLatency, LatencySource

_SIXTEEN_BITS = ("bfloat16", "float16")


def latency_of(
    gpu: GpuConfig,
    predict: PredictConfig,
    spec: HardwareSpec,
    dtype: str,
    calibration: Calibration,
    console: Console,
) -> tuple[LatencySource, str]:
    """The latency of a GPU, and what the figures are from, in words.

    Args:
        gpu: by its name a table is found.
        predict: `source` says which; null for tables where there are any.
        spec: the data sheet.
        dtype: of weights and arithmetic.
        calibration: of the data sheet.
        console: for what is downloaded.

    Raises:
        ConfigError: tables are asked for where there are none, or with values that only a data sheet takes.
        AssetError: tables are asked for and cannot be fetched.
    """
    wanted, sheet = predict.source, DataSheetLatency(spec, dtype, calibration)
    sheet_keys = ("calibration", "launch_us")
    only_sheet = [f"predict.{key}" for key in sheet_keys if getattr(predict, key) is not None]
    if wanted == "tables" and only_sheet:
        raise ConfigError(f"{' and '.join(only_sheet)} says nothing of tables: use predict.source=data_sheet")
    if wanted == "data_sheet" or (wanted is None and (only_sheet or not gpu.name_pattern)):
        return sheet, f"the data sheet of {spec.name}"
    reason = _why_no_table(gpu, dtype)
    if reason is None:
        try:
            if notice := notice_of(ASSET):
                console.print(notice, soft_wrap=True, highlight=False)
            tables = published()
            key = _key(tables, str(gpu.name_pattern))
        except AssetError as error:
            if wanted == "tables":
                raise
            return sheet, f"the data sheet of {spec.name}, as published tables cannot be had: {error}"
        if key is not None:
            return _from_tables(tables, key), f"published kernels of {key.label}"
        reason = f"nobody published kernels of {spec.name}"
    if wanted == "tables":
        raise ConfigError(f"predict.source=tables: {reason}; use predict.source=data_sheet")
    return sheet, f"the data sheet of {spec.name}: {reason}"


def _why_no_table(gpu: GpuConfig, dtype: str) -> str | None:
    if not gpu.name_pattern:
        return "name a GPU, such as gpu=h100-sxm"
    if dtype not in _SIXTEEN_BITS:
        return f"the tables here are in 16 bits, not {dtype}"
    return None


def _key(tables: Tables, name_pattern: str) -> TableKey | None:
    """VLLM's table of the GPU, or the first that there is."""
    for name, gpu in tables.gpus.items():
        if gpu.device_name is None or not re.fullmatch(name_pattern, gpu.device_name):
            continue
        return tables.find(name, tables.usual_engine(name), "bfloat16")
    return None


def _from_tables(tables: Tables, key: TableKey) -> TableLatency:
    wide = products_of(tables, key)
    return compose(tables, tables, wide, wide)
