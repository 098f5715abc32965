import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.acceptance import Ratios
from tests.test_intervals import V, intervals


@settings(max_examples=50, deadline=None)
@given(found=intervals(), data=st.data())
def test_certain_acceptance_is_greedy_acceptance(found, data):
    draft_length = data.draw(st.integers(1, found.longest_draft))
    sizes = np.arange(1, V + 1)
    inside = (found.low[..., None] <= sizes) & (sizes < found.high[..., None])
    expected = Ratios(inside.astype(float), sizes).walk(draft_length)
    rounds, accepted_at = found.walk(draft_length).at(sizes)
    assert expected.num_rounds == pytest.approx(rounds)
    assert expected.accepted_at == pytest.approx(accepted_at)


def test_by_hand():
    # Three tokens, drafts of one that are accepted half of the time: one round when the first is, else two.
    found = Ratios(np.full((2, 1, 1), 0.5), np.array([1])).walk(1)
    assert found.num_rounds.tolist() == [1.5]
    assert found.accepted_at.tolist() == [[0.75]]


def test_the_expectation_is_the_mean_of_many_decodes():
    rng = np.random.default_rng(0)
    ratios = rng.random((8, 3, 1))
    expected = Ratios(ratios, np.array([1])).walk(3)
    rounds, accepted, runs = 0, np.zeros(3), 20_000
    for _ in range(runs):
        place = 0
        while place < 8:
            hits = rng.random(3) < ratios[place, :, 0]
            count = int(hits.cumprod().sum())
            accepted += np.arange(3) < count
            rounds, place = rounds + 1, place + count + 1
    assert rounds / runs == pytest.approx(expected.num_rounds[0], rel=0.01)
    assert accepted / runs == pytest.approx(expected.accepted_at[:, 0], rel=0.03)


def test_longer_drafts_than_were_replayed_are_refused():
    with pytest.raises(ValueError, match="gamma 2 exceeds 1, the longest replayed"):
        Ratios(np.ones((2, 1, 1)), np.array([1])).walk(2)
