import os
import time

from bench.telemetry.host import Host, Rapl


def zone(folder, name, energy_uj, most_uj=1000):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(str(energy_uj))
    (folder / name / "max_energy_range_uj").write_text(str(most_uj))


def test_packages_are_added_and_a_wrap_is_counted_through(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900)
    zone(tmp_path, "intel-rapl:1", 100)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of the first package
    rapl = Rapl(tmp_path)
    assert rapl.read_j() == 0
    zone(tmp_path, "intel-rapl:0", 100)  # 100 to the end, 100 from the start
    zone(tmp_path, "intel-rapl:1", 150)
    assert rapl.read_j() == 250 / 1e6
    assert rapl.why_not is None


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
    assert values["cpu_energy_j"] is None
    assert host.unsupported["cpu_energy_j"] == "this machine has no RAPL counters"
