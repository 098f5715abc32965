import json
from dataclasses import replace
from functools import partial
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from bench.config import TimingConfig
from bench.decoding.engine import Decoded
from bench.device.scripted import ScriptedDevice
from bench.measure.timing import TimerFacts, time_variants
from bench.measure.workload import EncodedPrompt
from bench.records import DecodeRecord
from bench.runs import selfcheck
from bench.runs.selfcheck import (
    _show,
    _write,
    blocks_of,
    different,
    fine_clock,
    first_and_second,
    laps_add_up,
    same,
    small_overhead,
    stationary,
    time_heads,
)
from bench.stats.estimates import median_ratio
from bench.variant import Variant


def noisy(rng, n, scale=1.0):
    """Times with the long right tail of a machine that does other things now and then."""
    return scale * (1 + rng.gamma(1.0, 0.02, n))


def test_the_interval_of_a_median_ratio_is_of_order_statistics():
    a = np.arange(1.0, 11.0)
    # Of ten, the second smallest and largest hold the median with 1 - 22 / 1024 = 97.9%.
    estimate = median_ratio(a, np.ones(10))
    assert (estimate.value, estimate.ci_low, estimate.ci_high) == (5.5, 2, 9)
    # Five pairs cannot be surer than 1 - 2 / 32.
    assert median_ratio(a[:5], np.ones(5)).ci_high == float("inf")


def test_false_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(1)
    alarms = sum(not same("x", (noisy(rng, 20), noisy(rng, 20)), 1).passed for _ in range(400))
    # At most 5%; 400 draws of 5% are 35 or fewer with 99.9%.
    assert alarms <= 35


def test_several_comparisons_share_the_false_alarms():
    rng = np.random.default_rng(2)
    sets = [[same("x", (noisy(rng, 20), noisy(rng, 20)), 4).passed for _ in range(4)] for _ in range(200)]
    assert sum(not all(found) for found in sets) <= 21  # 99.9% of 200 draws of 5%


@pytest.mark.parametrize("change", [1.03, 1 / 1.03])
def test_three_percent_are_found(change):
    rng = np.random.default_rng(3)
    found = [same("x", (noisy(rng, 60, change), noisy(rng, 60)), 4).passed for _ in range(50)]
    assert sum(found) <= 1


def test_other_work_must_be_found_slower():
    slow, fast = np.full(20, 1.2), np.ones(20)
    assert different("x", (slow, fast), 1.2).passed
    assert not different("x", (fast, fast), 1.2).passed
    assert not different("x", (fast, slow), 1.2).passed


def test_a_clock_that_stands_still_or_is_coarse_fails():
    samples = {"head": 0.1, "layer": 1.0}
    assert fine_clock(TimerFacts(0.0001, 0.0001), samples).passed
    assert fine_clock(TimerFacts(0.0001, 0.0001), samples).note is None
    assert not fine_clock(TimerFacts(None, 0.0), samples).passed
    assert not fine_clock(TimerFacts(0.02, 0.0001), samples).passed


def test_a_part_that_is_short_beside_a_mark_is_a_note_and_no_fault():
    # As on a GPU: a mark takes it 1 us, its clock has steps of 32 ns, and a small head takes 5 us.
    check = fine_clock(TimerFacts(32e-6, 1e-3), {"small head": 0.005, "layer": 0.15})
    assert check.passed
    assert check.note == "a mark takes more than 1% of small head: their latencies are upper bounds"
    assert "a mark costs 1 us; samples take 5 to 150 us" in check.finding
    # Calls that share a sample share its marks.
    assert fine_clock(TimerFacts(32e-6, 1e-3), {"small head": 40 * 0.005, "layer": 0.15}).note is None
    idle = fine_clock(TimerFacts(32e-6, 1e-3, is_device_pace=False), {"layer": 0.15})
    assert "1 us (of the host: the device could not be kept busy)" in idle.finding


def test_laps_that_cost_are_told():
    cheap, dear, dearest = (np.full(20, ratio) for ratio in (1.005, 1.03, 1.08))
    assert small_overhead((cheap, np.ones(20))).passed
    assert not small_overhead((dear, np.ones(20))).passed
    # A mark is a launch of its own on a GPU.
    assert small_overhead((cheap, np.ones(20)), asynchronous=True).note is None
    check = small_overhead((dear, np.ones(20)), asynchronous=True)
    assert check.passed and check.note == "rounds are bound by launches: their laps cost about 3.0%"
    assert not small_overhead((dearest, np.ones(20)), asynchronous=True).passed


def decoded(decode_ms, wall_ms):
    return DecodeRecord("code", "p", 1024, 3, 1, 5, [1, 2], [1], decode_ms, wall_ms, {})


