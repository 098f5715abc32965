"""Each reason to doubt, on a run that gives it and on one that does not."""

import json
from dataclasses import replace

import pytest

from bench.analysis.doubts import doubts, write_doubts
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.analysis.telemetry import TokenEnergy, token_energy
from bench.records import IsolatedRecord, SteadyRecord
from bench.report.of_run import run_report
from bench.report.sections import Points
from bench.telemetry.samples import NO_WORD, Samples
from bench.variant import Variant
from tests.report.synthetic import FULL, write_run


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path))


def codes(run):
    return [doubt.code for doubt in doubts(run)]


def sampled(run, *rows, ended=("the run ended",)):
    found = replace(run)
    found.__dict__["samples"] = Samples(
        [{"time_s": float(i), **row} for i, row in enumerate(rows)], list(ended)
    )
    return found


def with_plain(run, verify_ms, orders):
    """Plain decodes of four prompts whose steps took so long."""
    (record,) = [r for p, r in run.decodes["code"][Variant(FULL, 0)].items() if p == "p1"]
    plain = {
        f"p{i}": replace(record, order=order, laps_ms={"verify": [ms] * 8})
        for i, (ms, order) in enumerate(zip(verify_ms, orders, strict=True))
    }
    return replace(run, decodes={"code": {**run.decodes["code"], Variant(FULL, 0): plain}})


def test_a_quiet_run_is_not_doubted(run):
    assert doubts(run) == []
    quiet = {
        "cpu_load_of_others": 0.01,
        "cpu_clock_mhz": 2600.0,
        "sm_clock_mhz": 1410,
        "throttle_reasons": ["idle"],
    }
    assert doubts(sampled(measured_at(run, 0.0, 20.0), *[quiet] * 20)) == []


def test_measurements_that_were_held_up(run):
    probes = [replace(record, num_repeats=1) for record in run.probes["code"]]
    (doubt,) = doubts(replace(run, probes={"code": probes}))
    assert doubt.code == "held_up"
    total = len(probes) + sum(len(by_prompt) for by_prompt in run.decodes["code"].values())
    assert doubt.what.startswith(f"{len(probes) / total:.0%} of the measurements")


def test_a_machine_that_slows_down_is_told_by_order_not_by_prompt(run):
    (doubt,) = doubts(with_plain(run, [20, 22, 20, 22], [1, 3, 2, 4]))
    assert (doubt.code, doubt.what) == ("drift", "plain decoding of code became 10% slower during the run")
    assert codes(with_plain(run, [20, 22, 20, 22], [1, 2, 3, 4])) == []


def test_answers_that_no_sensor_can_give_are_named(run):
    session = {"gpu": {"impossible": {"ecc": "7"}}}
    found = replace(run, environment={**run.environment, "telemetry": session})
    found.__dict__["samples"] = Samples([], ["the run ended"], impossible={"power_w": "4294967.295"})
    (doubt,) = doubts(found)
    assert doubt.code == "impossible_reading"
    assert "(ecc: 7; power of the GPU in W: 4294967.295)" in doubt.what


