"""Known coefficients are recovered, and their intervals hold as often as they say."""

from dataclasses import replace

import numpy as np
import pytest

from bench.fit.fitting import FittedModel, Unfit, fit, resample_medians
from bench.fit.models import (
    AffineBytes,
    AffineFlops,
    CacheAware,
    CacheFitted,
    Monotone,
    Proportional,
    Published,
    Roofline,
    Waves,
)
from bench.fit.series import LM_HEAD, VERIFY, LatencySeries, verify_work
from tests.fit.synthetic import (
    SIZES,
    blocked_series,
    bytes_law,
    decoder_lm,
    flops_law,
    limits,
    series,
    step_work,
)

NUM_DRAWS, NUM_RESAMPLES = 200, 200


def fitted(model, data, num_resamples=NUM_RESAMPLES, seed=0):
    return fit(model, data, resample_medians(data, num_resamples, seed), seed)


def named(result):
    return {coefficient.name: coefficient for coefficient in result.coefficients()}


def coverage(model, truth, draw):
    """Share of seeded draws whose interval holds the true value, by coefficient."""
    held = dict.fromkeys(truth, 0)
    for seed in range(NUM_DRAWS):
        found = named(fitted(model, draw(seed), seed=seed))
        for name, value in truth.items():
            low, high = found[name].ci_low, found[name].ci_high
            held[name] += (low is None or low <= value) and (high is None or value <= high)
    return {name: count / NUM_DRAWS for name, count in held.items()}


def between(shares):
    return all(0.90 <= share <= 0.99 for share in shares.values())


@pytest.mark.parametrize("num_samples, noise", [(25, 0.05), (200, 0.02)])
def test_intervals_hold_where_samples_are_noisy(num_samples, noise):
    truth = {"t0_ms": 0.3, "bytes_per_s": 2e10}
    shares = coverage(
        AffineBytes(), truth, lambda seed: series(bytes_law(), noise, num_samples=num_samples, seed=seed)
    )
    assert between(shares), shares


@pytest.mark.parametrize(("drift", "apart"), [(0.02, 0.0), (0.05, 0.0), (0.05, 0.02)])
def test_intervals_hold_where_blocks_of_samples_drift_together(drift, apart):
    truth = {"t0_ms": 0.3, "bytes_per_s": 2e10}
    shares = coverage(
        AffineBytes(), truth, lambda seed: blocked_series(bytes_law(), drift, 24, apart, seed=seed)
    )
    assert between(shares), shares


def test_intervals_of_few_blocks_hold_by_being_wide():
    truth = {"t0_ms": 0.3, "bytes_per_s": 2e10}
    shares = coverage(
        AffineBytes(), truth, lambda seed: blocked_series(bytes_law(), 0.05, 4, 0.01, seed=seed)
    )
    assert between(shares), shares


@pytest.mark.parametrize("num_samples", [1, 25])
def test_intervals_hold_where_sizes_scatter(num_samples):
    truth = {"t0_ms": 0.3, "flops_per_s": 2e10}
    shares = coverage(
        AffineFlops(),
        truth,
        lambda seed: series(flops_law(), 0.01, shape_noise=0.02, num_samples=num_samples, seed=seed),
    )
    assert between(shares), shares


def test_intervals_of_the_roofline_hold():
    work = verify_work(decoder_lm(), np.array([1, 2, 4, 8, 16, 24, 32, 48]), 200)
    compute, memory, t0 = 2e11, 2e10, 2.0

    def law(work):
        return t0 + 1e3 * np.maximum(work.flops / compute, work.total_bytes / memory)

    # sixteen tokens and more are bound by compute, the others by memory
    assert (work.flops / compute > work.total_bytes / memory).sum() == 4
    truth = {"flops_per_s": compute, "bytes_per_s": memory}
    shares = coverage(
        Roofline(), truth, lambda seed: series(law, 0.03, num_samples=100, seed=seed, work=work)
    )
    assert between(shares), shares


def test_intervals_of_the_cache_model_hold():
    cache, work = 8 * 2**20, step_work(component=LM_HEAD)

    def law(work):
        beyond = np.maximum(work.weight_bytes - cache, 0)
        return 0.05 + 1e3 * ((work.total_bytes - beyond) / 4e10 + beyond / 2e10)

    truth = {"t0_ms": 0.05, "cache_bytes_per_s": 4e10, "bytes_per_s": 2e10}
    shares = coverage(
        CacheAware(limits(cache=cache)),
        truth,
        lambda seed: series(law, 0.03, num_samples=100, seed=seed, work=work),
    )
    assert between(shares), shares


