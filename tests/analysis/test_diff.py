import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bench.analysis import diff as diff_module
from bench.analysis.diff import (
    ALL_DECODES,
    DIFF_COLUMNS,
    FASTER,
    OUTPUT_COLUMNS,
    SAME,
    SLOWER,
    TOO_FEW,
    TOO_SHORT,
    Change,
    diff_frame,
    judge_change,
    output_frame,
    require_comparable,
)
from bench.analysis.latency import Drift, drift_of
from bench.analysis.run import Run, read_run
from bench.errors import ConfigError
from bench.report.of_diff import diff_figure
from bench.stats.paired import PairedRatio, holm
from bench.variant import Variant
from tests.analysis.synthetic import FULL, Device, Experiment, write_run
from tests.report.synthetic import write_run as write_small_run

QUIET = Experiment(num_prompts=12)


def runs(tmp_path, before: Device, after: Device, experiment: Experiment = QUIET):
    first = read_run(write_run(tmp_path / "before", before, experiment))
    return first, read_run(
        write_run(tmp_path / "after", after, replace(experiment, seed=experiment.seed + 1))
    )


def by_name(times):
    return times.set_index(["part", "domain", "vocab_size", "draft_length"])


def test_two_prompts_by_hand(tmp_path):
    before = read_run(write_small_run(tmp_path / "before", {100: 5.5, 10: 0.5}))
    after = read_run(write_small_run(tmp_path / "after", {100: 11.0, 10: 0.5}))
    times = diff_frame(before, after, 0.02)
    assert list(times.columns) == DIFF_COLUMNS
    decodes = times[times["part"] == "decode"].set_index(["vocab_size", "draft_length"])
    # Eight tokens: plain 160 ms; full 2 rounds of 3 (head + 0.5) + 2 * 2 + 24, 4 of prefill and 3 of extend.
    assert decodes.loc[(100, 0), "before_ms"] == pytest.approx(20)
    assert decodes.loc[(100, 0), "ratio"] == 1
    assert decodes.loc[(100, 3), "before_ms"] == pytest.approx(99 / 8)
    assert decodes.loc[(100, 3), "after_ms"] == pytest.approx(132 / 8)
    assert decodes.loc[(100, 3), "ratio"] == pytest.approx(132 / 99)
    assert decodes.loc[(10, 3), "ratio"] == pytest.approx(1)
    # At 20 tokens the head takes 0.5 + 5/9 ms before and 0.5 + 10.5/9 ms after.
    twenty = (69 + 6 * 10.5 / 9) / (69 + 6 * 5 / 9)
    assert decodes.loc[(20, 3), "ratio"] == pytest.approx(twenty)
    whole = times.iloc[0]
    assert whole["part"] == ALL_DECODES
    assert whole["ratio"] == pytest.approx((132 / 99 * twenty) ** (1 / 4))
    head = times[times["part"] == "lm_head"].set_index("vocab_size")
    assert head.loc[100, "ratio"] == pytest.approx(2)
    # Three rounds of 3 heads (5.5), 3 selections (0.5), 2 layers (2) and 24 to verify; two extensions (3).
    assert head.loc[100, "share"] == pytest.approx(9 * 5.5 / (3 * (3 * 6 + 4 + 24) + 6))
    assert (times["num_prompts"] == 2).all()
    assert set(times["verdict"]) <= {"too few prompts", TOO_SHORT}


def test_two_prompts_tell_nothing_and_that_is_said(tmp_path):
    before = read_run(write_small_run(tmp_path / "before", {100: 5.5, 10: 0.5}))
    after = read_run(write_small_run(tmp_path / "after", {100: 50.0, 10: 5.0}))
    outcome = judge_change(before, after, 0.02)
    assert outcome.change is Change.inconclusive
    assert outcome.exit_code == 0
    assert "so few prompts can neither show nor exclude a slowdown of 2.0%" in outcome.sentence
    assert "no slowdown of all decodes, however large, would be called one" in outcome.notes[0]


