"""How vocabularies of different sizes on one ranking relate to each other and to what was counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import VocabError
from bench.vocab.coverage import coverage
from bench.vocab.draft_vocab import DraftVocab, choose_vocab, rank_by_count

COUNTS = st.lists(st.integers(0, 4), min_size=2, max_size=30).map(np.array)


def test_the_full_vocabulary_maps_every_token_to_itself():
    vocab = choose_vocab(rank_by_count(np.array([3, 0, 7, 1])), [0], 4, 4)
    assert vocab.is_full
    assert vocab.d2t.tolist() == [0, 0, 0, 0]
    assert vocab.t2d.tolist() == [True] * 4


@pytest.mark.parametrize(
    ("d2t", "reason"),
    [([0, -1], "strictly increasing"), ([0, 9], "from 0 to 10, outside .* 10 tokens"), ([-1, 0], "from -1")],
)
def test_offsets_that_are_no_mapping_are_refused(d2t, reason):
    with pytest.raises(VocabError, match=reason):
        DraftVocab.from_d2t(np.array(d2t), 10)


@given(COUNTS, st.data())
def test_any_larger_size_contains_any_smaller(counts, data):
    total, ranking = len(counts), rank_by_count(counts)
    forced = data.draw(st.sets(st.integers(0, total - 1), max_size=3))
    sizes = sorted(data.draw(st.tuples(*[st.integers(max(1, len(forced)), total)] * 2)))
    small, large = (set(choose_vocab(ranking, forced, k, total).target_ids.tolist()) for k in sizes)
    assert forced <= small <= large


@given(COUNTS.filter(lambda counts: counts.sum() > 0))
def test_coverage_is_complete_from_the_number_of_distinct_tokens_on(counts):
    total, ranking, distinct = len(counts), rank_by_count(counts), int((counts > 0).sum())
    shares = [coverage(counts, choose_vocab(ranking, [], k, total)) for k in range(1, total + 1)]
    assert shares == sorted(shares)
    assert shares[distinct - 1] == 1.0
    assert all(share < 1 for share in shares[: distinct - 1])
