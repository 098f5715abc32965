"""Intervals against the bootstrap distribution itself, with every possible resample listed."""

import itertools

import numpy as np
import pytest

from bench.stats.estimates import CONFIDENCE, median, paired_speedup

TAIL = (1 - CONFIDENCE) / 2


def all_resamples(n: int) -> np.ndarray:
    """Every way to draw n of n places `(n**n, n)`."""
    return np.array(list(itertools.product(range(n), repeat=n)))


@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_the_medians_interval_is_that_of_all_resamples(n):
    samples = np.random.default_rng(n).exponential(size=n)
    medians = np.sort(np.median(samples[all_resamples(n)], axis=1))
    share_at_most = np.arange(1, len(medians) + 1) / len(medians)
    low, high = medians[np.searchsorted(share_at_most, [TAIL, 1 - TAIL])]
    estimate = median(samples)
    assert (estimate.value, estimate.ci_low, estimate.ci_high) == (np.median(samples), low, high)


def test_paired_speedup_approaches_that_of_all_resamples():
    tokens, time_ms = np.array([8.0, 8.0, 6.0, 9.0]), np.array([50.0, 70.0, 40.0, 90.0])
    base_ms = np.array([80.0, 75.0, 70.0, 85.0])
    places = all_resamples(4)
    ratios = base_ms[places].sum(1) / time_ms[places].sum(1)
    low, high = np.quantile(ratios, [TAIL, 1 - TAIL])
    estimate = paired_speedup(tokens, time_ms, tokens, base_ms, 20_000, seed=0)
    assert estimate.value == pytest.approx(310 / 250)
    assert estimate.ci_low == pytest.approx(low, rel=0.02)
    assert estimate.ci_high == pytest.approx(high, rel=0.02)


def test_the_order_of_prompts_changes_the_value_by_nothing():
    rows = np.random.default_rng(3).uniform(1, 2, size=(4, 12))
    assert paired_speedup(*rows, 100, 0).value == pytest.approx(paired_speedup(*rows[:, ::-1], 100, 0).value)
