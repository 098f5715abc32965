import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.acceptance import Intervals
from bench.variant import Variant

V = 12


@st.composite
def intervals(draw):
    num_starts, depths = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    shape = (num_starts, depths)
    cells = st.lists(st.integers(1, V + 1), min_size=num_starts * depths, max_size=num_starts * depths)
    low, high = (np.array(draw(cells)).reshape(shape) for _ in range(2))
    return Intervals(np.maximum.accumulate(low, axis=1), np.minimum.accumulate(high, axis=1))


def test_by_hand():
    # Four tokens, drafts of two. From token 0: both right for 2 <= k < 5, the first alone up to k = 8.
    found = Intervals(np.array([[2, 2], [1, 3], [4, 9]]), np.array([[9, 5], [9, 9], [6, 6]]))
    assert found.num_tokens == 4
    assert found.accepted_by_round(Variant(3, 2)) == [2]
    assert found.accepted_by_round(Variant(6, 2)) == [1, 0]
    assert found.accepted_by_round(Variant(1, 2)) == [0, 1]
    assert found.accepted_by_round(Variant(6, 1)) == [1, 0]
    rounds, accepted_at = found.walk(2).at(np.array([1, 3, 6, 12]))
    assert rounds.tolist() == [2, 1, 2, 3]
    assert accepted_at.tolist() == [[1, 1, 1, 0], [0, 1, 0, 0]]


@given(found=intervals(), data=st.data())
def test_all_sizes_at_once_equal_one_by_one(found, data):
    draft_length = data.draw(st.integers(1, found.longest_draft))
    rounds, accepted_at = found.walk(draft_length).at(np.arange(1, V + 1))
    for size in range(1, V + 1):
        expected = found.accepted_by_round(Variant(size, draft_length))
        assert rounds[size - 1] == len(expected)
        assert accepted_at[:, size - 1].tolist() == [
            sum(count > depth for count in expected) for depth in range(draft_length)
        ]


def test_longer_drafts_than_were_replayed_are_refused():
    with pytest.raises(ValueError, match="gamma 3 exceeds 1, the longest replayed"):
        Intervals(np.ones((2, 1), dtype=int), np.full((2, 1), 5)).walk(3)
