import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.telemetry.windows import STUCK_POWER, Energy, energy_between

TIMES = np.arange(0.0, 10.01, 0.1)


def rows(**columns):
    return [
        {"time_s": float(time), **{name: values[i] for name, values in columns.items()}}
        for i, time in enumerate(TIMES)
    ]


def test_the_counter_between_two_samples_is_interpolated():
    samples = rows(power_w=[200.0] * 101, energy_j=[200.0 * t for t in TIMES])
    assert energy_between(samples, 1.05, 6.05) == Energy(pytest.approx(1000), "counter")


def test_power_is_integrated_where_there_is_no_counter():
    # 100 W, then 300 W from 5 s on, through a ramp of one interval.
    power = [100.0 if t < 4.95 else 300.0 for t in TIMES]
    found = energy_between(rows(power_w=power, energy_j=[None] * 101), 1.0, 9.0)
    assert found.method == "integrated"
    assert found.energy_j == pytest.approx(100 * 3.9 + 0.1 * 200 + 300 * 4)


def test_a_cpu_has_its_own_counter_and_a_gpu_is_not_charged_with_it():
    joules = [50.0 * t for t in TIMES]
    assert energy_between(rows(cpu_energy_j=joules), 2, 8) == Energy(pytest.approx(300), "rapl")
    found = energy_between(rows(power_w=[None] * 101, cpu_energy_j=joules), 2, 8)
    assert found == Energy(None, None, "no energy or power was sampled")


def test_a_window_shorter_than_ten_changes_of_the_sensor_has_no_energy():
    # The counter moves once a second, however often it is asked.
    samples = rows(power_w=[None] * 101, energy_j=[200.0 * int(t + 1e-9) for t in TIMES])
    found = energy_between(samples, 1, 6)
    assert found.energy_j is None
    assert (
        found.reason == "the window lasted 5.00 s and the sensor updates every 1.00 s; 10 updates are needed"
    )


def test_a_window_that_was_not_sampled_has_no_energy():
    samples = rows(power_w=[200.0] * 101)
    assert energy_between(samples, 5, 11).reason == "the samples do not cover the window"
    assert energy_between([], 5, 6).reason == "no energy or power was sampled"


def reset_at(at_s, watts=120.0):
    """A counter of 120 W that starts again from nothing at a moment."""
    return [500 + watts * t if t < at_s else watts * (t - at_s) for t in TIMES]


@pytest.mark.parametrize("at_s", [2.55, 3.0, 6.45])
def test_increments_of_a_counter_that_is_reset_are_added_up(at_s):
    # From its first to its last reading, such a counter only rises by 615 J or less.
    samples = rows(power_w=[120.0] * 101, energy_j=reset_at(at_s))
    assert energy_between(samples, 1, 7) == Energy(pytest.approx(720), "counter")
    assert energy_between(samples, 7, 9) == Energy(pytest.approx(240), "counter")


def test_a_reset_with_no_power_to_fill_it_in_is_not_known():
    samples = rows(energy_j=reset_at(3.0))
    assert energy_between(samples, 1, 7) == Energy(None, None, "the energy counter was reset")
    assert energy_between(samples, 4, 7) == Energy(pytest.approx(360), "counter")
    joules = rows(cpu_energy_j=reset_at(3.0))
    assert energy_between(joules, 1, 7) == Energy(None, None, "the energy counter was reset")


@pytest.mark.parametrize("watts", [100.0, 150.0])
def test_counter_and_power_that_disagree_are_both_not_believed(watts):
    samples = rows(power_w=[watts] * 101, energy_j=[120.0 * t for t in TIMES])
    found = energy_between(samples, 1, 7)
    assert found == Energy(
        None,
        None,
        f"the energy counter says 720.0 J and power over time {6 * watts:.1f} J, which is "
        "more than 10% apart",
    )
    close = rows(power_w=[112.0] * 101, energy_j=[120.0 * t for t in TIMES])
    assert energy_between(close, 1, 7) == Energy(pytest.approx(720), "counter")


def test_a_sensor_that_stands_still_says_nothing():
    stuck = rows(energy_j=[77.0] * 101)
    assert energy_between(stuck, 1, 7).reason == "the energy counter did not move"
    assert energy_between(rows(cpu_energy_j=[0.0] * 101), 1, 7).reason == "the energy counter did not move"
    assert energy_between(rows(power_w=[0.0] * 101), 1, 7).reason == "the power sensor says 0 W"
    # Power alone is believed where the counter stands still.
    samples = rows(power_w=[120.0] * 101, energy_j=[77.0] * 101)
    assert energy_between(samples, 1, 7) == Energy(pytest.approx(720), "integrated")


def test_power_that_never_changes_is_not_believed():
    loads = [0.0 if t < 5 else 0.95 for t in TIMES]
    stuck = rows(power_w=[120.0] * 101, utilization=loads)
    assert energy_between(stuck, 1, 7) == Energy(None, None, STUCK_POWER)
    # A power limit holds power while a GPU works, and not while it rests.
    at_work = rows(power_w=[120.0] * 101, utilization=[0.95] * 101)
    assert energy_between(at_work, 1, 7) == Energy(pytest.approx(720), "integrated")
    both = rows(power_w=[120.0] * 101, utilization=loads, energy_j=[200.0 * t for t in TIMES])
    assert energy_between(both, 1, 7) == Energy(pytest.approx(1200), "counter")


@pytest.mark.parametrize("field", ["energy_j", "cpu_energy_j"])
def test_a_counter_that_jumps_is_not_believed(field):
    jumping = [120.0 * t + (4e6 if t >= 3 else 0) for t in TIMES]
    found = energy_between(rows(**{field: jumping}), 1, 7)
    assert found == Energy(None, None, "the energy counter rose by more than any device takes")
    assert energy_between(rows(**{field: jumping}), 4, 8).energy_j == pytest.approx(480)
    # Power over time fills the interval.
    filled = energy_between(rows(energy_j=jumping, power_w=[120.0] * 101), 1, 7)
    assert filled == Energy(pytest.approx(720), "counter")


def test_power_that_was_not_read_for_a_while_is_not_drawn_through():
    power = [120.0 if t < 3 or t > 4.5 else None for t in TIMES]
    found = energy_between(rows(power_w=power), 1, 7)
    assert found == Energy(None, None, "power was not read for 1.70 s of the window")
    both = rows(power_w=power, energy_j=[120.0 * t for t in TIMES])
    assert energy_between(both, 1, 7) == Energy(pytest.approx(720), "counter")


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_reading_that_cannot_be_is_none(wrong):
    power = [wrong if i == 40 else 120.0 for i in range(101)]
    assert energy_between(rows(power_w=power), 1, 7) == Energy(pytest.approx(720), "integrated")


@given(
    st.lists(st.floats(1, 500), min_size=101, max_size=101),
    st.sets(st.integers(1, 49), max_size=4),
    st.floats(0, 1e6),
)
def test_resets_change_nothing_where_power_is_known(watts, resets, total):
    """A counter of any power, reset at any samples, gives what its power over time gives."""
    step = np.concatenate([[0.0], np.diff(TIMES) * (np.array(watts[1:]) + watts[:-1]) / 2])
    joules = []
    for i in range(101):
        # Of two resets between three readings nobody could know.
        total = 0.0 if i / 2 in resets else total + step[i]
        joules.append(total)
    found = energy_between(rows(power_w=watts, energy_j=joules), 1, 9)
    assert found.energy_j == pytest.approx(step[11:91].sum(), rel=1e-6)