def test_five_percent_slower_is_found_where_it_is(tmp_path):
    slower = Device(noise=0.005, slowdown={"lm_head": 1.05})
    outcome = judge_change(*runs(tmp_path, Device(noise=0.005), slower), 0.02)
    assert outcome.change is Change.slower and outcome.exit_code == 1
    slow = outcome.times[outcome.times["verdict"] == SLOWER]
    # Only what takes a noticeable share of its rounds is judged: the larger heads.
    assert set(slow["part"]) == {"lm_head"}
    assert FULL in set(slow["vocab_size"])
    assert slow["ratio"].between(1.03, 1.07).all()
    assert "LM head at k = 49,152" in outcome.sentence


def test_a_whole_slowdown_shows_in_the_decodes(tmp_path):
    parts = ("lm_head", "select", "layer", "verify", "other", "extend", "draft_prefill")
    slower = Device(noise=0.005, slowdown=dict.fromkeys(parts, 1.05))
    before, after = runs(tmp_path, Device(noise=0.005), slower)
    outcome = judge_change(before, after, 0.02)
    whole = outcome.times.iloc[0]
    assert whole["verdict"] == SLOWER
    assert whole["ratio"] == pytest.approx(1.05, abs=0.01)
    assert judge_change(after, before, 0.02).times.iloc[0]["verdict"] == FASTER
    assert judge_change(before, after, 0.1).change is Change.not_slower


def test_the_same_again_is_not_slower(tmp_path):
    outcome = judge_change(*runs(tmp_path, Device(noise=0.005), Device(noise=0.005)), 0.02)
    assert outcome.change is Change.not_slower and outcome.exit_code == 0
    assert outcome.times.iloc[0]["verdict"] == SAME
    assert "a slowdown of 2.0% can be excluded" in outcome.sentence
    least = outcome.times.iloc[0]["least_shown"]
    assert 0.02 < least < 0.05
    assert f"would have called one is {least:.1%}" in outcome.notes[0]


def test_eight_prompts_show_a_slowdown_of_everything(tmp_path):
    parts = ("lm_head", "select", "layer", "verify", "other", "extend", "draft_prefill")
    eight = Experiment(num_prompts=8)
    slower = Device(noise=0.002, slowdown=dict.fromkeys(parts, 1.05))
    outcome = judge_change(*runs(tmp_path, Device(noise=0.002), slower, eight), 0.02)
    whole = outcome.times.iloc[0]
    # All eight lie above: 1 / 256, doubled because the parts have the other half of the error rate.
    assert whole["p_slower"] == pytest.approx(2 / 256)
    assert whole["verdict"] == SLOWER and outcome.exit_code == 1
    assert "95% confidence over all of them: all decodes 1.05" in outcome.sentence
    # There are too many parts for eight prompts to show where.
    assert set(outcome.times["verdict"][1:]) <= {TOO_FEW, TOO_SHORT}


def with_drift(run: Run, change: float) -> Run:
    """The same run, where everything takes longer by this share in its second half."""
    half = max(p.order for probes in run.probes.values() for p in probes) / 2

    def later(record, **changed):
        laps = {part: [ms * (1 + change) for ms in times] for part, times in record.laps_ms.items()}
        return replace(record, laps_ms=laps, **changed) if record.order > half else record

    probes = {domain: [later(p) for p in found] for domain, found in run.probes.items()}
    decodes = {
        domain: {
            key: {name: later(r, decode_ms=r.decode_ms * (1 + change)) for name, r in found.items()}
            for key, found in variants.items()
        }
        for domain, variants in run.decodes.items()
    }
    return replace(run, probes=probes, decodes=decodes)


