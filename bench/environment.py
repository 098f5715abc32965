"""Where a run was measured: machine, device, versions and the state of this project's files."""

import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.cost.hardware import match
from bench.device import Device
from bench.fit.probe import probe
from bench.measure.timer import timer_facts
from bench.pair import Pair

_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "hydra-core", "nvidia-ml-py", "vocabtrim-bench")


def describe(device: Device) -> dict[str, Any]:
    """Facts that explain a measurement; None where a fact cannot be had."""
    return {
        "device_name": device.name,
        "device": str(device.torch_device),
        "python": platform.python_version(),
        "os": platform.platform(),
        "host": platform.node() or None,
        "cpu_count": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "cuda": _cuda(device),
        "git": _git(),
    }


def describe_run(pair: Pair, device: Device) -> dict[str, Any]:
    """`environment.json` of a run: what was measured, on what, and what the device could do at best."""
    return {
        "started_at": now(),
        "pair": pair.name,
        "dtype": str(pair.dtype).removeprefix("torch."),
        "target_runner": pair.target.runner,
        "num_packed_linears": pair.target.num_packed,
        "target_fingerprint": pair.target_fingerprint,
        "draft_fingerprint": pair.draft_fingerprint,
        "full_vocab_size": len(pair.draft.vocab),
        **describe(device),
        "shapes": {
            "draft": {**asdict(pair.shape), "kind": pair.shape.kind.value},
            "target": pair.target_config,
        },
        "hardware": describe_hardware(device, pair.dtype),
        "timer": asdict(timer_facts(device)),
    }


def describe_hardware(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    """What the device could do at best: its data sheet, else measured."""
    spec = match(device.name) or probe(device, dtype)
    if device.cache_bytes is not None:
        spec = spec.with_cache(device.cache_bytes)
    return {**asdict(spec), "peak_flops_per_s": dict(spec.peak_flops_per_s)}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda(device: Device) -> dict[str, Any] | None:
    if device.torch_device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device.torch_device)
    return {
        "runtime": torch.version.cuda,
        "uuid": str(properties.uuid),
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "num_sms": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _git() -> dict[str, Any] | None:
    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "modified": bool(ask("status", "--porcelain"))}