def test_two_clocks_that_disagree_are_reported():
    assert laps_add_up([decoded(99, 100)] * 3).passed
    assert not laps_add_up([decoded(90, 100)] * 3).passed
    assert not laps_add_up([decoded(110, 100)] * 3).passed


def test_the_whole_way_on_a_scripted_device(monkeypatch):
    device = ScriptedDevice(cache_bytes=None)
    rng = np.random.default_rng(4)

    def work(ms):
        return lambda: device.work(ms * (1 + rng.gamma(1.0, 0.01)))

    timing = TimingConfig(budget_s=0.5, max_warmup_s=0.05, max_samples=300, target_half_width=0.001)
    monkeypatch.setattr(selfcheck, "time_variants", partial(time_variants, clock_ns=device.clock_ns))
    times, num_calls = time_heads(
        device, {"A": work(1.0), "B": work(1.0), "slow": work(1.03)}, timing, seed=0
    )
    assert num_calls == {"A": 1, "B": 1, "slow": 1}
    assert len(times["A"]) == len(times["B"]) == len(times["slow"]) > 20
    assert same("x", (times["A"], times["B"]), 1).passed
    assert not same("x", (times["slow"], times["B"]), 1).passed


def test_samples_of_one_block_count_once():
    class Series:
        device_ms = (1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 7.0)

    assert blocks_of(Series, 3).tolist() == [2, 5]


def test_what_was_found_is_written_down_as_it_is(tmp_path):
    samples = {"head": float(np.median(np.array([0.01, 0.02])))}
    ones, more = np.ones(20), np.full(20, 1.03)
    checks = [
        same("a", (ones, ones), 1),
        different("b", (more, ones), 1.03),
        fine_clock(TimerFacts(32e-6, 1e-3), samples),
        small_overhead((more, ones), asynchronous=True),
        laps_add_up([decoded(99, 100)] * 3),
    ]
    path = _write(str(tmp_path), ScriptedDevice(), checks)
    written = json.loads(path.read_text("utf-8"))["checks"]
    assert [check["passed"] for check in written] == [True] * 5
    assert written[2]["note"].startswith("a mark takes more than 1% of head")
    assert written[3]["note"] == "rounds are bound by launches: their laps cost about 3.0%"


def shown(checks):
    console = Console(record=True, width=200, file=StringIO())
    _show(ScriptedDevice(), checks, console)
    text = console.export_text()
    return [line for line in text.splitlines() if line.strip().startswith("clock")], text


def test_a_note_is_shown_beside_what_passed():
    note = fine_clock(TimerFacts(32e-6, 1e-3), {"small head": 0.005, "layer": 0.15})
    (line,), text = shown([note])
    assert line.split()[1] == "note" and "Note: a mark takes more than 1%" in line
    assert "Measurements are correct here: all 1 checks passed." in text


def test_what_failed_says_what_to_do_and_what_differed_once_is_repeated():
    failed = fine_clock(TimerFacts(None, 0.0), {"layer": 0.15})
    (line,), text = shown([failed])
    assert line.split()[1] == "FAIL" and "To do: the clock is too coarse" in line
    assert "Measurements are correct here" not in text
    held = fine_clock(TimerFacts(32e-6, 1e-5), {"layer": 0.15})
    lines, text = shown([failed, replace(held, attempt=2)])
    assert lines[0].split()[1] == "again" and "repeated below" in lines[0]
    assert lines[1].split()[:3] == ["clock,", "repeated", "pass"]
    assert "Measurements are correct here" in text


def test_a_first_decode_that_makes_plans_is_seen():
    rng = np.random.default_rng(4)
    first, second = noisy(rng, 12), noisy(rng, 12)
    assert stationary((first, second)).passed and stationary((first * 1.02, second)).passed
    slow = stationary((first * 1.3, second))
    assert not slow.passed and "prepared during measurements" in slow.remedy
    # A second decode that is slower has another reason, which other checks show.
    assert stationary((first * 0.8, second)).passed


def test_texts_of_new_lengths_are_decoded_twice():
    class Engine:
        loaded = 0

        def prepare(self, ids):
            return len(ids)

        def load(self, variant, prepared):
            self.loaded = prepared[0]
            self.num_decodes = 0

        def decode(self, prepared, variant, with_laps):
            assert prepared == self.loaded and not with_laps
            self.num_decodes += 1
            return Decoded([1, 2, 3], [0, 1], 10.0 + prepared + 100.0 * (self.num_decodes == 1), 0.0)

    prompts = [EncodedPrompt("p", list(range(20)))]
    first, second = first_and_second(Engine(), prompts, Variant(9, 1))
    assert second.tolist() == [(10 + length) / 2 for length in range(19, 7, -1)]
    assert (first - second == 50).all()
    assert not stationary((first, second)).passed
