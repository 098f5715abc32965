import os
import time
from types import SimpleNamespace

import psutil
import pytest

from bench.telemetry import host as host_room
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
    values = host.read(1.0)
    for field in ("cpu_load", "cpu_load_of_others", "cpu_clock_mhz", "cpu_temperature_c"):
        assert values[field] is None
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
    # Load and steal are two questions to one function.
    assert len(calls) == (2 if name == "cpu_times" else 1)
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


def test_what_others_take_is_read_where_the_system_tells_it(tmp_path, monkeypatch):
    traffic = tmp_path / "mon_data" / "mon_L3_00" / "mbm_total_bytes"
    traffic.parent.mkdir(parents=True)
    times = SimpleNamespace(steal=100.0)

    def now(stolen_s, cpu_us, memory_us, num_bytes):
        times.steal = stolen_s
        for name, total in (("cpu", cpu_us), ("memory", memory_us)):
            line = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total}"
            (tmp_path / name).write_text(f"{line}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
        traffic.write_text(f"{num_bytes}\n")

    now(100.0, 5_000_000, 0, 10**9)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(host_room, "_stolen_s", lambda: times.steal)
    host = Host(os.getpid(), Rapl(tmp_path), tmp_path, tmp_path)
    fields = ("cpu_steal", "cpu_pressure", "memory_pressure", "memory_bytes_per_s")
    now(101.0, 5_500_000, 0, 3 * 10**9)
    assert list(map(host.read(1.0).get, fields)) == [0.25, 0.5, 0.0, 2e9]
    # The kernel has not brought its counters up to date: the last rate stands.
    assert list(map(host.read(1.0).get, fields)) == [0.25, 0.5, 0.0, 2e9]
    now(101.0, 6_000_000, 1_000_000, 3 * 10**9)
    assert list(map(host.read(1.0).get, fields)) == [0.25, 0.25, 0.3333, 2e9]
    # It has had time enough to, so that nothing happened.
    assert host.read(5.0)["cpu_pressure"] == 0
    assert not host.impossible and not set(fields) & set(host.unsupported)


def test_what_the_system_does_not_tell_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(idle=1.0))
    host = Host(os.getpid(), Rapl(tmp_path), tmp_path / "none", tmp_path)
    values = host.read(1.0)
    for field, reason in {
        "cpu_steal": "this system does not report it",
        "cpu_pressure": "none/cpu cannot be read: No such file",
        "memory_pressure": "none/memory cannot be read: No such file",
        "memory_bytes_per_s": "no counters of memory traffic in ",
    }.items():
        assert values[field] is None and reason in host.unsupported[field]
