"""Devices: they run models and read clocks."""

import torch

from bench.config.gpu import require_present
from bench.device.base import Device, Mark
from bench.device.cpu import CpuDevice
from bench.device.cuda import CudaDevice
from bench.device.scripted import ScriptedDevice

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
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CpuDevice()
    return CudaDevice(0 if name == "auto" else int(name.removeprefix("cuda:")))


def default_dtype(device: Device) -> torch.dtype:
    """bfloat16 if the device supports it, float32 if it would only emulate it."""
    if device.torch_device.type == "cuda":
        return torch.bfloat16
    has_bfloat16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32
