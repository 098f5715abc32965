"""What NVML says of the real GPU: `make test-gpu`."""

import os
import time

import pytest
import torch

from bench.config import TelemetryConfig
from bench.telemetry.nvml import NvmlGpu, driver_version
from bench.telemetry.samples import now_s, read_samples
from bench.telemetry.watch import watch
from bench.telemetry.windows import energy_between

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu(device):
    found = NvmlGpu(device.uuid)
    yield found
    found.close()


def work(device, seconds):
    """Keeps the GPU busy that long; returns when it began and ended, on the clock of the samples."""
    x = torch.randn(4096, 4096, device=device.torch_device, dtype=torch.bfloat16)
    device.synchronize()
    start = now_s()
    while now_s() - start < seconds:
        for _ in range(20):
            x @ x
        device.synchronize()
    return start, now_s()


def has_energy(gpu):
    return not {"energy_j", "power_w"} <= gpu.unsupported.keys()


def test_the_board_is_that_of_torch(device, gpu):
    import pynvml

    name = pynvml.nvmlDeviceGetName(gpu._own)
    told = gpu.describe()
    print(f"\n{device.name}, {device.uuid}: {told}")
    # NVML puts a slice's profile behind the name of its GPU, and older drivers the maker before it.
    assert device.name.removeprefix("NVIDIA ").split(" MIG")[0] in name
    assert told["driver"] and told["driver"] == driver_version()
    memory = gpu.fast()["memory_used_bytes"]
    assert memory is None or 0 < memory <= torch.cuda.get_device_properties(0).total_memory * 1.05


def test_every_reading_has_a_value_or_a_reason(device, gpu):
    work(device, 0.5)
    start = time.process_time()
    for _ in range(20):
        found = gpu.fast()
    cost_ms = (time.process_time() - start) / 20 * 1e3
    found |= gpu.slow({os.getpid()})
    print(f"\none fast reading takes {cost_ms:.3f} ms of a core; {found}; not told: {gpu.unsupported}")
    for name, value in found.items():
        assert value is not None or gpu.unsupported[name], name


def test_energy_rises_under_load_and_power_stays_in_its_limits(device, gpu):
    if not has_energy(gpu):
        assert all(gpu.unsupported[name] for name in ("energy_j", "power_w"))
        pytest.skip(f"no energy here: {gpu.unsupported['power_w']}")
    before = gpu.fast()
    start, end = work(device, 3.0)
    after = gpu.fast()
    if before["energy_j"] is not None:
        mean_w = (after["energy_j"] - before["energy_j"]) / (end - start)
        print(f"\n{mean_w:.0f} W by the counter, {after['power_w']} W now")
        limit_w = gpu.describe()["power_limit_w"]
        assert 5 < mean_w < (1.3 * limit_w if limit_w else 2000)


def test_this_process_is_listed_or_the_reason_is_given(device, gpu):
    work(device, 0.2)
    others = gpu.slow({os.getpid()})["other_pids"]
    print(f"\nothers: {others}, {gpu.unsupported.get('other_pids')}")
    if others is None:
        assert gpu.unsupported["other_pids"]
    else:
        assert os.getpid() not in others


def test_joules_of_a_busy_window_are_its_mean_power(device, gpu, tmp_path):
    with watch(TelemetryConfig(interval_ms=50), device.uuid, tmp_path) as seen:
        assert seen.gpu and seen.why_not is None
        work(device, 2.0)  # warm: power is a mean over the last second on many GPUs
        start, end = work(device, 4.0)
        time.sleep(1.2)
    samples = read_samples(tmp_path)
    assert samples.ended == ["the run ended"] and samples.lost == []
    rows = [row for row in samples.rows if start <= row["time_s"] <= end]
    assert len(rows) > 40
    found = energy_between(samples.rows, start, end, of_gpu=True)
    if not seen.has_energy:
        assert found.energy_j is None and found.reason
        pytest.skip(f"no energy here: {samples.unsupported}")
    powers = [row["power_w"] for row in rows if row["power_w"] is not None]
    mean_w = sum(powers) / len(powers)
    print(f"\n{found.method}: {found.energy_j:.0f} J in {end - start:.2f} s, {mean_w:.0f} W by its power")
    assert found.energy_j == pytest.approx(mean_w * (end - start), rel=0.25)
