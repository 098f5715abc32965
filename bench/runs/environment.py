"""The environment of a run: machine, device, versions, and the code and git state of this program."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

import bench
from bench.config import DomainSource
from bench.config.gpu import match
from bench.cost.hardware import HardwareSpec
from bench.device import Device
from bench.device.probe import probe
from bench.identity import WEIGHTS
from bench.measure.timing import timer_facts
from bench.runs.folder import now
from bench.runs.pair import Pair
from bench.sweep import num_allowed
from bench.telemetry.host import cpu_frequency
from bench.telemetry.nvml import driver_version
from bench.text import content_id

_PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "hydra-core",
    "nvidia-ml-py",
    "numba",
    "vocabtrim-bench",
)


def describe(device: Device) -> dict[str, Any]:
    """Facts that explain a measurement; None if a fact is not known."""
    return {
        "device_name": device.name,
        "device": str(device.torch_device),
        "python": platform.python_version(),
        "os": platform.platform(),
        "host": platform.node() or None,
        "cpu_count": os.cpu_count(),
        "cpu_affinity": num_allowed(),
        "num_threads": torch.get_num_threads(),
        "cpu_frequency": cpu_frequency(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "cuda": _cuda(device),
        "code": _code(),
        "git": _git(),
    }


def data_ids(sources: Iterable[DomainSource]) -> dict[str, str]:
    """Identity of the data of every source, by name. Call it before reading the data: files can change.

    Raises:
        DomainError: the data cannot be read.
    """
    return {source.name: content_id(source) for source in sources}


def describe_run(pair: Pair, device: Device, data: dict[str, str]) -> dict[str, Any]:
    """`environment.json` of a run: the pair, the device, and the peak rates of the device.

    Args:
        pair: the measured pair.
        device: the device.
        data: identity of domains and corpora, from `data_ids`.
    """
    return {
        "started_at": now(),
        "pair": pair.name,
        "dtype": str(pair.dtype).removeprefix("torch."),
        "target_runner": pair.target.runner,
        "target_devices": list(pair.target.devices),
        "num_packed_linears": pair.target.num_packed,
        "target_fingerprint": pair.target_identity.parts[WEIGHTS],
        "draft_fingerprint": pair.draft_identity.parts[WEIGHTS],
        "identity": {"target": dict(pair.target_identity.parts), "draft": dict(pair.draft_identity.parts)},
        "full_vocab_size": len(pair.draft.vocab),
        "notes": [*pair.target.notes, *pair.draft.notes],
        "data": data,
        **describe(device),
        "shapes": {
            "draft": {**asdict(pair.draft.shape), "kind": pair.draft.kind.value},
            "target": pair.target_config,
        },
        "hardware": known_hardware(device),
        "timer": asdict(timer_facts(device)),
    }


def measured_hardware(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    """Measured peak rates of a device without a data sheet; takes a second or two."""
    return _plain(probe(device, dtype), device)


def known_hardware(device: Device) -> dict[str, Any] | None:
    """Peak rates from the data sheet of the device; None without a data sheet."""
    spec = match(device.name)
    return None if spec is None else _plain(spec, device)


def _plain(spec: HardwareSpec, device: Device) -> dict[str, Any]:
    if device.cache_bytes is not None:
        spec = spec.with_cache(device.cache_bytes)
    return {**asdict(spec), "peak_flops_per_s": dict(spec.peak_flops_per_s)}


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
        "driver": driver_version(),
        "uuid": str(properties.uuid),
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "num_sms": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _code() -> str:
    """Hash of this program's Python files: also without git, and with changes that are not committed."""
    root, found = Path(bench.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


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
