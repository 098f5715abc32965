import os
import time
from types import SimpleNamespace

import psutil
import pytest

from bench.telemetry.host import Host, Rapl


def zone(folder, name, energy_uj, most_uj=1000):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(str(energy_uj))
    (folder / name / "max_energy_range_uj").write_text(str(most_uj))


def test_packages_are_added_and_a_wrap_is_counted_through(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900)
    zone(tmp_path, "intel-rapl:1", 100)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of the first package
    zone(tmp_path, "intel-rapl:2", 7)
    (tmp_path / "intel-rapl:2" / "name").write_text("psys\n")  # the packages again, and the rest of the board
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0\n")
    rapl = Rapl(tmp_path)
    assert rapl.read_j() == 0
    zone(tmp_path, "intel-rapl:0", 100)  # 100 to the end, 100 from the start
    zone(tmp_path, "intel-rapl:1", 150)
    assert rapl.read_j() == 250 / 1e6
    assert rapl.why_not is None


@pytest.mark.parametrize("now_uj", [0, 100, 10**15])
def test_a_counter_that_was_reset_is_no_wrap(tmp_path, now_uj):
    """It would be 262 kJ in a moment; the sum goes back, and who reads it sees that."""
    zone(tmp_path, "intel-rapl:0", 1_000_000, most_uj=262_143_328_850)
    rapl = Rapl(tmp_path)
    assert rapl.read_j() == 0
    zone(tmp_path, "intel-rapl:0", 1_000_500, most_uj=262_143_328_850)
    assert rapl.read_j() == 500 / 1e6
    zone(tmp_path, "intel-rapl:0", now_uj, most_uj=262_143_328_850)
    assert rapl.read_j() == 0
    zone(tmp_path, "intel-rapl:0", now_uj + 700, most_uj=262_143_328_850)
    assert rapl.read_j() == 700 / 1e6


def test_an_answer_that_no_sensor_can_give_is_none_and_named(tmp_path, monkeypatch):
    host = Host(os.getpid(), Rapl(tmp_path))
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: [SimpleNamespace(current=0.0)])
    temperatures = {"coretemp": [SimpleNamespace(current=255.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: temperatures)
    monkeypatch.setattr(host, "_busy_s", lambda: (1e9, 0.0))
    assert set(host.read(1.0).values()) == {None}
    assert host.impossible["cpu_clock_mhz"] == "0.0" and host.impossible["cpu_temperature_c"] == "255.0"
    assert float(host.impossible["cpu_load"]) > 1e6
    assert not host.unsupported.keys() & host.impossible.keys()


def test_a_counter_that_leaps_is_named_and_a_reset_is_not(tmp_path):
    zone(tmp_path, "intel-rapl:0", 1000, most_uj=262_143_328_850)
    host = Host(os.getpid(), Rapl(tmp_path))
    assert host.energy_j() == 0
    zone(tmp_path, "intel-rapl:0", 10, most_uj=262_143_328_850)
    assert host.energy_j() == 0 and "cpu_energy_j" not in host.impossible
    zone(tmp_path, "intel-rapl:0", 2**32 * 1000, most_uj=262_143_328_850)
    assert host.energy_j() == 0 and host.impossible["cpu_energy_j"].startswith("4294967 J in ")


def test_idle_time_that_goes_back_is_no_load(tmp_path, monkeypatch):
    host = Host(os.getpid(), Rapl(tmp_path))
    num_cpus = psutil.cpu_count()
    busy, own = host._before
    monkeypatch.setattr(host, "_busy_s", lambda: (busy - 0.005 * num_cpus, own))
    assert host.read(1.0)["cpu_load"] == 0 and not host.impossible
    monkeypatch.setattr(host, "_busy_s", lambda: (busy - 100 * num_cpus, own))
    assert host.read(1.0)["cpu_load"] is None and host.impossible["cpu_load"].startswith("-")


def test_counters_that_are_not_there_or_not_ours_say_so(tmp_path):
    assert Rapl(tmp_path).read_j() is None
    assert Rapl(tmp_path).why_not == "this machine has no RAPL counters"
    (tmp_path / "intel-rapl:0").mkdir()
    rapl = Rapl(tmp_path)
    assert rapl.read_j() is None
    assert rapl.why_not.startswith("RAPL cannot be read: No such file")


def test_load_of_this_process_is_not_that_of_others(tmp_path):
    host = Host(os.getpid(), Rapl(tmp_path))
    begin, spent = time.perf_counter(), time.process_time()
    while time.process_time() - spent < 0.5:
        pass
    passed_s = time.perf_counter() - begin
    values = host.read(passed_s)
    own = 0.5 / passed_s / (os.cpu_count() or 1)
    assert values["cpu_load"] >= 0.8 * own
    # Ticks of the kernel's clock are 10 ms; what is left over is other work and these.
    assert values["cpu_load_of_others"] <= values["cpu_load"] - 0.8 * own + 0.05
    assert host.energy_j() is None
    assert host.unsupported["cpu_energy_j"] == "this machine has no RAPL counters"


def test_the_clock_is_that_of_the_fastest_cpu(tmp_path, monkeypatch):
    clocks = [SimpleNamespace(current=mhz) for mhz in (800.0, 3400.04, 1200.0)]
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: clocks)
    assert Host(os.getpid(), Rapl(tmp_path)).read(1.0)["cpu_clock_mhz"] == 3400.0


@pytest.mark.parametrize(
    ("stumbles", "field", "reason"),
    [
        (
            ("cpu_freq", NotImplementedError("can't find current frequency file")),
            "cpu_clock_mhz",
            "can't find",
        ),
        (("cpu_freq", None), "cpu_clock_mhz", "this machine does not report it"),
        (("sensors_temperatures", OSError(5, "Input/output error")), "cpu_temperature_c", "Input/output"),
        (("cpu_times", PermissionError(13, "Permission denied")), "cpu_load", "Permission denied"),
    ],
)
def test_a_reading_that_fails_is_none_with_its_reason_and_not_asked_again(
    tmp_path, monkeypatch, stumbles, field, reason
):
    name, error = stumbles
    calls = []

    def stumble(*_, **__):
        calls.append(1)
        if error:
            raise error

    monkeypatch.setattr(psutil, name, stumble)
    host = Host(os.getpid(), Rapl(tmp_path))
    found = [host.read(1.0) for _ in range(3)]
    assert [values[field] for values in found] == [None] * 3
    assert reason in host.unsupported[field]
    assert len(calls) == 1
    # The others are read as ever.
    assert field == "cpu_load" or all(values["cpu_load"] is not None for values in found)


def test_a_system_without_temperatures_says_so(tmp_path, monkeypatch):
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)
    host = Host(os.getpid(), Rapl(tmp_path))
    assert host.read(1.0)["cpu_temperature_c"] is None
    assert host.unsupported["cpu_temperature_c"] == "psutil reads no temperature on this system"


def test_a_process_that_has_ended_is_no_failed_reading(tmp_path, monkeypatch):
    host = Host(os.getpid(), Rapl(tmp_path))

    def gone(self):
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil.Process, "cpu_times", gone)
    with pytest.raises(psutil.NoSuchProcess):
        host.read(1.0)
