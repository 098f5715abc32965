"""Measures memory bandwidth and matrix products of a device without a data sheet.

The only file of this room that needs torch.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.cost.hardware import HardwareSpec
from bench.device.base import Device

_CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

# Memory traffic is measured on buffers that are this many times the last cache, and at least this large.
_BEYOND_CACHE = 8

_LEAST_BUFFER_BYTES = 2**28

_REPEATS = 9

# Matrices grow until a product takes that long: then the launch is a small part of it.
_LONG_ENOUGH_MS = 20.0

_FIRST_MATRIX, _LARGEST_MATRIX = 256, 8192


def probe(device: Device, dtype: torch.dtype) -> HardwareSpec:
    """Measures a device that has no data sheet.

    Args:
        device: the device; nothing else should run on it.
        dtype: dtype of the matrix product.
    """
    cache_bytes = last_cache_bytes(device.torch_device)
    buffer_bytes = max(_LEAST_BUFFER_BYTES, _BEYOND_CACHE * (cache_bytes or 0))
    return HardwareSpec(
        name=device.name,
        source=f"measured on {device.name}: largest of read and copy, and of square matrix products",
        name_pattern=None,
        peak_flops_per_s={str(dtype).removeprefix("torch."): matmul_flops_per_s(device, dtype)},
        memory_bytes_per_s=memory_bytes_per_s(device, buffer_bytes),
        cache_bytes=cache_bytes,
        memory_bytes=None,
    )


def memory_bytes_per_s(device: Device, buffer_bytes: int = _LEAST_BUFFER_BYTES) -> float:
    """The larger of a reading and of a copying rate, over buffers of `buffer_bytes` each."""
    source = torch.ones(buffer_bytes // 4, dtype=torch.float32, device=device.torch_device)
    target = torch.empty_like(source)
    read_ms = _median_ms(device, lambda: source.sum())
    copy_ms = _median_ms(device, lambda: target.copy_(source))
    return 1e3 * max(source.nbytes / read_ms, 2 * source.nbytes / copy_ms)


def matmul_flops_per_s(device: Device, dtype: torch.dtype, largest: int = _LARGEST_MATRIX) -> float:
    """The best rate of square matrix products; their size grows until one takes 20 ms."""
    best, size = 0.0, _FIRST_MATRIX
    while size <= largest:
        left = torch.ones(size, size, dtype=dtype, device=device.torch_device)
        took_ms = _median_ms(device, partial(torch.matmul, left, left))
        best = max(best, 1e3 * 2 * size**3 / took_ms)
        if took_ms >= _LONG_ENOUGH_MS:
            break
        size *= 2
    return best


def last_cache_bytes(device: torch.device, cpu_caches: Path = _CPU_CACHES) -> int | None:
    """Size of the last cache before memory; None if the system does not report it.

    On a CPU it is the cache of its core, which other programs may share.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [_parse_size(path.read_text()) for path in sorted(cpu_caches.glob("index*/size"))]
    return max((size for size in sizes if size is not None), default=None)


def _parse_size(text: str) -> int | None:
    found = re.fullmatch(r"(\d+)([KMG])", text.strip())
    return int(found[1]) * _UNITS[found[2]] if found else None


def _median_ms(device: Device, work: Callable[[], object]) -> float:
    # The first two calls load pages and choose kernels.
    for _ in range(2):
        work()
    device.synchronize()
    marks = []
    for _ in range(_REPEATS):
        start = device.mark()
        work()
        marks.append((start, device.mark()))
    device.synchronize()
    return float(np.median([device.elapsed_ms(start, end) for start, end in marks]))
