import numpy as np
import pytest

from bench.telemetry.windows import Energy, energy_between

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


def test_a_counter_that_starts_again_gives_way_to_power():
    joules = [200.0 * t if t < 5 else 200.0 * (t - 5) for t in TIMES]
    found = energy_between(rows(power_w=[200.0] * 101, energy_j=joules), 4, 6)
    assert found == Energy(pytest.approx(400), "integrated")
    found = energy_between(rows(energy_j=joules), 4, 6)
    assert found == Energy(None, None, "the energy counter was reset")
