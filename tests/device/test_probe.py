"""The probes on a clock that ticks by script, and once for real on the CPU."""

import pytest
import torch

from bench.device import CpuDevice
from bench.device.probe import last_cache_bytes, matmul_flops_per_s, memory_bytes_per_s, probe


class ScriptedDevice:
    """A device where every piece of work takes as long as the script says."""

    name = "scripted"
    torch_device = torch.device("cpu")

    def __init__(self, *durations_ms: float):
        self._durations = iter(durations_ms)
        self._now, self._open = 0.0, False
        self.synchronized = 0

    def mark(self) -> float:
        if self._open:
            self._now += next(self._durations)
        self._open = not self._open
        return self._now

    def elapsed_ms(self, start: float, end: float) -> float:
        return end - start

    def synchronize(self) -> None:
        self.synchronized += 1


REPEATS = 9


def test_bandwidth_is_the_larger_of_reading_and_copying():
    # a MiB read in 1 ms, or copied (read and written) in 4 ms
    device = ScriptedDevice(*[1.0] * REPEATS, *[4.0] * REPEATS)
    assert memory_bytes_per_s(device, 2**20) == pytest.approx(2**20 * 1e3)
    device = ScriptedDevice(*[4.0] * REPEATS, *[1.0] * REPEATS)
    assert memory_bytes_per_s(device, 2**20) == pytest.approx(2 * 2**20 * 1e3)
    assert device.synchronized == 4


def test_the_median_ignores_an_interruption():
    device = ScriptedDevice(*[1.0] * (REPEATS - 1), 500.0, *[4.0] * REPEATS)
    assert memory_bytes_per_s(device, 2**20) == pytest.approx(2**20 * 1e3)


def test_matrices_grow_until_a_product_is_long():
    # 256, 512: short; 1024: 25 ms, the last
    device = ScriptedDevice(*[1.0] * REPEATS, *[2.0] * REPEATS, *[25.0] * REPEATS)
    assert matmul_flops_per_s(device, torch.float32) == pytest.approx(2 * 512**3 / 2e-3)
    device = ScriptedDevice(*[1.0] * REPEATS, *[2.0] * REPEATS)
    assert matmul_flops_per_s(device, torch.float32, largest=512) == pytest.approx(2 * 512**3 / 2e-3)


def test_the_last_cache_of_a_cpu(tmp_path):
    for index, size in enumerate(["32K", "512K", "16M", "unknown"]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert last_cache_bytes(torch.device("cpu"), tmp_path) == 16 * 2**20
    assert last_cache_bytes(torch.device("cpu"), tmp_path / "none") is None


def test_a_real_cpu_is_measured(monkeypatch):
    monkeypatch.setattr("bench.device.probe._LEAST_BUFFER_BYTES", 2**22)
    monkeypatch.setattr("bench.device.probe.last_cache_bytes", lambda device: 2**18)
    device = CpuDevice()
    spec = probe(device, torch.float32)
    assert spec.name == device.name and spec.source.startswith("measured on")
    assert spec.memory_bytes_per_s > 1e6 and spec.peak("float32") > 1e6
    assert spec.cache_bytes == 2**18 and spec.name_pattern is None
