"""The sampling process, as a run starts and ends it."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from bench.config import TelemetryConfig, TelemetryMode
from bench.errors import DeviceError
from bench.telemetry.host import Host, Rapl
from bench.telemetry.sampler import Sampler, run
from bench.telemetry.samples import NO_WORD, now_s, offset_s, open_samples, read_samples
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
        assert seen.gpu["driver"] == "580.00" and seen.has_energy
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


def test_a_gpu_that_is_lost_is_said_and_the_host_sampled_on(scripted, tmp_path):
    scripted(f"{SCRIPT}lost 1.0\n")
    with watch(TelemetryConfig(interval_ms=20), "a", tmp_path):
        wait_until(lambda: read_samples(tmp_path).lost)
        seen = len(read_samples(tmp_path).rows)
        wait_until(lambda: len(read_samples(tmp_path).rows) > seen + 1)
    samples = read_samples(tmp_path)
    assert len(samples.lost) == 1 and samples.lost[0].startswith("the GPU stopped answering")
    assert samples.ended == ["the run ended"]
    assert samples.rows[0]["power_w"] == 250
    assert "power_w" not in samples.rows[-1] and samples.rows[-1]["cpu_load"] >= 0


def only_child():
    (child,) = psutil.Process().children()
    return child


def test_a_sampler_that_dies_is_noted_by_the_run(tmp_path):
    with watch(TelemetryConfig(interval_ms=20), None, tmp_path):
        wait_until(lambda: read_samples(tmp_path).rows)
        child = only_child()
        with (tmp_path / "telemetry.jsonl").open("a") as file:
            file.write('{"time_s": 1')  # as a death in the middle of a line leaves it
        child.kill()
        wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE)
        assert read_samples(tmp_path).ended == [NO_WORD]
    assert read_samples(tmp_path).ended == ["the sampling process died (signal 9)"]


def test_a_session_after_one_that_stopped_without_a_word(tmp_path):
    (tmp_path / "telemetry.jsonl").write_text(
        '{"time_s": 1, "began": {}}\n{"time_s": 2, "cpu_load": 0}\n{"ti'
    )
    with watch(TelemetryConfig(interval_ms=20), None, tmp_path):
        wait_until(lambda: len(read_samples(tmp_path).rows) > 1)
    assert read_samples(tmp_path).ended == [
        NO_WORD,
        "the run ended",
    ]


def test_a_sampler_that_cannot_start_says_why(tmp_path):
    with watch(TelemetryConfig(interval_ms=20), None, tmp_path / "nowhere") as seen:
        assert not seen.has_energy
        assert seen.why_not.startswith("the sampling process did not start (exit code 1: FileNotFoundError: ")


def test_whatever_fails_is_the_reason_why_there_is_no_more():
    class Broken:
        def sample(self):
            raise ZeroDivisionError("a defect")

    reading, writing = os.pipe()
    with os.fdopen(reading) as commands, os.fdopen(writing, "w"):
        assert run(Broken(), 0.0, commands) == "the sampling process failed: ZeroDivisionError: a defect"


def test_a_broken_driver_is_lost_and_the_host_sampled_on(tmp_path):
    class Broken:
        impossible: dict = {}
        unsupported = {"ecc": "no"}

        def fast(self):
            raise ValueError("not a number")

    file = io.StringIO()
    sampler = Sampler(file, Broken(), Host(os.getpid(), Rapl(tmp_path)), set(), offset_s())
    sampler.sample()
    sampler.sample()
    lost, row = map(json.loads, file.getvalue().splitlines())
    assert lost["gpu_lost"] == "ValueError: not a number"
    assert row["cpu_load"] >= 0 and sampler.unsupported()["ecc"] == "no"


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


def test_a_missing_library_is_said_and_only_fatal_where_required(no_library, tmp_path):
    with watch(TelemetryConfig(interval_ms=20), "a", tmp_path) as seen:
        assert seen.gpu is None and not seen.has_energy
        assert seen.why_not.startswith("NVML does not start")
        wait_until(lambda: read_samples(tmp_path).rows)  # of the host
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


def test_a_run_on_the_cpu_has_no_gpu_to_require(tmp_path):
    with (
        pytest.raises(
            DeviceError, match="this run is on the CPU; choose a GPU with gpu=, or .*=auto"
        ) as caught,
        watch(TelemetryConfig(TelemetryMode.required), None, tmp_path),
    ):
        pass
    assert caught.value.exit_code == 2 and not list(tmp_path.iterdir())


@pytest.fixture
def powercap(tmp_path):
    """A CPU package of 20 W, whose counter somebody else turns."""
    zone, stop = tmp_path / "powercap" / "intel-rapl:0", threading.Event()
    zone.mkdir(parents=True)
    (zone / "max_energy_range_uj").write_text("262143328850")
    began = time.perf_counter()

    def turn():
        while True:
            temporary = zone / "next"
            temporary.write_text(str(int(20e6 * (time.perf_counter() - began))))
            temporary.replace(zone / "energy_uj")
            if stop.wait(0.005):
                return

    turner = threading.Thread(target=turn)
    turner.start()
    wait_until((zone / "energy_uj").exists)
    yield zone.parent
    stop.set()
    turner.join()


def test_the_energy_of_a_cpu_is_read_often_enough_for_a_short_window(powercap, tmp_path):
    with watch(TelemetryConfig(interval_ms=50), None, tmp_path, powercap) as seen:
        assert seen.has_energy and seen.gpu is None
        wait_until(lambda: len(read_samples(tmp_path).rows) > 5)
        start = now_s()
        time.sleep(1.5)
        end = now_s()
        wait_until(lambda: read_samples(tmp_path).rows[-1]["time_s"] > end)
    found = energy_between(read_samples(tmp_path).rows, start, end)
    assert found.method == "rapl"
    assert found.energy_j == pytest.approx(20 * (end - start), rel=0.1)


def test_beside_a_gpu_the_energy_of_the_cpu_is_read_once_a_second(scripted, powercap, tmp_path):
    scripted(SCRIPT)
    with watch(TelemetryConfig(interval_ms=20), "a", tmp_path, powercap):
        wait_until(lambda: len(read_samples(tmp_path).rows) > 10)
    rows = read_samples(tmp_path).rows
    assert rows[0]["cpu_energy_j"] == pytest.approx(0, abs=20)
    assert "cpu_energy_j" not in rows[1]


def test_a_cpu_whose_counters_are_not_ours_to_read_tells_no_energy(tmp_path):
    (tmp_path / "powercap" / "intel-rapl:0").mkdir(parents=True)
    with watch(TelemetryConfig(interval_ms=20), None, tmp_path, tmp_path / "powercap") as seen:
        assert not seen.has_energy
        wait_until(lambda: read_samples(tmp_path).rows)
    assert read_samples(tmp_path).unsupported["cpu_energy_j"].startswith("RAPL cannot be read")


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


def test_sampling_four_gpus_costs_under_a_hundredth_of_a_core(stubbed, tmp_path):
    """Five seconds at 20 Hz on a scripted clock, with what is asked once a second, and the file."""
    script = "".join(f"gpu GPU-{name} 250 250\n" for name in "abcd")
    code = (
        "import os, time; from pathlib import Path\n"
        "from bench.telemetry.host import Host; from bench.telemetry.nvml import NvmlGpu\n"
        "from bench.telemetry.sampler import Sampler; from bench.telemetry.samples import open_samples\n"
        "now = 0.0\n"
        "class Scripted(Sampler):\n"
        "    def _now_s(self):\n"
        "        return now\n"
        f"files = [open_samples(Path({str(tmp_path)!r}) / name) for name in 'abcd']\n"
        "samplers = [Scripted(file, NvmlGpu(name), Host(os.getpid()), {1}, 0.0)\n"
        "            for file, name in zip(files, 'abcd')]\n"
        "def sample(num):\n"
        "    global now\n"
        "    for _ in range(num):\n"
        "        now += 0.05\n"
        "        [sampler.sample() for sampler in samplers]\n"
        "sample(21)\n"
        "before = time.process_time()\n"
        "sample(100)\n"
        "print((time.process_time() - before) / 5)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=stubbed(script), capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in (tmp_path / "d").read_text().splitlines()]
    assert len(rows) == 121 and sum("cpu_load" in row and "pcie_tx_bytes_per_s" in row for row in rows) >= 6
    assert float(done.stdout) < 0.01


def test_the_samplers_file_is_whole_lines(scripted, tmp_path):
    scripted(SCRIPT)
    with watch(TelemetryConfig(interval_ms=20), "a", tmp_path):
        wait_until(lambda: len(read_samples(tmp_path).rows) > 3)
    lines = (tmp_path / "telemetry.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    with (tmp_path / "telemetry.jsonl").open("a") as file:
        file.write('{"time_s": 1')  # torn by a kill
    found = read_samples(tmp_path)
    assert len(found.rows) == len(lines) - 2  # without the first and the last
    assert found.unreadable == [len(lines) + 1]


def test_lines_that_are_no_samples_are_counted(tmp_path):
    lines = [b'{"time_s": 1.0}', b"", b"\xff\xfe", b"[1]", b'{"time_s": "2"}', b'{"time_s": 3.0}', b'{"ti']
    (tmp_path / "telemetry.jsonl").write_bytes(b"\n".join(lines))
    found = read_samples(tmp_path)
    assert [row["time_s"] for row in found.rows] == [1.0, 3.0]
    assert found.unreadable == [3, 4, 5, 7]
    with open_samples(tmp_path / "telemetry.jsonl") as file:
        file.write('{"time_s": 4.0}\n')
    assert [row["time_s"] for row in read_samples(tmp_path).rows] == [1.0, 3.0, 4.0]


def test_telemetry_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "telemetry.jsonl").mkdir()
    assert read_samples(tmp_path).ended == ["telemetry.jsonl cannot be read: Is a directory"]
