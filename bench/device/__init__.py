"""Devices: they run models and read clocks."""

import os

import torch

from bench.config.gpu import require_present
from bench.device.base import Device, Mark
from bench.device.cpu import CpuDevice
from bench.device.cuda import CudaDevice
from bench.device.scripted import ScriptedDevice
from bench.errors import DeviceError
from bench.telemetry.nvml import gpu_seen

# Major compute capability of the first GPUs that compute bfloat16.
_AMPERE = 8

__all__ = ["CpuDevice", "CudaDevice", "Device", "Mark", "ScriptedDevice", "default_dtype", "open_device"]


def open_device(name: str, name_pattern: str | None = None) -> Device:
    """Opens `auto` (the first GPU if there is one, else the CPU), `cpu`, or `cuda:<index>`.

    Args:
        name: the device.
        name_pattern: must match the name that the driver gives the device; None: any device.

    Raises:
        DeviceError: the requested GPU is missing, or is of another kind.
    """
    if name_pattern and name.startswith("cuda") and not torch.cuda.is_available():
        require_present(name_pattern, None)
    device = _open(name)
    if name_pattern:
        require_present(name_pattern, device.name)
    return device


def _open(name: str) -> Device:
    if name == "auto" and not torch.cuda.is_available():
        _refuse_unused_gpu()
        return CpuDevice()
    if name == "cpu":
        return CpuDevice()
    return CudaDevice(0 if name == "auto" else int(name.removeprefix("cuda:")))


def _refuse_unused_gpu() -> None:
    """Refuses to measure the CPU of a machine whose GPU this torch cannot use, unless GPUs are hidden.

    Raises:
        DeviceError: there is one.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = gpu_seen() if hidden is None or hidden.strip() not in ("", "-1") else None
    if seen is None:
        return
    name, driver = seen
    built = torch.version.cuda
    why = (
        "this torch is built for CPUs only; install one that is built for CUDA"
        if built is None
        else f"this torch needs a driver for CUDA {built}, and the driver here is {driver or 'not known'}; "
        "update the driver, or install a torch that is built for its CUDA version"
    )
    raise DeviceError(f"{name} is here and cannot be used: {why}; gpu=cpu measures the CPU instead")


def default_dtype(device: Device) -> torch.dtype:
    """bfloat16 if the device supports it, float32 if it would only emulate it.

    GPUs before Ampere (T4, V100) emulate it, although torch says that they support it.
    """
    if device.torch_device.type == "cuda":
        major = torch.cuda.get_device_properties(device.torch_device).major
        return torch.bfloat16 if torch.version.hip or major >= _AMPERE else torch.float32
    has_bfloat16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32
