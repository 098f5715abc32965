import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import FitError
from bench.fit.series import SpeedGoal, UtilityGoal, decide, reduction

SIZES = np.array([100, 200, 400])


def test_tokens_per_second_by_hand():
    # two, two and a half and three tokens a round; a round is 10 ms and three steps
    goal = SpeedGoal(SIZES, 1 / np.array([2.0, 2.5, 3.0]), runs_per_round=3, other_ms=10.0)
    assert goal.worth(np.array([1.0, 5.0, 10.0])) == pytest.approx([2000 / 13, 2500 / 25, 3000 / 40])


def test_a_wrong_latency_chooses_a_slower_k():
    goal = SpeedGoal(SIZES, 1 / np.array([2.0, 2.5, 3.0]), runs_per_round=1, other_ms=10.0)
    flat, steep = np.array([10.0, 10.0, 10.0]), np.array([1.0, 5.0, 10.0])
    found = decide(goal, predicted_ms=steep, measured_ms=flat)
    # steep: 2/11, 2.5/15, 3/20 tokens per ms; flat: 2/20, 2.5/20, 3/20
    assert (found.vocab_size, found.best_vocab_size) == (100, 400)
    assert (found.value, found.best_value) == pytest.approx((100.0, 150.0))
    assert (found.regret, found.regret_share) == pytest.approx((50.0, 1 / 3))


def test_utility_with_measured_latency_by_hand():
    goal = UtilityGoal(SIZES, np.array([0.8, 0.9, 1.0]), coverage_weight=0.5)
    assert goal.worth(np.array([1.0, 2.0, 4.0])) == pytest.approx([0.4 + 0.375, 0.45 + 0.25, 0.5])
    found = decide(goal, np.array([1.0, 2.0, 4.0]), np.array([4.0, 4.0, 4.0]))
    assert (found.vocab_size, found.best_vocab_size) == (100, 400)
    assert found.regret == pytest.approx(0.5 - 0.4)


def test_of_equals_the_smallest_is_chosen():
    goal = SpeedGoal(SIZES, np.ones(3), runs_per_round=1, other_ms=1.0)
    assert decide(goal, np.ones(3), np.ones(3)).vocab_size == 100


@given(
    st.lists(st.floats(0.1, 10), min_size=3, max_size=3), st.lists(st.floats(0.1, 10), min_size=3, max_size=3)
)
def test_regret_is_never_negative_and_the_truth_has_none(predicted, measured):
    goal = SpeedGoal(SIZES, 1 / np.array([2.0, 2.5, 3.0]), runs_per_round=3, other_ms=10.0)
    assert decide(goal, np.array(predicted), np.array(measured)).regret >= 0
    assert decide(goal, np.array(measured), np.array(measured)).regret == 0


def test_reduction_is_against_the_last_size():
    assert reduction(np.array([[1.0, 2.0, 4.0], [4.0, 4.0, 4.0]])).tolist() == [[0.75, 0.5, 0], [0, 0, 0]]


@pytest.mark.parametrize("sizes", [[100, 200], [200, 100, 400], []])
def test_candidates_that_do_not_fit_are_refused(sizes):
    with pytest.raises(FitError, match="candidates must ascend, one value each"):
        SpeedGoal(np.array(sizes), np.ones(3), 1, 1.0)
    with pytest.raises(FitError, match="candidates must ascend"):
        UtilityGoal(np.array(sizes), np.ones(3))