@pytest.mark.parametrize(
    "model, law, expected",
    [
        (AffineBytes(), bytes_law(0.3, 2e10), {"t0_ms": 0.3, "bytes_per_s": 2e10}),
        (AffineFlops(), flops_law(0.3, 2e10), {"t0_ms": 0.3, "flops_per_s": 2e10}),
        (Proportional(), flops_law(0.0, 3e10), {"flops_per_s": 3e10}),
        (Published(), lambda work: 1e3 * work.published_flops / 4e10, {"flops_per_s": 4e10}),
        (Roofline(), bytes_law(0.3, 2e10), {"t0_ms": 0.3, "bytes_per_s": 2e10, "flops_per_s": None}),
    ],
)
def test_exact_latencies_give_exact_coefficients(model, law, expected):
    result = fitted(model, series(law), num_resamples=50)
    values = {name: c.value for name, c in named(result).items()}
    assert values == {name: value and pytest.approx(value, rel=1e-6) for name, value in expected.items()}
    assert np.abs(result.relative_errors).max() < 1e-6
    for coefficient in result.coefficients():
        if coefficient.value is not None:
            assert coefficient.ci_low <= coefficient.value * (1 + 1e-9)
            assert coefficient.value <= coefficient.ci_high * (1 + 1e-9)


def test_both_limits_of_a_roofline_are_found():
    work = verify_work(decoder_lm(), np.array([1, 2, 4, 8, 16, 24, 32, 48, 64]), 200)
    result = fitted(
        Roofline(),
        series(lambda w: 2 + 1e3 * np.maximum(w.flops / 2e11, w.total_bytes / 2e10), work=work),
        num_resamples=50,
    )
    assert result.coefficient("flops_per_s") == pytest.approx(2e11, rel=1e-6)
    assert result.coefficient("bytes_per_s") == pytest.approx(2e10, rel=1e-2)
    assert result.num_parameters == 3


def test_the_end_of_a_cache_is_found_among_the_sizes():
    work = step_work()
    true_cache = work.weight_bytes[5]

    def law(work):
        beyond = np.maximum(work.weight_bytes - true_cache, 0)
        return 0.3 + 1e3 * ((work.total_bytes - beyond) / 8e10 + beyond / 2e10)

    result = fitted(CacheFitted(), series(law), num_resamples=50)
    values = {name: c.value for name, c in named(result).items()}
    assert values == pytest.approx(
        {"t0_ms": 0.3, "cache_bytes_per_s": 8e10, "bytes_per_s": 2e10, "cache_bytes": true_cache}, rel=1e-4
    )
    assert result.num_parameters == 4


def test_a_rate_that_nothing_bounds_is_none():
    flat = fitted(AffineBytes(), series(lambda work: np.full(len(work), 0.5)), num_resamples=50)
    found = named(flat)["bytes_per_s"]
    assert (found.value, found.ci_high) == (None, None)
    assert flat.coefficient("bytes_per_s") is None and flat.coefficient("nothing") is None


@pytest.mark.parametrize(
    "model, sizes, reason",
    [
        (AffineBytes(), SIZES[:2], "2 sizes cannot judge 2 parameters; measure at least 3"),
        (
            CacheAware(limits(cache=2**40)),
            SIZES,
            r"the weights of every size fit into the cache of 1048576 MiB",
        ),
        (CacheAware(limits(cache=1)), SIZES, r"the weights of no size fit into the cache"),
        (CacheFitted(), SIZES[:3], "4 sizes are needed"),
        (Monotone(), SIZES[:2], "2 sizes make no curve"),
    ],
)
def test_what_sizes_cannot_determine_is_said(model, sizes, reason):
    result = fitted(model, series(bytes_law(), work=step_work(sizes)), num_resamples=50)
    assert isinstance(result, Unfit)
    assert reason in result.reason


def test_a_verification_does_not_tell_launches_from_bytes():
    work = verify_work(decoder_lm(), np.arange(1, 9), 200)
    data = LatencySeries(VERIFY, work, [np.array([40.0])] * 8)
    result = fitted(AffineBytes(), data, num_resamples=50)
    assert isinstance(result, Unfit) and "cannot be separated" in result.reason
    assert isinstance(fitted(AffineFlops(), data, num_resamples=50), FittedModel)


def test_the_same_seed_gives_the_same_interval():
    data = series(bytes_law(), 0.05)
    assert named(fitted(AffineBytes(), data)) == named(fitted(AffineBytes(), data))
    assert named(fitted(AffineBytes(), data)) != named(fitted(AffineBytes(), data, seed=1))


def test_the_rows_of_a_wave_are_recovered():
    work = step_work(component=LM_HEAD)
    device = replace(limits(), num_multiprocessors=100)

    def law(w):
        # Blocks of 64 rows on 100 multiprocessors; a row that is left idle costs 2 ns.
        return 0.05 + 1e3 * w.total_bytes / 2e10 + 2e-6 * (np.ceil(w.sizes / 6400) * 6400 - w.sizes)

    data = series(law, work=work)
    found = fit(Waves(device), data, resample_medians(data, 20, 0), 0)
    assert found.coefficient("rows_per_wave") == 6400
    assert found.coefficient("bytes_per_s") == pytest.approx(2e10, rel=1e-3)
    assert found.coefficient("idle_row_ms") == pytest.approx(2e-6, rel=1e-2)
    larger = replace(device, num_multiprocessors=200)
    assert found.moved_to(larger).coefficient("rows_per_wave") == 12800
