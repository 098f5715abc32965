import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.paired import (
    PairedRatio,
    holm,
    least_count,
    least_prompts,
    primary_first,
    sign_test,
    strictest_levels,
)


def test_the_sign_test_by_hand():
    assert sign_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(1 / 8)
    assert sign_test(np.array([1.0, 2.0, -3.0])) == pytest.approx(4 / 8)
    assert sign_test(np.array([-1.0, -2.0])) == 1
    # A tie speaks against a change.
    assert sign_test(np.array([0.0, 1.0])) == pytest.approx(3 / 4)


def test_how_many_prompts_are_enough():
    assert least_count(4, 0.05) is None
    assert least_count(5, 0.05) == 5
    # P(at least 7 of 8) = 9/256, P(at least 6) = 37/256.
    assert least_count(8, 0.05) == 7
    assert least_count(0, 0.05) is None


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.6, 0.7])) == pytest.approx([1, 1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values, rng):
    p = np.array(p_values)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(len(p) * p, 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    order = list(range(len(p)))
    rng.shuffle(order)
    assert holm(p[order]) == pytest.approx(adjusted[order])


def test_a_ratio_by_hand():
    found = PairedRatio.of(np.log([1.01, 1.05, 1.06, 1.07, 1.08]), threshold=0.02)
    assert found.num_prompts == 5
    assert found.ratio.value == pytest.approx(1.06)
    assert (found.ratio.ci_low, found.ratio.ci_high) == pytest.approx((1.01, 1.08))
    assert found.p_slower == pytest.approx(6 / 32)
    assert found.p_not_slower == pytest.approx(31 / 32)
    assert found.p_faster == 1
    assert found.p_not_faster == pytest.approx(1 / 32)


def test_the_question_has_half_of_the_error_rate_to_itself():
    # The first is doubled; Holm gives the others 3 * 0.01, 2 * 0.012 (not below the one before) and 0.5.
    adjusted = primary_first(np.array([0.004, 0.01, 0.5, 0.012]))
    assert adjusted == pytest.approx([0.008, 0.06, 1, 0.06])
    assert primary_first(np.array([0.6])) == pytest.approx([1])
    assert strictest_levels(5) == pytest.approx([0.025, *[0.025 / 4] * 4])
    # 1 / 2^6 is the first at most 0.025.
    assert least_prompts(0.025) == 6 and least_prompts(0.5) == 1


def test_what_could_have_been_shown_by_hand():
    found = PairedRatio.of(np.log([1.01, 1.05, 1.06, 1.07, 1.08]), threshold=0.02)
    # All five must lie above 1.02; the lowest is 1.06 / 1.01 below the median.
    assert found.least_shown(0.02, 0.05) == pytest.approx(1.02 * 1.06 / 1.01 - 1)
    assert found.least_shown(0.02, 0.025) is None


@given(st.lists(st.floats(-0.2, 0.2), min_size=5, max_size=30), st.floats(0, 0.1))
def test_a_slowdown_just_above_the_least_is_shown_and_one_below_is_not(logs, threshold):
    found = PairedRatio.of(np.array(logs), threshold)
    least = found.least_shown(threshold, 0.05)
    assert least is not None
    for change, shown in ((1e-6, True), (-1e-6, False)):
        moved = found.residuals + np.log1p(least) + change
        assert (PairedRatio.of(moved, threshold).p_slower <= 0.05) == shown


def test_a_swap_of_the_runs_swaps_the_answers():
    logs = np.random.default_rng(0).normal(0.01, 0.03, 21)
    there, back = PairedRatio.of(logs, 0.02), PairedRatio.of(-logs, 0.02)
    assert there.ratio.value == pytest.approx(1 / back.ratio.value)
    assert (there.p_slower, there.p_not_slower) == (back.p_faster, back.p_not_faster)
