"""The vocabulary that needs no text: low ids, and what must be kept."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.vocab.ranking import id_prefix_size, order_by_id, order_by_list


def test_the_order_and_the_size_by_hand():
    order = np.array([90, 3, 50, 7, 1, 60, 2])  # 90 and 3 must be kept
    assert order_by_id(order, 2).tolist() == [90, 3, 1, 2, 7, 50, 60]
    # 3, 1, 2, 7 lie below 8, and 90 is kept anyway.
    assert id_prefix_size(order, 2, 8) == 5
    assert set(order_by_id(order, 2)[:5]) == {90, 3, 1, 2, 7}


def test_a_draft_of_no_more_tokens_has_no_such_vocabulary():
    order = np.arange(10)
    assert id_prefix_size(order, 1, 10) is None
    assert id_prefix_size(order, 1, None) is None
    assert id_prefix_size(order, 1, 9) == 9


@given(st.permutations(range(30)), st.integers(0, 5), st.integers(1, 30))
def test_the_first_tokens_of_the_order_are_the_vocabulary(order, num_must_keep, prefix):
    order = np.array(order)
    wanted = {int(i) for i in order if i < prefix} | set(order[:num_must_keep].tolist())
    size = id_prefix_size(order, num_must_keep, prefix)
    if size is None:
        assert wanted == set(range(30))
    else:
        assert set(order_by_id(order, num_must_keep)[:size].tolist()) == wanted


def test_a_list_of_tokens_follows_what_must_be_kept():
    order = np.array([90, 3, 50, 2, 7, 1, 60])
    listed, size = order_by_list(order, 2, np.array([1, 2, 3, 11]))
    # 3 is kept anyway, and 11 is no token of the draft.
    assert (listed.tolist(), size) == ([90, 3, 2, 1, 50, 7, 60], 4)
    assert order_by_list(order, 2, order)[1] is None