def test_a_machine_that_drifts_beyond_the_threshold_tells_nothing(tmp_path):
    before, after = runs(tmp_path, Device(noise=0.002), Device(noise=0.002))
    drifted = with_drift(after, 0.1)
    assert drift_of(drifted).change == pytest.approx(0.1, abs=0.01)
    outcome = judge_change(before, drifted, 0.02)
    assert outcome.change is Change.inconclusive and outcome.exit_code == 0
    assert outcome.sentence.startswith(
        "inconclusive: the machine changed while it was measured. Within after"
    )
    assert drift_of(drifted).phrase(".1%") in outcome.sentence
    assert "beyond the threshold of 2.0%" in outcome.sentence
    assert "Measure both again" in outcome.sentence
    # A threshold above it is not touched.
    assert judge_change(before, with_drift(after, 0.1), 0.2).change is Change.not_slower


def test_a_slowdown_within_the_drift_is_not_called_one_and_one_beyond_it_is(tmp_path):
    parts = ("lm_head", "select", "layer", "verify", "other", "extend", "draft_prefill")
    many = Experiment(num_prompts=24)
    for slowdown, change in ((1.06, Change.inconclusive), (1.3, Change.slower)):
        slower = Device(noise=0.002, slowdown=dict.fromkeys(parts, slowdown))
        before, after = runs(tmp_path / str(slowdown), Device(noise=0.002), slower, many)
        assert judge_change(before, after, 0.02).change is Change.slower
        outcome = judge_change(before, with_drift(after, 0.1), 0.02)
        assert outcome.change is change
        assert ("look slower, but not by more than that" in outcome.sentence) == (slowdown == 1.06)


def test_noise_beyond_the_threshold_is_inconclusive(tmp_path, monkeypatch):
    monkeypatch.setattr(diff_module, "drift_of", lambda run: Drift(0.0, ""))
    outcome = judge_change(*runs(tmp_path, Device(noise=0.3), Device(noise=0.3)), 0.001)
    assert outcome.change is Change.inconclusive
    assert "a slowdown of 0.1% is neither shown nor excluded" in outcome.sentence


def alarms(shift: float, threshold: float, num_seeds: int, num_comparisons: int = 30) -> float:
    """Share of seeds with an alarm, where every comparison of a pair shares its prompts' noise."""
    found = 0
    for seed in range(num_seeds):
        rng = np.random.default_rng(seed)
        prompts = rng.normal(0, 0.01, 24)
        logs = shift + prompts + rng.normal(0, 0.01, (num_comparisons, 24))
        p_values = np.array([PairedRatio.of(row, threshold).p_slower for row in logs])
        found += holm(p_values).min() <= 0.05
    return found / num_seeds


def test_false_alarms_keep_to_the_stated_rate():
    # At the threshold itself, where they are likeliest, at most 5% (and 3 standard errors of 300 seeds).
    at_threshold = alarms(np.log1p(0.02), 0.02, 300)
    assert 0 < at_threshold <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert alarms(0.0, 0.0, 300) == at_threshold
    # Two runs of the same are far inside.
    assert alarms(0.0, 0.02, 300) == 0


def test_the_same_again_raises_no_alarm_whatever_the_seed(tmp_path):
    device, small = Device(noise=0.01), Experiment(num_prompts=10)
    found = [read_run(write_run(tmp_path / str(n), device, replace(small, seed=n))) for n in range(5)]
    outcomes = [judge_change(before, after, 0.02) for before, after in itertools.pairwise(found)]
    assert [outcome.exit_code for outcome in outcomes] == [0] * 4


def test_five_percent_is_nearly_always_found():
    assert alarms(np.log(1.05), 0.02, 100) >= 0.95


