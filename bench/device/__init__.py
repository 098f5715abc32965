"""Devices: what models run on and what timings are read from."""

import re

import torch

from bench.config import GpuConfig
from bench.device.base import Device, Mark
from bench.device.cpu import CpuDevice
from bench.device.cuda import CudaDevice
from bench.device.scripted import ScriptedDevice
from bench.errors import DeviceError

__all__ = [
    "CpuDevice",
    "CudaDevice",
    "Device",
    "Mark",
    "ScriptedDevice",
    "default_dtype",
    "open_device",
    "open_gpu",
]


def open_device(name: str) -> Device:
    """`auto` (first GPU if there is one), `cpu`, or `cuda:<index>`.

    Raises:
        DeviceError: a GPU was asked for and is not there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CpuDevice()
    return CudaDevice(0 if name == "auto" else int(name.removeprefix("cuda:")))


def open_gpu(gpu: GpuConfig) -> Device:
    """Opens the device, which must be the model that was asked for, where one was.

    Raises:
        DeviceError: it is not there, or another model.
    """
    device = open_device(gpu.device)
    if gpu.name_pattern and not re.fullmatch(gpu.name_pattern, device.name):
        raise DeviceError(
            f"the gpu asked for is a {gpu.name_pattern}, but {gpu.device} is a {device.name}; use gpu=auto"
        )
    return device


def default_dtype(device: Device) -> torch.dtype:
    """bfloat16 where the device computes in it, float32 where it would only emulate it."""
    if device.torch_device.type == "cuda":
        return torch.bfloat16
    has_bfloat16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32
