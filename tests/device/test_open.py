"""Which device and dtype a machine gets, and what of the host is set for it: every kind of GPU by a stub."""

import os
from types import SimpleNamespace

import pytest
import torch

import bench.device as devices
from bench.device import CpuDevice, default_dtype, open_device
from bench.device.cuda import _cache_bytes, cpus_in, stay_near
from bench.errors import DeviceError

ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@pytest.fixture
def unused_gpu(monkeypatch):
    """A machine whose driver shows a GPU that torch cannot use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "gpu_seen", lambda: ("NVIDIA A100-SXM4-80GB", "470.82"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_auto_does_not_measure_the_cpu_of_a_machine_whose_gpu_cannot_be_used(unused_gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DeviceError, match=r"A100.*CUDA 13.0.*470\.82.*update the driver.*gpu=cpu measures"):
        open_device("auto")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="built for CPUs only"):
        open_device("auto")
    assert isinstance(open_device("cpu"), CpuDevice)


@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_gpus_that_a_user_hides_are_not_missed(unused_gpu, monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert isinstance(open_device("auto"), CpuDevice)


def test_a_machine_without_a_gpu_is_measured_on_its_cpu(unused_gpu, monkeypatch):
    monkeypatch.setattr(devices, "gpu_seen", lambda: None)
    assert isinstance(open_device("auto"), CpuDevice)


@pytest.mark.parametrize(
    ("name", "major", "hip", "expected"),
    [
        ("P40", 6, None, torch.float32),
        ("T4", 7, None, torch.float32),
        ("V100", 7, None, torch.float32),
        ("A100", 8, None, torch.bfloat16),
        ("H100", 9, None, torch.bfloat16),
        ("B200", 10, None, torch.bfloat16),
        ("MI300X", 9, "6.3", torch.bfloat16),
    ],
)
def test_no_dtype_is_emulated_unasked(monkeypatch, name, major, hip, expected):
    properties = SimpleNamespace(name=name, major=major)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert default_dtype(SimpleNamespace(torch_device=torch.device("cuda", 0))) is expected


@pytest.mark.parametrize(
    ("name", "l2_bytes", "expected"),
    [
        ("gfx942:sramecc+:xnack-", 4 << 20, 256 << 20),
        ("gfx1100", 6 << 20, 96 << 20),
        ("gfx90a:sramecc+", 8 << 20, 8 << 20),
        ("", 50 << 20, 50 << 20),
        ("", 0, None),
    ],
)
def test_the_last_cache_of_amd_gpus_is_the_one_behind_l2(name, l2_bytes, expected):
    assert _cache_bytes(SimpleNamespace(gcnArchName=name, L2_cache_size=l2_bytes)) == expected


def test_lists_of_cpus_are_read_as_the_kernel_writes_them():
    assert cpus_in("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11}
    assert cpus_in("\n") == set()


@pytest.mark.skipif(len(ALLOWED) < 2, reason="one CPU is all there is")
def test_the_host_stays_on_the_cpus_of_the_gpus_socket(tmp_path):
    place = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    folder = tmp_path / "0000:1b:00.0"
    folder.mkdir()
    near = min(ALLOWED)
    try:
        (folder / "local_cpulist").write_text(f"{near},4000-4003\n")
        stay_near(place, tmp_path)
        assert os.sched_getaffinity(0) == {near}
        os.sched_setaffinity(0, ALLOWED)
        # None of them is allowed, the kernel does not say, or torch does not.
        (folder / "local_cpulist").write_text("4000-4003\n")
        stay_near(place, tmp_path)
        stay_near(place, tmp_path / "nowhere")
        stay_near(SimpleNamespace(), tmp_path)
        assert os.sched_getaffinity(0) == ALLOWED
    finally:
        os.sched_setaffinity(0, ALLOWED)
