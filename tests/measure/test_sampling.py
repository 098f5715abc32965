"""Every number here follows from a script; nothing sleeps and no clock of this machine is read."""

import gc
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.run import CacheState, TimingConfig
from bench.device import ScriptedDevice
from bench.errors import ConfigError, DeviceError
from bench.measure.timing import Stopped, relative_half_width, time_variants
from bench.records import FailureRecord


def config(**changes) -> TimingConfig:
    quiet = {"min_sample_ms": 0.0, "min_warmup_s": 0.0, "cache": CacheState.warm}
    return TimingConfig(**{**quiet, **changes})


def run(device, variants, timing, seed=0):
    """All series in the order of the variants, however they came."""
    found = {s.name: s for s in time_variants(device, variants, timing, seed, clock_ns=device.clock_ns)}
    return [found[name] for name in variants]


def test_device_time_wall_time_and_what_lies_between():
    device = ScriptedDevice(sync_ms=0.5)
    (series,) = run(device, {"a": lambda: device.work(4.0, host_ms=1.0)}, config())
    # In a block the host queues ahead: the first sample waits 1 ms for its launch, the others do not.
    assert series.device_ms == (5.0, 4.0, 4.0, 4.0, 4.0) * (len(series.device_ms) // 5)
    # From idle to idle: the launch, the work, the synchronisation.
    assert set(series.wall_ms) == {5.5}
    assert len(series.wall_ms) == len(series.device_ms) == 30
    assert series.stopped is Stopped.precise and series.relative_half_width == 0.0


def test_a_launch_bound_call_is_timed_at_the_hosts_pace():
    device = ScriptedDevice()
    (series,) = run(device, {"a": lambda: device.work(1.0, host_ms=4.0)}, config())
    # The device waits for every launch, so its time is the host's: what eager execution costs.
    assert series.device_ms == (5.0, 4.0, 4.0, 4.0, 4.0) * (len(series.device_ms) // 5)


def test_one_synchronisation_per_block_of_device_samples():
    device = ScriptedDevice(asynchronous=False)
    (series,) = run(device, {"a": lambda: device.work(1.0)}, config(samples_per_block=10))
    blocks = len(series.blocks_ns)
    assert blocks == 3
    # Warm-up: two windows of eight synchronised calls, two synchronisations each.
    assert device.num_synchronizations == 2 * 8 * 2 + 2 * blocks


def test_a_device_that_waits_has_one_time():
    device = ScriptedDevice(asynchronous=False)
    (series,) = run(device, {"a": lambda: device.work(3.0, host_ms=1.0)}, config())
    assert series.device_ms == series.wall_ms == (4.0,) * 30


def test_cold_evicts_before_every_sample_and_times_no_eviction():
    device = ScriptedDevice(evict_ms=7.0)
    (series,) = run(device, {"a": lambda: device.work(1.0, cold_ms=0.5)}, config(cache=CacheState.cold))
    assert set(series.device_ms) == set(series.wall_ms) == {1.5}
    assert series.cache == "cold"
    # Warm-up, device samples and wall samples; the call that leads each block in needs none.
    assert device.num_evictions == 16 + 30 + 30


def test_warm_never_evicts():
    device = ScriptedDevice()
    (series,) = run(device, {"a": lambda: device.work(1.0, cold_ms=0.5)}, config())
    assert set(series.device_ms) == {1.0} and device.num_evictions == 0 and series.cache == "warm"


def test_cold_needs_the_size_of_the_cache():
    device = ScriptedDevice(cache_bytes=None)
    with pytest.raises(DeviceError, match="timing.cache=warm"):
        run(device, {"a": lambda: device.work(1.0)}, config(cache=CacheState.cold))


def test_short_calls_share_a_sample():
    device = ScriptedDevice()
    timing = config(min_sample_ms=0.2)
    (series,) = run(device, {"a": lambda: device.work(0.03)}, timing)
    assert series.calls_per_sample == 7
    assert series.device_ms == pytest.approx([0.03] * 30)


def test_how_long_a_call_takes_is_asked_of_a_device_that_launches_are_not_part_of():
    timing = config(min_sample_ms=0.2)
    device = ScriptedDevice()
    (series,) = run(device, {"a": lambda: device.work(0.05, host_ms=0.02)}, timing)
    # From idle to idle 0.07 ms, on the device's clock 0.05; eight calls more tell.
    assert (series.calls_per_sample, series.num_warmup) == (4, 16 + 8)
    device = ScriptedDevice(asynchronous=False)
    (series,) = run(device, {"a": lambda: device.work(0.05, host_ms=0.02)}, timing)
    assert (series.calls_per_sample, series.num_warmup) == (3, 16)


def test_a_cold_call_never_shares_its_sample_as_the_second_would_be_warm():
    device = ScriptedDevice()
    timing = config(min_sample_ms=0.2, cache=CacheState.cold)
    (series,) = run(device, {"a": lambda: device.work(0.03, cold_ms=0.01)}, timing)
    assert series.calls_per_sample == 1 and set(series.device_ms) == {0.04}


def test_warm_up_goes_on_until_two_windows_agree():
    device = ScriptedDevice(asynchronous=False)
    # Clocks that rise: 8 calls at 4 ms, 8 at 2 ms, then 1 ms.
    speeds = iter([4.0] * 8 + [2.0] * 8)
    (series,) = run(device, {"a": lambda: device.work(next(speeds, 1.0))}, config())
    # Windows of 4, 2, 1 and 1 ms.
    assert series.num_warmup == 4 * 8 and series.warmup_stable
    assert set(series.device_ms) == {1.0}


def test_warm_up_lasts_its_least_time_and_not_more_than_its_longest():
    device = ScriptedDevice(asynchronous=False)
    (series,) = run(device, {"a": lambda: device.work(1.0)}, config(min_warmup_s=0.1))
    assert series.num_warmup == 100
    device = ScriptedDevice(asynchronous=False)
    slower = iter(1.1 ** (n // 8) for n in range(1000))
    timing = config(max_warmup_s=0.05)
    (series,) = run(device, {"a": lambda: device.work(next(slower, 1.0))}, timing)
    assert not series.warmup_stable
    # Five windows take 8 + 8.8 + 9.7 + 10.6 + 11.7 = 48.8 ms, one more call passes 50.
    assert series.num_warmup == 5 * 8 + 1


def noisy(device, spread, seed=0):
    rng = np.random.default_rng(seed)
    return lambda: device.work(float(rng.lognormal(np.log(10.0), spread)))


def test_stops_at_the_first_block_that_is_precise_enough():
    device = ScriptedDevice(asynchronous=False)
    (series,) = run(device, {"a": noisy(device, 0.05)}, config(budget_s=1e3))
    assert series.stopped is Stopped.precise and 30 < len(series.device_ms) < 1000
    assert series.relative_half_width == relative_half_width(list(series.device_ms)) <= 0.01
    for end in range(30, len(series.device_ms), 5):
        assert relative_half_width(list(series.device_ms[:end])) > 0.01


def test_the_end_of_the_budget_is_said():
    device = ScriptedDevice(asynchronous=False)
    (series,) = run(device, {"a": noisy(device, 0.5)}, config(budget_s=1.0))
    # Six calls of about 11 ms a block.
    assert series.stopped is Stopped.budget and 60 <= len(series.device_ms) <= 100
    spent_s = sum(end - start for start, end in series.blocks_ns) / 1e9
    last_s = (series.blocks_ns[-1][1] - series.blocks_ns[-1][0]) / 1e9
    assert spent_s - last_s < 1.0 <= spent_s
    assert series.relative_half_width > 0.01


def test_the_most_samples_are_not_passed():
    device = ScriptedDevice(asynchronous=False)
    timing = config(max_samples=32, budget_s=1e3)
    (series,) = run(device, {"a": noisy(device, 0.5)}, timing)
    assert series.stopped is Stopped.max_samples and len(series.device_ms) == 32


def test_variants_take_turns_in_blocks_and_one_that_is_done_leaves():
    device, calls = ScriptedDevice(asynchronous=False), []
    rough = cycle([1.0, 9.0])

    def steady():
        calls.append("s")
        device.work(1.0)

    def unsteady():
        calls.append("u")
        device.work(next(rough))

    timing = config(max_samples=60, budget_s=1e3)
    first, second = run(device, {"steady": steady, "unsteady": unsteady}, timing)
    assert (first.name, second.name) == ("steady", "unsteady")
    assert (len(first.device_ms), len(second.device_ms)) == (30, 60)
    turns = "".join(calls[first.num_warmup + second.num_warmup :])
    # Six calls a turn, the first of which is not kept; both have one turn in each of the first six blocks.
    assert len(turns) == 18 * 6
    blocks = [turns[i : i + 12] for i in range(0, 72, 12)]
    assert all(sorted(block) == ["s"] * 6 + ["u"] * 6 for block in blocks)
    assert {block[0] for block in blocks} == {"s", "u"}
    assert set(turns[72:]) == {"u"}


def test_a_series_is_there_as_soon_as_it_is_done():
    device, steps = ScriptedDevice(asynchronous=False), []
    rough = cycle([1.0, 9.0])

    def unsteady():
        steps.append(1)
        device.work(next(rough))

    variants = {"unsteady": unsteady, "steady": lambda: device.work(1.0)}
    found = time_variants(
        device, variants, config(max_samples=60, budget_s=1e3), seed=0, clock_ns=device.clock_ns
    )
    first = next(found)
    so_far = len(steps)
    (second,) = found
    assert (first.name, second.name) == ("steady", "unsteady")
    # Thirty samples of one were enough; the other was called for thirty more of its own afterwards.
    assert len(steps) - so_far >= 30


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), MemoryError("none left")]
)
@pytest.mark.parametrize("at", [0, 40])
def test_one_that_fails_leaves_and_the_others_go_on(error, at):
    device, calls = ScriptedDevice(asynchronous=False), []

    def failing():
        calls.append(1)
        if len(calls) > at:
            raise error
        device.work(1.0)

    variants = {"a": failing, "b": lambda: device.work(1.0), "c": lambda: device.work(2.0)}
    found = list(time_variants(device, variants, config(), seed=0, clock_ns=device.clock_ns))
    failure, *series = found
    assert failure == FailureRecord(["a"], type(error).__name__, str(error).splitlines()[0])
    assert {(s.name, len(s.device_ms), s.stopped) for s in series} == {
        ("b", 30, "precise"),
        ("c", 30, "precise"),
    }
    assert gc.isenabled()


def test_garbage_is_collected_again_when_nobody_wants_the_rest():
    device = ScriptedDevice()
    found = time_variants(device, {n: lambda: device.work(1.0) for n in "ab"}, config(), 0, device.clock_ns)
    next(found)
    assert not gc.isenabled()
    found.close()
    assert gc.isenabled()


def order_of(seed):
    device, calls = ScriptedDevice(asynchronous=False), []
    names = ["a", "b", "c"]

    def variant(name):
        def call():
            calls.append(name)
            device.work(1.0)

        return call

    run(device, {name: variant(name) for name in names}, config(), seed)
    return "".join(calls)


def test_the_seed_repeats_the_order():
    assert order_of(1) == order_of(1)
    assert len({order_of(seed) for seed in range(6)}) > 1


def test_blocks_are_on_the_hosts_clock():
    device = ScriptedDevice(asynchronous=False)
    first, second = run(device, {n: lambda: device.work(1.0) for n in "ab"}, config())
    spans = sorted(first.blocks_ns + second.blocks_ns)
    assert all(end - start == 6_000_000 for start, end in spans)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert spans[-1][1] == device.clock_ns()


def test_no_garbage_is_collected_within_a_sample_and_the_setting_comes_back():
    device, seen = ScriptedDevice(), []

    def call():
        seen.append(gc.isenabled())
        device.work(1.0)

    run(device, {"a": call}, config())
    assert not any(seen) and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        run(device, {"a": lambda: 1 / 0}, config())
    assert gc.isenabled()


def test_a_call_that_takes_no_time_ends_and_is_not_called_precise():
    device = ScriptedDevice()
    (series,) = run(device, {"a": lambda: None}, config(max_samples=40))
    assert series.stopped is Stopped.max_samples
    assert series.relative_half_width == float("inf")


@settings(max_examples=15, deadline=None)
@given(
    durations=st.lists(st.integers(1, 50), min_size=1, max_size=7),
    per_block=st.integers(1, 9),
    most=st.integers(30, 60),
    asynchronous=st.booleans(),
)
def test_the_samples_are_the_script(durations, per_block, most, asynchronous):
    device, script = ScriptedDevice(asynchronous), cycle(durations)
    timing = config(samples_per_block=per_block, max_samples=most, budget_s=1e6)
    (series,) = run(device, {"a": lambda: device.work(next(script))}, timing)
    assert set(series.device_ms) <= set(durations)
    assert 30 <= len(series.device_ms) == len(series.wall_ms) <= most
    precise = relative_half_width(list(series.device_ms)) <= 0.01
    assert series.stopped is (Stopped.precise if precise else Stopped.max_samples)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_half_width": 0.0},
        {"warmup_tolerance": 1.0},
        {"min_samples": 5},
        {"max_samples": 29},
        {"samples_per_block": 0},
        {"budget_s": 0.0},
        {"min_sample_ms": -1.0},
        {"min_warmup_s": -1.0},
        {"max_warmup_s": 0.01},
    ],
)
def test_impossible_values_are_named(wrong):
    with pytest.raises(ConfigError, match=f"timing.{next(iter(wrong))}"):
        TimingConfig(**wrong)
