import numpy as np

from bench.stats.estimates import median


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
