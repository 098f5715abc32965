"""A run of task=draft whose latencies follow a law chosen by hand."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench.cost.shape import DraftShape
from bench.fit.series import DRAFT_STEP, LM_HEAD, draft_work
from bench.records import CoverageRecord, IsolatedRecord, Record, SessionRecord
from tests.cost.test_gemma3 import GEMMA_270M
from tests.synthetic_run import write_run_folder

SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
CONTEXT, LAYER_MS, T0_MS, BYTES_PER_S = 256, 20.0, 0.5, 2e10
WARM = 0.5  # of the cold times


def write_draft_run(
    folder: Path,
    sizes: tuple[int, ...] = SIZES,
    caches: tuple[str, ...] = ("cold", "warm"),
    coverage: CoverageRecord | None = None,
) -> Path:
    """LM head and draft step take t0 + B/W; the step's t0 is longer by no less than nothing."""
    shape = DraftShape.from_config(GEMMA_270M, "config.json")
    environment = {
        "task": "draft",
        "pair": "gemma",
        "dtype": "float32",
        "device_name": "X1",
        "device": "cpu",
        "draft_runner": "transformers",
        "has_tied_head": True,
        "full_vocab_size": 262144,
        "packages": {"torch": "2", "transformers": "5"},
        "shapes": {"draft": {**asdict(shape), "kind": shape.kind.value}},
        "hardware": {"name": "X1", "source": "by hand", "peak_flops_per_s": {"float32": 1e11},
                     "memory_bytes_per_s": 2.5e10, "cache_bytes": 2**25},
        "timer": {"resolution_ms": 1e-5, "mark_ms": 1e-4},
    }  # fmt: skip
    config = {
        "pair": {"draft": "gemma"},
        "draft": {"context_length": CONTEXT},
        "measure": {"bootstrap_samples": 100, "seed": 0},
        "select": {"coverage_weight": 0.5},
    }
    records: list[Record] = [SessionRecord("2026-01-01T00:00:00+00:00", "host", 1)]
    records += [coverage] if coverage else []
    records += [record for cache in caches for record in _records(shape, sizes, cache)]
    return write_run_folder(folder, config, environment, records)


def _records(shape: DraftShape, sizes: tuple[int, ...], cache: str) -> list[IsolatedRecord]:
    factor = 1.0 if cache == "cold" else WARM
    found = [_record("layer", None, cache, factor * LAYER_MS)]
    for component in (LM_HEAD, DRAFT_STEP):
        work = draft_work(shape, component, np.array(sizes), CONTEXT, dtype_bytes=4)
        times = factor * (T0_MS + 1e3 * work.total_bytes / BYTES_PER_S)
        found += [_record(component, k, cache, ms) for k, ms in zip(sizes, times, strict=True)]
    return found + [_record("select", k, cache, factor * 0.01) for k in sizes]


def _record(part: str, size: int | None, cache: str, ms: float) -> IsolatedRecord:
    samples = [float(ms) * (1 + shift) for shift in (-0.001, 0, 0, 0, 0, 0, 0.001)]
    return IsolatedRecord(part, size, None, cache, samples, samples, 1, "precise", 0.001)
