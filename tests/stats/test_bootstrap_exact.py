"""Intervals against the bootstrap distribution itself, with every possible resample listed."""

import itertools

import numpy as np
import pytest

from bench.stats.estimates import CONFIDENCE, median

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
