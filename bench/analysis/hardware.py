"""What a run's environment says of its hardware and its draft, for the latency models."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.analysis.run import Run
from bench.config.gpu import match
from bench.cost.hardware import HardwareSpec
from bench.cost.shape import DraftKind, DraftShape
from bench.errors import BenchError

_DRAFTS = Path(__file__).parents[1] / "drafts"


def hardware_of(run: Run) -> HardwareSpec | None:
    """Rates of the run's device: those that it recorded, else the data sheet of that name; None without."""
    found = run.environment.get("hardware")
    if isinstance(found, Mapping) and found.get("memory_bytes_per_s"):
        peak = found.get("peak_flops_per_s")
        return HardwareSpec(
            name=str(found.get("name", run.environment["device_name"])),
            source=str(found.get("source", "environment.json")),
            name_pattern=None,
            peak_flops_per_s=_peaks(peak, run.environment["dtype"]),
            memory_bytes_per_s=float(found["memory_bytes_per_s"]),
            cache_bytes=found.get("cache_bytes"),
            memory_bytes=found.get("memory_bytes"),
        )
    spec = _data_sheet(str(run.environment["device_name"]))
    l2_bytes = (run.environment.get("cuda") or {}).get("l2_bytes")
    return spec.with_cache(l2_bytes) if spec is not None and l2_bytes else spec


def draft_shape_of(run: Run) -> DraftShape | None:
    """Shape of the run's draft: as it recorded it, else that of a shipped draft; None without."""
    values = (run.environment.get("shapes") or {}).get("draft")
    if values is None:
        shipped = _DRAFTS / str((run.config.get("pair") or {}).get("draft")) / "config.json"
        values = json.loads(shipped.read_text("utf-8")) if shipped.is_file() else None
    return _shape(values)


def target_shape_of(run: Run) -> DraftShape | None:
    """Shape of the run's target, as it recorded it; None without."""
    return _shape((run.environment.get("shapes") or {}).get("target"))


def _shape(values: Any) -> DraftShape | None:
    if not isinstance(values, Mapping):
        return None
    # What has a default came later, and is not in earlier runs.
    if {item.name for item in fields(DraftShape) if item.default is MISSING} <= values.keys():
        known = {item.name: values[item.name] for item in fields(DraftShape) if item.name in values}
        return DraftShape(**{**known, "kind": DraftKind(str(known["kind"]).lower())})
    try:
        return DraftShape.from_config(values, "environment.json")
    except BenchError:
        return None


def _peaks(peak: Any, dtype: str) -> dict[str, float]:
    if isinstance(peak, Mapping):
        return {str(name): float(rate) for name, rate in peak.items() if rate}
    return {dtype: float(peak)} if peak else {}


@lru_cache
def _data_sheet(device_name: str) -> HardwareSpec | None:
    return match(device_name)
