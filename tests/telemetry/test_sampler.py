"""The sampling process, as a run starts and ends it."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from bench.config import TelemetryConfig, TelemetryMode
from bench.errors import DeviceError
from bench.telemetry.clock import now_s
from bench.telemetry.samples import read_samples
from bench.telemetry.watch import watch
from bench.telemetry.windows import energy_between

SCRIPT = "gpu GPU-a 250 100\n"


@pytest.fixture
def scripted(stubbed, monkeypatch):
    def follow(script):
        for name, value in stubbed(script).items():
            monkeypatch.setenv(name, value)

    return follow


def wait_until(condition, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_known_power_gives_known_joules_by_either_method(scripted, tmp_path):
    scripted(SCRIPT)
    with watch(TelemetryConfig(interval_ms=20), "a", tmp_path) as seen:
        assert seen.gpu["driver"] == "580.00" and seen.tells_energy
        wait_until(lambda: len(read_samples(tmp_path).rows) > 5)
        start = now_s()
        time.sleep(1.0)
        end = now_s()
        rows = len(read_samples(tmp_path).rows)
        wait_until(lambda: len(read_samples(tmp_path).rows) > rows + 2)
    samples = read_samples(tmp_path)
    assert samples.ended == ["the run ended"]
    counted = energy_between(samples.rows, start, end)
    assert counted.method == "counter"
    # The counter is read a little after the sample's time; on a busy machine some milliseconds.
    assert counted.energy_j == pytest.approx(250 * (end - start), rel=0.05)
    without = [{**row, "energy_j": None} for row in samples.rows]
    integrated = energy_between(without, start, end)
    assert integrated.method == "integrated"
    assert integrated.energy_j == pytest.approx(250 * (end - start), rel=1e-6)


def test_a_gpu_that_is_lost_ends_the_samples_and_not_the_run(scripted, tmp_path):
    scripted(f"{SCRIPT}lost 1.0\n")
    with watch(TelemetryConfig(interval_ms=20), "a", tmp_path):
        wait_until(lambda: read_samples(tmp_path).ended)
    samples = read_samples(tmp_path)
    assert len(samples.ended) == 1 and samples.ended[0].startswith("the GPU stopped answering")
    assert samples.rows


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


def test_a_missing_library_is_said_and_only_fatal_where_required(no_library, tmp_path):
    with watch(TelemetryConfig(), "a", tmp_path) as seen:
        assert seen.gpu is None and not seen.tells_energy
        assert seen.why_not.startswith("NVML does not start")
    with (
        pytest.raises(DeviceError, match="telemetry.mode=required.*libnvidia-ml.so.1.*telemetry.mode=auto"),
        watch(TelemetryConfig(TelemetryMode.required), "a", tmp_path),
    ):
        pass


def test_a_run_on_the_cpu_never_asks_nvml(scripted, tmp_path):
    scripted("error nvmlInitWithFlags 9\n")
    with watch(TelemetryConfig(interval_ms=20), None, tmp_path) as seen:
        assert (seen.gpu, seen.why_not) == (None, None)
        wait_until(lambda: read_samples(tmp_path).rows)
    row = read_samples(tmp_path).rows[0]
    assert "power_w" not in row and row["cpu_load"] >= 0


def test_nothing_is_sampled_when_it_is_off(tmp_path):
    with watch(TelemetryConfig(TelemetryMode.off), None, tmp_path) as seen:
        assert seen.why_not == "telemetry.mode=off"
    assert not list(tmp_path.iterdir())


def test_the_sampler_ends_with_a_run_that_is_killed(tmp_path):
    code = (
        "import time; from pathlib import Path\n"
        "from bench.config import TelemetryConfig; from bench.telemetry.watch import watch\n"
        f"with watch(TelemetryConfig(interval_ms=20), None, Path({str(tmp_path)!r})):\n"
        "    print('started', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "started\n"
        (sampler,) = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not sampler.is_running() or sampler.status() == psutil.STATUS_ZOMBIE)
    ended = read_samples(tmp_path).ended
    assert ended in (["the run ended"], ["the run was killed"])


def test_sampling_four_gpus_costs_under_a_hundredth_of_a_core(stubbed):
    script = "".join(f"gpu GPU-{name} 250 250\n" for name in "abcd")
    code = (
        "import json, time; from bench.telemetry.nvml import NvmlGpu\n"
        "gpus = [NvmlGpu(name) for name in 'abcd']\n"
        "[gpu.fast() for gpu in gpus]\n"
        "before = time.process_time()\n"
        "for _ in range(100):\n"
        "    lines = [json.dumps(gpu.fast()) for gpu in gpus]\n"
        "print((time.process_time() - before) / 100 * 20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=stubbed(script), capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.01


def test_the_samplers_file_is_whole_lines(scripted, tmp_path):
    scripted(SCRIPT)
    with watch(TelemetryConfig(interval_ms=20), "a", tmp_path):
        wait_until(lambda: len(read_samples(tmp_path).rows) > 3)
    lines = (tmp_path / "telemetry.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    with (tmp_path / "telemetry.jsonl").open("a") as file:
        file.write('{"time_s": 1')  # torn by a kill
    assert len(read_samples(tmp_path).rows) == len(lines) - 1