def test_the_report_names_answers_that_no_sensor_can_give(tmp_path):
    folder = write_run(tmp_path)
    lines = [
        {"time_s": 0.0, "began": {"interval_s": 0.1}},
        {
            "time_s": 1.0,
            "ended": "the run ended",
            "unsupported": {},
            "impossible": {"cpu_temperature_c": "255.0"},
        },
    ]
    (folder / "telemetry.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = "temperature of the CPU in C: 255.0"
    report = run_report(Findings.of(read_run(folder)))
    texts = [text for block in report.blocks() if isinstance(block, Points) for text in block.texts]
    assert any(said in text for text in texts)


def test_power_that_never_changes_is_no_sensor(run):
    busy = [{"power_w": 70.0, "utilization": 0.9 if i % 2 else 0.0} for i in range(40)]
    assert codes(sampled(run, *busy)) == ["stuck_sensor"]
    assert codes(sampled(run, *busy[:20])) == []
    assert codes(sampled(run, *[{**row, "utilization": 0.9} for row in busy])) == []
    assert codes(sampled(run, *[{**row, "power_w": 70.0 + i} for i, row in enumerate(busy)])) == []


def test_other_processes_on_the_cpus_and_on_the_gpu(run):
    found = doubts(sampled(run, *[{"cpu_load_of_others": 0.3, "other_pids": [42, 7]}] * 5))
    assert [d.code for d in found] == ["other_load", "shared_gpu"]
    assert "30% of the CPUs" in found[0].what and "(pid 7, 42)" in found[1].what


def measured_at(run, start_s, end_s):
    """All that was measured lies in that stretch; samples come once a second."""
    probes = [replace(record, start_s=start_s, end_s=end_s) for record in run.probes["code"]]
    return replace(run, probes={"code": probes})


def test_processes_of_another_engine_are_no_disturbance(run):
    """Our loop measures before another engine's processes start."""
    rows = [*[{"cpu_load_of_others": 0.0}] * 3, *[{"cpu_load_of_others": 0.9}] * 9]
    ours = measured_at(run, -0.1, 2.1)
    assert "other_load" in codes(sampled(ours, *rows))
    assert "other_load" not in codes(sampled(replace(ours, served={"code": []}), *rows))


@pytest.mark.parametrize("utilization", [0.9, 0.1, None])  # a slice tells none, and small models make little
def test_a_clock_that_moves_while_the_gpu_is_measured(run, utilization):
    rows = [{"sm_clock_mhz": clock, "utilization": utilization} for clock in [1410, 1300] * 10]
    (doubt,) = doubts(sampled(measured_at(run, 0.0, 20.0), *rows))
    assert doubt.code == "moving_clock"
    assert "between 1300 and 1410 MHz" in doubt.what and "--lock-gpu-clocks=1300" in doubt.remedy


def test_a_clock_that_moves_while_nothing_is_measured(run):
    rows = [{"sm_clock_mhz": clock, "cpu_clock_mhz": clock} for clock in [1410] * 15 + [200] * 30]
    assert codes(sampled(measured_at(run, 0.0, 14.5), *rows)) == []
    assert codes(sampled(run, *rows)) == []  # it does not say when it measured


@pytest.mark.parametrize(
    ("frequency", "seen", "remedy"),
    [
        (
            {"governor": "schedutil", "turbo": "on"},
            "the CPU's clock moved between 2000 and 3400 MHz while it was measured "
            "(governor schedutil, turbo on)",
            "fix it, as root: cpupower frequency-set --governor performance; echo 1 > "
            "/sys/devices/system/cpu/intel_pstate/no_turbo (Intel); echo 0 > "
            "/sys/devices/system/cpu/cpufreq/boost (others)",
        ),
        (
            {"governor": None, "turbo": None},
            "the CPU's clock moved between 2000 and 3400 MHz while it was measured",
            "measure on a machine whose clock is fixed",
        ),
    ],
)
def test_a_clock_of_the_cpu_that_moves(run, frequency, seen, remedy):
    rows = [{"cpu_clock_mhz": clock} for clock in [3400.0, 2000.0] * 10]
    on_cpu = replace(measured_at(run, 0.0, 20.0), environment={**run.environment, "cpu_frequency": frequency})
    (doubt,) = doubts(sampled(on_cpu, *rows))
    assert (doubt.code, doubt.what, doubt.remedy) == ("moving_cpu_clock", seen, remedy)
    # Beside a GPU it is not what is measured.
    on_gpu = replace(on_cpu, environment={**on_cpu.environment, "cuda": {"driver": "580"}})
    assert codes(sampled(on_gpu, *rows)) == []


def test_a_clock_of_the_cpu_that_is_free_to_move_unseen(run):
    def left_to(governor):
        return replace(run, environment={**run.environment, "cpu_frequency": {"governor": governor}})

    (doubt,) = doubts(sampled(left_to("powersave"), {"cpu_clock_mhz": None}))
    assert doubt.code == "cpu_scaling" and "the governor powersave" in doubt.what
    assert doubt.remedy == "fix it, as root: cpupower frequency-set --governor performance"
    assert codes(left_to("performance")) == codes(left_to(None)) == []


def test_a_gpu_that_was_set_otherwise_between_two_sessions(run):
    told = [{"gpu": {"power_limit_w": watts, "ecc": "on"}, "why_not": None} for watts in (700.0, 350.0)]
    changed = replace(
        run, environment={**run.environment, "earlier_telemetry": told[:1], "telemetry": told[1]}
    )
    (doubt,) = doubts(changed)
    assert (doubt.code, doubt.remedy) == ("changed_gpu", "measure again from the start with resume=false")
    assert doubt.what == "the GPU's power limit changed between the sessions of this run (700.0 -> 350.0)"


def test_doubts_are_written_for_programs(run, tmp_path):
    write_doubts(doubts(run), tmp_path)
    assert json.loads((tmp_path / "doubts.json").read_text()) == []
    busy = sampled(run, {"cpu_load_of_others": 0.3})
    write_doubts(doubts(busy), tmp_path)
    assert json.loads((tmp_path / "doubts.json").read_text()) == [
        {
            "code": "other_load",
            "what": "other processes took 30% of the CPUs (median over the run)",
            "remedy": "end them, or measure on a machine of its own",
            "touches": ["tokens_per_s", "over_plain", "over_full", "over_full_best", "prediction"],
        }
    ]


def test_a_gpu_that_is_slowed_down(run):
    rows = [{"throttle_reasons": ["hw_thermal", "sw_thermal"]}] * 2 + [{"throttle_reasons": []}] * 8
    (doubt,) = doubts(sampled(run, *rows))
    assert (doubt.code, doubt.what) == (
        "throttled",
        "its temperature slowed the GPU down in 20% of the samples",
    )


def test_telemetry_that_was_lost(run):
    found = sampled(run, {}, ended=["the run was killed", NO_WORD])
    (doubt,) = doubts(found)
    assert doubt.code == "telemetry_lost"
    assert doubt.what == f"sampling ended early: {NO_WORD}"
    found.samples.lost.append("the GPU stopped answering: lost")
    assert [d.what for d in doubts(found)] == [
        "the GPU could not be sampled any more: the GPU stopped answering: lost",
        doubt.what,
    ]


def test_lines_of_the_telemetry_that_cannot_be_read(run):
    found = sampled(run, {})
    found.samples.unreadable.extend([2, 9])
    (doubt,) = doubts(found)
    assert doubt.code == "unreadable_samples"
    assert doubt.what == "2 of the lines of telemetry.jsonl cannot be read and are left out (lines 2, 9)"


def test_a_single_prompt_has_no_interval(run):
    alone = {"code": [probe for probe in run.probes["code"] if probe.prompt_id == "p1"]}
    (doubt,) = [d for d in doubts(replace(run, probes=alone)) if d.code == "one_prompt"]
    assert doubt.what.startswith("of code one prompt was measured, which shows no spread")
    assert "one_prompt" not in codes(run)


def test_parts_that_are_not_known_well(run):
    wide = IsolatedRecord("lm_head", 1024, None, "cold", [1.0], [1.0], 1, "budget", 0.2)
    (doubt,) = doubts(replace(run, isolated=[*run.isolated, wide]))
    assert doubt.code == "imprecise" and "the worst (lm_head at 1,024) to 20%" in doubt.what


def isolated(part, size, execution, device_ms, wall_ms, cache="cold"):
    samples = ([device_ms] * 6, [wall_ms] * 6)
    return IsolatedRecord(part, size, None, cache, *samples, 1, "precise", 0.0, execution=execution)


def step(execution, device_ms, wall_ms):
    """Parts of a draft step of 100 tokens, each as long as the others."""
    parts = (("layer", None), ("lm_head", FULL), ("select", FULL))
    return [isolated(part, size, execution, device_ms, wall_ms) for part, size in parts]


def test_rounds_that_are_bound_by_launches(run):
    # Behind a queue launches are hidden: 0.06 ms in all. From an idle device they show: 0.6 ms against 0.3.
    (doubt,) = doubts(replace(run, isolated=[*step("eager", 0.02, 0.2), *step("graph", 0.02, 0.1)]))
    assert doubt.code == "launch_bound"
    assert doubt.what == (
        "rounds here are bound by launches: the LM head of k = 100 takes 0.2 ms launched kernel by kernel, "
        "and 0.1 ms as a CUDA graph"
    )
    assert doubt.remedy.endswith("see latency.csv")
    # On the device's clock too.
    slow = [*step("eager", 0.08, 0.1), *step("graph", 0.02, 0.1)]
    assert "takes 0.08 ms launched" in doubts(replace(run, isolated=slow))[0].what
    # A slow layer alone makes the step slow.
    layer = isolated("layer", None, "eager", 0.5, 0.5)
    (doubt,) = doubts(replace(run, isolated=[layer, *step("eager", 0.1, 0.1)[1:], *step("graph", 0.1, 0.1)]))
    assert "the draft step of k = 100 takes 0.7 ms launched kernel by kernel, and 0.3 ms" in doubt.what


def measured(run, busy_share, **environment):
    launches = {
        "launch_us": 5.0, "round_ms": 6.0, "kernels_ms": 6 * busy_share, "busy_share": busy_share,
        "vocab_size": 10, "draft_length": 3, "reason": None,
    }  # fmt: skip
    return replace(run, environment={**run.environment, "launches": launches, **environment})


def test_whole_rounds_that_were_timed_both_ways_say_more_than_parts(run):
    slow = replace(run, isolated=[*step("eager", 0.08, 0.1), *step("graph", 0.02, 0.1)])
    (doubt,) = doubts(measured(slow, 0.4))
    assert doubt.code == "launch_bound" and doubt.what == (
        "rounds here are bound by launches: the round of k = 10 and gamma = 3 takes 6 ms launched kernel by "
        "kernel, and 2.4 ms without waiting for launches"
    )
    assert codes(measured(slow, 0.95)) == []
    assert codes(measured(slow, 0.4, decoding={"execution": "graph"})) == []


def test_rounds_whose_launches_hide_or_of_which_no_graph_was_timed(run):
    assert codes(replace(run, isolated=[*step("eager", 0.14, 0.14), *step("graph", 0.1, 0.1)])) == []
    assert codes(replace(run, isolated=step("eager", 0.2, 0.4))) == []
    # Rounds that are graphs launch nothing one by one.
    bound = replace(run, isolated=[*step("eager", 0.08, 0.1), *step("graph", 0.02, 0.1)])
    as_graphs = {**run.environment, "decoding": {"execution": "graph"}}
    assert codes(replace(bound, environment=as_graphs)) == []
    # Warm times stand in only where no cold ones could be had.
    warm = [isolated("lm_head", FULL, how, ms, ms, "warm") for how, ms in (("eager", 0.4), ("graph", 0.1))]
    assert codes(replace(run, isolated=warm)) == ["launch_bound"]
    assert codes(replace(run, isolated=[*warm, isolated("layer", None, "eager", 1, 1)])) == []


def test_parts_that_were_still_changing_when_they_were_timed(run):
    def layer(device_ms, stable):
        record = isolated("layer", None, "eager", 1.0, 1.0)
        return replace(record, device_ms=device_ms, warmup_stable=stable)

    falling, steady = [1.3, 1.3, 1.2, 1.0, 1.1, 1.0], [1.0, 1.02, 1.0, 1.01, 1.0, 1.0]
    (doubt,) = doubts(replace(run, isolated=[layer(falling, False), layer(steady, False)]))
    assert doubt.code == "unsettled"
    assert doubt.what.startswith("1 of 2 parts timed on their own (layer) had not settled")
    # A warm-up too short to tell is no reason to doubt what was steady; nor is noise after a settled one.
    assert codes(replace(run, isolated=[layer(steady, False), layer(falling, True)])) == []
    assert codes(replace(run, isolated=[layer(falling, None)])) == []
    # Halves that overlap may be noise.
    assert codes(replace(run, isolated=[layer([1.3, 1.3, 1.0, 1.0, 1.1, 1.0], False)])) == []


def timed_by(run, **timer):
    return replace(run, environment={**run.environment, "timer": timer})


def test_a_clock_too_coarse_for_a_draft_step(run):
    # The shortest step takes 2 + 0.5 + 0.5 ms and three marks, the shortest head 0.5 ms.
    (doubt,) = doubts(timed_by(run, resolution_ms=0.001, mark_ms=0.1, is_device_pace=True))
    assert doubt.code == "coarse_timer"
    assert doubt.what == "the marks of a draft step cost 3e+02 us, more than 5% of the shortest (3e+03 us)"
    (doubt,) = doubts(timed_by(run, resolution_ms=0.1, mark_ms=0.001))
    assert doubt.what == "the clock has steps of 1e+02 us, and the shortest LM head takes 500 us"
    (doubt,) = doubts(timed_by(run, resolution_ms=None, mark_ms=0.0))
    assert doubt.what.startswith("the clock stands still")


def test_a_part_that_is_short_beside_a_mark_is_no_reason_to_doubt_the_clock(run):
    assert codes(timed_by(run, resolution_ms=0.001, mark_ms=0.04, is_device_pace=True)) == []
    # Of an idle device the host's pace was measured.
    assert codes(timed_by(run, resolution_ms=0.001, mark_ms=0.1, is_device_pace=False)) == []


def test_energy_of_a_run_without_samples_says_why(run):
    assert token_energy(run, "code", Variant(FULL, 0)).reason == "nothing was sampled beside this run"
    told = replace(run, environment={**run.environment, "telemetry": {"why_not": "NVML does not start"}})
    assert token_energy(told, "code", Variant(FULL, 0)).reason == "NVML does not start"


def test_energy_of_a_gpu_is_never_that_of_the_host(run):
    """NVML did not answer, and the host was sampled on: its counters are not the GPU's."""
    steady = {"code": {Variant(FULL, 0): [SteadyRecord("code", FULL, 0, 100, 0.0, 20.0)]}}
    rows = [{"cpu_energy_j": 50.0 * i} for i in range(22)]
    on_cpu = sampled(replace(run, steady=steady), *rows)
    assert token_energy(on_cpu, "code", Variant(FULL, 0)) == TokenEnergy(
        10.0, "rapl"
    )  # 1000 J over 100 tokens
    cuda = {**run.environment, "cuda": {"driver": None}}
    silent = sampled(replace(on_cpu, environment=cuda), *rows)
    assert token_energy(silent, "code", Variant(FULL, 0)).reason == "no energy or power was sampled"
    spread = replace(on_cpu, environment={**run.environment, "target_devices": ["cuda:0", "cuda:1"]})
    assert token_energy(spread, "code", Variant(FULL, 0)).reason == (
        "the target ran on cuda:0 and cuda:1, and the sensors of one device were read"
    )
    told = replace(silent, environment={**cuda, "telemetry": {"why_not": "NVML does not start"}})
    told = sampled(told, *rows)
    assert token_energy(told, "code", Variant(FULL, 0)).reason == "NVML does not start"


def test_energy_of_a_slice_is_not_known(run):
    steady = {"code": {Variant(FULL, 0): [SteadyRecord("code", FULL, 0, 100, 0.0, 20.0)]}}
    environment = {**run.environment, "cuda": {}, "telemetry": {"gpu": {"mig": "a slice"}, "why_not": None}}
    found = sampled(
        replace(run, steady=steady, environment={**environment, "cuda": {"driver": "580"}}),
        *[{"power_w": None, "energy_j": None}] * 22,
    )
    reason = "a MIG slice has no sensor of its own"
    found.samples.unsupported.update(power_w=reason, energy_j=reason, cpu_energy_j="none")
    assert token_energy(found, "code", Variant(FULL, 0)) == TokenEnergy(None, None, reason)


def in_two_windows(run, *powers_w):
    """Plain decoding of 100 tokens in each of two windows of 20 s, with so many watts in each."""
    windows = [SteadyRecord("code", FULL, 0, 100, 25.0 * w, 25.0 * w + 20, w) for w in (0, 1)]
    rows = [{"power_w": powers_w[i >= 25]} for i in range(46)]
    return sampled(replace(run, steady={"code": {Variant(FULL, 0): windows}}), *rows)


def test_energy_of_two_windows_is_taken_together_and_their_difference_told(run):
    # 2000 J and 2100 J over 200 tokens; the difference is 1 J over a mean of 20.5 J a token.
    found = in_two_windows(run, 100.0, 105.0)
    expected = TokenEnergy(pytest.approx(20.5), "integrated", None, pytest.approx(1 / 20.5))
    assert token_energy(found, "code", Variant(FULL, 0)) == expected
    assert codes(found) == []
    (doubt,) = doubts(in_two_windows(run, 100.0, 120.0))
    assert doubt.code == "unsteady_energy" and "by up to 18% between" in doubt.what
