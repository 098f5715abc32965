"""Intervals that leave out prompts and blocks of time: exact where a formula is known, else honest."""

import numpy as np
import pytest
from scipy.stats import t

from bench.stats.jackknife import Spread, log_interval, paired_speedup


def left_out(samples: np.ndarray) -> np.ndarray:
    """Mean of each row with every element left out `(n, rows)`."""
    n = samples.shape[-1]
    return ((samples.sum(-1, keepdims=True) - samples) / (n - 1)).T


def test_of_a_mean_it_is_the_t_interval():
    values = np.array([[1.0, 2.0, 4.0, 8.0]])
    spread = Spread.of([left_out(values)])
    error = values.std(ddof=1) / 2
    assert spread.variance[0] == pytest.approx(error**2)
    assert spread.degrees[0] == pytest.approx(3)
    assert spread.half_width()[0] == pytest.approx(t.ppf(0.975, 3) * error)


def test_two_samples_add_their_variances_and_share_their_degrees_of_freedom():
    a, b = np.array([[0.0, 2.0, 4.0]]), np.array([[1.0, 1.5, 3.0, 3.5, 6.0]])
    spread = Spread.of([left_out(a), left_out(b)])
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 5
    assert spread.variance[0] == pytest.approx(va + vb)
    assert spread.degrees[0] == pytest.approx((va + vb) ** 2 / (va**2 / 2 + vb**2 / 4))
    # Three blocks are few: each variance has its own quantile.
    assert spread.half_width()[0] == pytest.approx(
        np.sqrt(t.ppf(0.975, 2) ** 2 * va + t.ppf(0.975, 4) ** 2 * vb)
    )
    more = np.array([[1.0, 4.0, 2.0, 8.0, 5.0]])
    many = Spread.of([left_out(more), left_out(b)])
    assert many.half_width()[0] == pytest.approx(t.ppf(0.975, many.degrees[0]) * np.sqrt(many.variance[0]))


def test_one_block_says_nothing_of_its_spread():
    found = log_interval(np.log(1.25), [np.zeros(1), np.array([0.01, -0.01])])
    assert found.value == pytest.approx(1.25)
    assert (found.ci_low, found.ci_high) == (0.0, np.inf)


def test_without_any_spread_the_interval_is_the_value():
    found = log_interval(np.log(2), [np.zeros(3), np.zeros(4)])
    assert (found.ci_low, found.value, found.ci_high) == pytest.approx((2, 2, 2))


def test_a_speedup_of_pairs_by_hand():
    tokens, time_ms, base_ms = np.array([10.0, 30, 20]), np.array([10.0, 20, 30]), np.array([30.0, 30, 60])
    found = paired_speedup(tokens, time_ms, tokens, base_ms)
    logs = np.log([90 / 50, 90 / 40, 60 / 30])  # without the first, the second, the third
    half = t.ppf(0.975, 2) * np.sqrt(2 / 3 * ((logs - logs.mean()) ** 2).sum())
    assert found.value == pytest.approx(2)
    assert [found.ci_low, found.ci_high] == pytest.approx([2 * np.exp(-half), 2 * np.exp(half)])
    # Each side has its own tokens, where texts differ.
    more, same = np.array([10.0, 30]), np.array([10.0, 10])
    other = paired_speedup(more, same, same, more)
    assert other.value == pytest.approx((40 / 20) / (20 / 40))


def test_a_speedup_that_is_the_same_on_every_prompt_has_no_width_and_of_one_prompt_no_end():
    tokens, base_ms = np.array([10.0, 20.0, 5.0]), np.array([100.0, 250.0, 40.0])
    found = paired_speedup(tokens, base_ms / 2, tokens, base_ms)
    assert (found.ci_low, found.value, found.ci_high) == pytest.approx((2, 2, 2))
    one = paired_speedup(tokens[:1], base_ms[:1] / 2, tokens[:1], base_ms[:1])
    assert (one.ci_low, one.value, one.ci_high) == (0.0, pytest.approx(2), np.inf)