def test_outputs_and_acceptance(tmp_path):
    before = read_run(write_small_run(tmp_path / "before"))
    decodes, variant = before.decodes["code"], Variant(10, 3)
    changed = replace(decodes[variant]["p1"], accepted=[3, 1, 1], token_ids=[10, 11])
    after = replace(before, decodes={"code": {**decodes, variant: {**decodes[variant], "p1": changed}}})
    frame = output_frame(before, after)
    assert list(frame.columns) == OUTPUT_COLUMNS
    rows = frame.set_index(["vocab_size", "draft_length"])
    assert rows.loc[(10, 3), "identical_outputs"] == 0.5
    assert rows.loc[(10, 3), "identical_accepted"] == 0.5
    assert rows.loc[(10, 3), "before_mean_acceptance_length"] == 4
    assert rows.loc[(10, 3), "after_mean_acceptance_length"] == pytest.approx(1 + 11 / 5)
    assert rows.loc[(100, 3), "identical_outputs"] == 1
    notes = " ".join(judge_change(before, after, 0.02).notes)
    assert "7 of 8 decodes wrote the same tokens" in notes
    assert "code k = 10, gamma = 3: mean acceptance length went from 4.000 to 3.200." in notes


@pytest.mark.parametrize(
    ("device", "experiment", "text"),
    [
        (Device(name="NVIDIA L4"), Experiment(), "task=compare for several"),
        (Device(), Experiment(dtype="float32"), "they differ in the dtype .bfloat16 and float32."),
        (Device(), Experiment(temperature=0.7), "they differ in the temperature .greedy and 0.7."),
        (
            Device(),
            Experiment(draft_fingerprint="e" * 64),
            "they differ in the draft's weights .dddddd and eeeeee.",
        ),
        (Device(), Experiment(domains=("writing",)), "no domain is in both .code and writing."),
        (Device(), Experiment(first_prompt=6), "of code they have no prompt in common"),
        (
            Device(),
            Experiment(max_new_tokens=32),
            "they differ in the longest answer .64 tokens and 32 tokens.",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, device, experiment, text):
    before = read_run(write_run(tmp_path / "before"))
    after = read_run(write_run(tmp_path / "after", device, experiment))
    with pytest.raises(ConfigError, match=text):
        require_comparable(before, after)


def test_a_changed_driver_and_power_limit_are_said(tmp_path):
    outcome = judge_change(*runs(tmp_path, Device(), Device(driver="590.2", power_limit_w=350.0)), 0.02)
    assert "The driver differs (580.1 and 590.2)." in outcome.notes
    assert "The power limit differs (700 W and 350 W)." in outcome.notes


def test_drift_within_a_run_by_hand(tmp_path):
    run = read_run(write_small_run(tmp_path / "run"))
    assert drift_of(run) == Drift(0.0, "")
    (record,) = [r for p, r in run.decodes["code"][Variant(100, 0)].items() if p == "p1"]

    def plain(*step_ms):
        return {
            Variant(100, 0): {
                f"p{n}": replace(record, order=n, laps_ms={"verify": [ms] * 8})
                for n, ms in enumerate(step_ms)
            }
        }

    # The middle one of five is in neither half; a domain is never held against another.
    found = {"code": plain(20, 20, 99, 30, 30), "writing": plain(50, 50, 48, 48), "short": plain(1, 9)}
    assert drift_of(replace(run, decodes=found)) == Drift(0.5, "code")
    found = {"code": plain(20, 20, 20, 20), "writing": plain(50, 50, 48, 48)}
    assert drift_of(replace(run, decodes=found)) == Drift(pytest.approx(-0.04), "writing")


def test_the_figure_has_what_was_judged(tmp_path):
    slower = Device(noise=0.005, slowdown={"lm_head": 1.05})
    outcome = judge_change(*runs(tmp_path, Device(noise=0.005), slower), 0.02)
    axis = diff_figure(outcome).axes[0]
    judged = outcome.times[outcome.times["verdict"] != TOO_SHORT]
    assert len(axis.get_yticklabels()) == len(judged)
    drawn = sorted(x for c in axis.containers for x in c.lines[0].get_xdata())
    assert drawn == pytest.approx(sorted(judged["ratio"]))
    assert axis.get_xlabel() == "time after / time before (x; above 1: slower)"
    plt.close("all")
