import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import VocabError
from bench.vocab.draft_vocab import DraftVocab, choose_vocab, rank_by_count


def test_ranking_is_by_falling_count_and_ties_by_id():
    assert rank_by_count(np.array([0, 5, 2, 5, 2, 9])).tolist() == [5, 1, 3, 2, 4, 0]


def test_maps_of_a_hand_computed_vocabulary():
    vocab = DraftVocab(np.array([0, 3, 4, 9]), 10)
    assert vocab.d2t.tolist() == [0, 2, 2, 6]
    assert np.flatnonzero(vocab.t2d).tolist() == [0, 3, 4, 9]
    assert len(vocab) == 4 and not vocab.is_full
    assert DraftVocab(np.arange(10), 10).is_full


def test_must_keep_tokens_displace_the_least_frequent():
    ranking = np.array([7, 6, 5, 4, 3, 2, 1, 0])
    assert choose_vocab(ranking, [0, 2], 4, 8).target_ids.tolist() == [0, 2, 6, 7]
    assert choose_vocab(ranking, [0, 2], 2, 8).target_ids.tolist() == [0, 2]


@pytest.mark.parametrize("size", [0, 1, 9])
def test_an_impossible_size_names_itself_and_the_limits(size):
    with pytest.raises(VocabError, match=rf"size {size} is impossible.*between 2 .* and 8"):
        choose_vocab(np.arange(8), [0, 2], size, 8)


def test_a_trimmed_draft_limits_the_choice_and_its_must_keep_set():
    chosen = choose_vocab(np.array([9, 4, 1]), [0, 1], 2, 10)
    assert chosen.target_ids.tolist() == [1, 9]
    with pytest.raises(VocabError, match="and 3"):
        choose_vocab(np.array([9, 4, 1]), [0, 1], 4, 10)


@pytest.mark.parametrize("ids", [[], [3, 1], [2, 2], [-1, 4], [3, 10]])
def test_ids_out_of_order_or_range_are_refused(ids):
    with pytest.raises(VocabError):
        DraftVocab(np.array(ids, dtype=np.int64), 10)


def test_two_maps_of_one_size_have_different_hashes():
    assert DraftVocab(np.array([1, 2]), 9).content_hash != DraftVocab(np.array([1, 3]), 9).content_hash
    assert DraftVocab(np.array([1, 2]), 9).content_hash == DraftVocab(np.array([1, 2]), 99).content_hash


@st.composite
def choices(draw):
    counts = np.array(draw(st.lists(st.integers(0, 5), min_size=2, max_size=40)))
    forced = draw(st.sets(st.integers(0, len(counts) - 1), max_size=4))
    size = draw(st.integers(max(1, len(forced)), len(counts)))
    return counts, forced, size


@given(choices())
def test_invariants_of_every_choice(choice):
    counts, forced, size = choice
    ranking, total = rank_by_count(counts), len(counts)
    vocab = choose_vocab(ranking, forced, size, total)
    assert len(vocab) == size
    assert forced <= set(vocab.target_ids.tolist())
    assert (np.flatnonzero(vocab.t2d) == np.arange(size) + vocab.d2t).all()
    assert DraftVocab.from_d2t(vocab.d2t, total).target_ids.tolist() == vocab.target_ids.tolist()
    if size < total:
        larger = choose_vocab(ranking, forced, size + 1, total)
        assert set(vocab.target_ids.tolist()) < set(larger.target_ids.tolist())