def test_a_speedup_of_eight_prompts_covers_the_truth():
    rng, runs = np.random.default_rng(1), 1000
    tokens = rng.integers(30, 64, (runs, 8)).astype(float)
    base_ms = 30 * tokens * np.exp(rng.normal(0, 0.05, (runs, 8)))
    time_ms = 20 * tokens * np.exp(rng.normal(0, 0.2, (runs, 8)))
    truth = 1.5 * np.exp((0.05**2 - 0.2**2) / 2)
    found = [paired_speedup(*rows) for rows in zip(tokens, time_ms, tokens, base_ms, strict=True)]
    assert 0.93 <= np.mean([item.ci_low <= truth <= item.ci_high for item in found]) <= 0.97


@pytest.mark.parametrize(("prompts", "blocks"), [(64, 8), (19, 8), (8, 24)])
def test_gains_of_known_size_are_covered_as_often_as_promised(prompts, blocks):
    """Rounds vary by prompt, all parts with the machine's state and each on its own, with heavy tails."""
    rng, runs, gamma = np.random.default_rng(5), 3000, 5
    state = np.exp(0.05 * rng.standard_t(4, (runs, blocks)))
    head, small, verify = (
        ms * state * np.exp(rng.normal(0, sd, (runs, blocks)))
        for ms, sd in ((2.2, 0.1), (0.12, 0.15), (30, 0.05))
    )
    full = rng.integers(40, 192, (runs, prompts)) / np.exp(rng.normal(0.6, 0.25, (runs, prompts)))
    trimmed = full * np.exp(np.abs(rng.normal(0, 0.02, (runs, prompts))))

    def log_gain(r_full, r_trimmed, h, s, v):
        return np.log(r_full / r_trimmed) + np.log((gamma * h + v) / (gamma * s + v))

    rounds = full.sum(1), trimmed.sum(1)
    parts = head.mean(1), small.mean(1), verify.mean(1)
    of_prompts = log_gain(*(x.sum(1) - x.T for x in (full, trimmed)), *parts)
    of_blocks = log_gain(*rounds, *(left_out(x) for x in (head, small, verify)))
    half = Spread.of([of_prompts, of_blocks]).half_width()
    mean_of = {sd: np.exp(sd**2 / 2) for sd in (0.1, 0.15, 0.05)}
    means = 2.2 * mean_of[0.1], 0.12 * mean_of[0.15], 30 * mean_of[0.05]
    extra = np.exp(0.02**2 / 2) * 2 * 0.5079783137  # mean of exp(|normal(0, 0.02)|)
    truth = log_gain(1, extra, *means)
    covered = np.abs(log_gain(*rounds, *parts) - truth) <= half
    assert 0.93 <= covered.mean() <= 0.97


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("between", [0.0, 0.03, 0.1])
def test_processes_as_blocks_cover_what_a_new_process_would_say(processes, between):
    """Each process has a state of its own beside that of its blocks; prompts are the other sample."""
    rng, runs, prompts, blocks = np.random.default_rng(11), 8000, 32, 8
    of_process = rng.normal(0, between, (runs, processes, 1)) + rng.normal(0, 0.04, (runs, processes, blocks))
    acceptance = rng.normal(0, 0.05, (runs, prompts))
    estimate = of_process.mean((1, 2)) + acceptance.mean(1)
    samples = [left_out(acceptance), left_out(of_process.mean(2))]
    covered = np.abs(estimate) <= Spread.of(samples).half_width()
    # Few processes are known as few: what is left is on the safe side.
    assert 0.94 <= covered.mean() <= (0.97 if processes == 5 else 0.99)
    # Blocks of one process are alike; as if they were not, too little is covered.
    flat = of_process.reshape(runs, -1)
    too_sure = np.abs(estimate) <= Spread.of([left_out(acceptance), left_out(flat)]).half_width()
    assert not between or too_sure.mean() < 0.85
