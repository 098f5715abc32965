"""Medians drawn anew: whole prompts at once, and exactly where samples are independent."""

import numpy as np
import pytest

from bench.errors import FitError
from bench.fit.fitting import interval_doubt, median_estimates, reduction_estimates, resample_medians
from bench.fit.series import LatencySeries
from bench.stats.bootstrap import _weighted_medians, grouped_median
from bench.stats.estimates import median
from tests.fit.synthetic import SIZES, blocked_series, bytes_law, series, step_work

NUM_DRAWS = 200


def of_two_sizes(samples, groups=None):
    return LatencySeries("draft_step", step_work(SIZES[:2]), samples, groups)


def test_a_draw_is_the_median_of_the_drawn_prompts():
    # Prompt 0 takes 1 or 2 ms, prompt 1 takes 3 or 6 ms: drawn twice, once each, or the other twice.
    groups = [np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1])]
    data = of_two_sizes([np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0]), np.array([2.0, 6.0])], groups)
    drawn = resample_medians(data, 500, seed=0)
    both = np.isclose(drawn, data.medians_ms).all(axis=1)
    assert 0.4 < both.mean() < 0.6
    below, above = (drawn < data.medians_ms).all(axis=1), (drawn > data.medians_ms).all(axis=1)
    assert (both | below | above).all() and below.any() and above.any()
    # What two prompts share moves both sizes alike: 1 to 2 as 2 to 4, so that R(k) hardly moves at all.
    assert drawn[:, 1] / drawn[:, 0] == pytest.approx(np.full(500, 2.0))


def test_weights_count_as_repeated_samples():
    rng = np.random.default_rng(3)
    samples, groups = rng.gamma(3.0, size=41), rng.integers(0, 9, 41)
    groups[:9] = np.arange(9)
    data = of_two_sizes([samples, samples], [groups, groups])
    drawn = resample_medians(data, 300, seed=5)
    picks = np.random.default_rng(5)
    counts = picks.multinomial(9, np.full(9, 1 / 9), size=300)
    scale = np.sqrt(9 / picks.chisquare(8, (300, 1)))
    expected = np.array([np.median(np.repeat(samples, row[groups])) for row in counts])
    deviation = np.clip(scale[:, 0] * np.log(expected / np.median(samples)), -1, 1)
    assert drawn[:, 0] == pytest.approx(np.median(samples) * np.exp(deviation))


def test_a_draw_without_a_sample_of_a_size_says_nothing_of_it():
    data = of_two_sizes([np.array([1.0]), np.array([2.0, 4.0])], [np.array([0]), np.array([0, 1])])
    drawn = resample_medians(data, 200, seed=0)
    assert set(drawn[:, 0]) == {1.0} and len(set(drawn[:, 1])) > 1


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_an_empty_draw_beside_others_of_any_number_of_samples(num_samples):
    samples, groups = np.arange(float(num_samples)), np.zeros(num_samples, dtype=np.int64)
    picks = np.array([[0.0, 2.0], [1.0, 1.0]])
    assert _weighted_medians(samples, groups, picks).tolist() == [np.median(samples)] * 2


@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_independent_medians_are_those_of_drawn_samples(count):
    samples = np.random.default_rng(count).gamma(3.0, size=count)
    data = of_two_sizes([samples, samples])
    drawn = resample_medians(data, 20_000, seed=0)[:, 0]
    places = np.random.default_rng(1).integers(0, count, (20_000, count))
    expected = np.median(samples[places], axis=1)
    assert np.sort(drawn).mean() == pytest.approx(expected.mean(), rel=0.02)
    assert drawn.std() == pytest.approx(expected.std(), rel=0.05, abs=1e-12)
    assert set(np.round(drawn, 9)) >= set(np.round(expected[:50], 9))


@pytest.mark.parametrize("drift", [0.02, 0.05])
def test_intervals_of_medians_and_reductions_hold_where_blocks_drift(drift):
    law = bytes_law()(step_work())
    saved = 1 - law / law[-1]
    held = np.zeros(2)
    for seed in range(NUM_DRAWS):
        data = blocked_series(bytes_law(), drift, apart=0.01, seed=seed)
        resampled = resample_medians(data, 300, seed)
        medians = median_estimates(data, resampled)
        reductions = reduction_estimates(data, resampled)[:-1]
        held += (
            np.mean([e.ci_low <= true <= e.ci_high for e, true in zip(medians, law, strict=True)]),
            np.mean([e.ci_low <= true <= e.ci_high for e, true in zip(reductions, saved[:-1], strict=True)]),
        )
    assert (held / NUM_DRAWS >= 0.90).all() and (held / NUM_DRAWS <= 0.99).all(), held / NUM_DRAWS


def test_few_prompts_are_said():
    law = bytes_law()
    assert interval_doubt(series(law)) is None
    assert interval_doubt(blocked_series(law, 0.02, 8)) is None
    assert interval_doubt(blocked_series(law, 0.02, 7)) == (
        "intervals rest on 7 prompts only and are wide for it; measure 8 or more"
    )
    three = step_work(SIZES[[0, 4, 9]])
    assert interval_doubt(series(law, work=three)) == (
        "3 sizes are too few to trust the interval of a coefficient; measure 4 or more"
    )
    both = interval_doubt(blocked_series(law, 0.02, 3, work=three))
    assert "rest on 3 prompts only" in both and "; 3 sizes are too few" in both
    assert "all samples are of one prompt" in interval_doubt(blocked_series(law, 0.02, 1))


def test_every_sample_needs_its_prompt():
    with pytest.raises(FitError, match="every sample needs a group"):
        of_two_sizes([np.array([1.0]), np.array([2.0])], [np.array([0]), np.array([0, 1])])


def test_a_median_over_prompts_is_as_unsure_as_the_prompts_are_apart():
    rng = np.random.default_rng(3)
    pace = np.repeat(np.exp(0.1 * rng.standard_normal(10)), 50)
    samples = pace * np.exp(0.01 * rng.standard_normal(500))
    groups = np.repeat(np.arange(10), 50)
    over_prompts, alone = grouped_median(samples, groups, 400, 0), median(samples)
    assert over_prompts.value == alone.value == np.median(samples)
    # Fifty samples of a prompt share its pace: they say hardly more than one.
    wide, narrow = (found.ci_high - found.ci_low for found in (over_prompts, alone))
    assert 2 * narrow < wide < 0.4
    assert grouped_median(samples[:50], groups[:50], 400, 0) == median(samples[:50])
