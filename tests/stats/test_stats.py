import numpy as np
import pytest

from bench.stats.estimates import median, paired_speedup


def test_median_interval_equals_a_brute_force_bootstrap():
    rng = np.random.default_rng(0)
    samples = rng.lognormal(size=61)
    draws = np.median(samples[rng.integers(0, 61, size=(40_000, 61))], axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    estimate = median(samples)
    ordered = np.sort(samples)
    assert estimate.value == np.median(samples)
    # Both ends are order statistics; they may differ by one place.
    assert abs(np.searchsorted(ordered, estimate.ci_low) - np.searchsorted(ordered, low)) <= 1
    assert abs(np.searchsorted(ordered, estimate.ci_high) - np.searchsorted(ordered, high)) <= 1


def test_median_of_one_sample_is_that_sample():
    estimate = median(np.array([4.0]))
    assert (estimate.value, estimate.ci_low, estimate.ci_high) == (4.0, 4.0, 4.0)


def test_median_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        estimate = median(rng.exponential(size=40))
        hits += estimate.ci_low <= np.log(2) <= estimate.ci_high
    assert 0.91 <= hits / 400 <= 0.985


def test_paired_speedup_of_a_constant_ratio_has_no_width():
    tokens, base_ms = np.array([10.0, 20.0, 5.0]), np.array([100.0, 250.0, 40.0])
    estimate = paired_speedup(tokens, base_ms / 2, tokens, base_ms, 500, seed=0)
    assert estimate.value == pytest.approx(2)
    assert estimate.ci_low == pytest.approx(2) and estimate.ci_high == pytest.approx(2)


def test_paired_speedup_is_total_throughput_over_total_throughput():
    estimate = paired_speedup(
        np.array([10.0, 30.0]), np.array([10.0, 10.0]), np.array([10.0, 10.0]), np.array([10.0, 30.0]), 500, 0
    )
    assert estimate.value == pytest.approx((40 / 20) / (20 / 40))
    assert estimate.ci_low == pytest.approx(1) and estimate.ci_high == pytest.approx(9)


def test_the_seed_repeats_an_interval():
    rng = np.random.default_rng(2)
    rows = [rng.uniform(1, 2, size=9) for _ in range(4)]
    assert paired_speedup(*rows, 300, seed=5) == paired_speedup(*rows, 300, seed=5)
    assert paired_speedup(*rows, 300, seed=5) != paired_speedup(*rows, 300, seed=6)
