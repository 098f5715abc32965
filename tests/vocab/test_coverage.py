"""Coverage of every k, its interval, blocks, order and mixtures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import VocabError
from bench.vocab.blocks import BlockCounts
from bench.vocab.coverage import coverage_band, coverage_curve, cross_coverage, lost_tokens
from bench.vocab.draft_vocab import DraftVocab, choose_vocab, rank_by_count, selection_order
from bench.vocab.ranking import mixture_scores

COUNTS = st.lists(st.integers(0, 6), min_size=2, max_size=25).map(np.array).filter(lambda c: c.sum() > 0)


def blocks_of(rows: list[list[int]]) -> BlockCounts:
    """Counts given as one row per block."""
    table = np.array(rows)
    block, token = np.nonzero(table)
    return BlockCounts.from_parts([(block, token, table[block, token])], table.shape[1], len(rows))


def test_parts_add_up_whatever_their_order():
    parts = [
        (np.array([1, 0]), np.array([2, 2]), np.array([5, 1])),
        (np.array([1]), np.array([2]), np.array([3])),
    ]
    found = BlockCounts.from_parts(parts, 4, 2)
    assert found.block_ids.tolist() == [0, 1] and found.token_ids.tolist() == [2, 2]
    assert found.counts.tolist() == [1, 8]
    assert found.total().tolist() == [0, 0, 9, 0]
    assert found.num_blocks == 2 and found.matrix().toarray().tolist() == [[0, 0, 1, 0], [0, 0, 8, 0]]


@given(COUNTS, st.data())
def test_order_and_curve_agree_with_the_vocabulary_at_every_size(counts, data):
    total = len(counts)
    forced = data.draw(st.sets(st.integers(0, total - 1), max_size=4))
    ranking = rank_by_count(counts.astype(float))
    order = selection_order(ranking, forced)
    curve = coverage_curve(counts, order)
    assert sorted(order.tolist()) == list(range(total))
    assert (np.diff(curve) >= 0).all() and curve[-1] == pytest.approx(1)
    for k in range(max(1, len(forced)), total + 1):
        vocab = choose_vocab(ranking, forced, k, total)
        assert sorted(order[:k].tolist()) == vocab.target_ids.tolist()
        assert forced <= set(order[:k].tolist())
        assert curve[k - 1] == pytest.approx(counts[vocab.target_ids].sum() / counts.sum())


@given(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=2, max_size=6))
def test_the_interval_contains_what_equal_blocks_leave_no_doubt_about(rows):
    rows = [row if any(row) else [1, 0, 0, 0, 0] for row in rows]
    order = np.array([3, 1, 4, 0, 2])
    band = coverage_band(blocks_of(rows), order, 200, seed=0)
    assert (band.ci_low <= band.ci_high).all()
    assert (band.ci_low >= 0).all() and (band.ci_high <= 1 + 1e-12).all()
    assert (np.diff(band.ci_low) >= -1e-12).all() and band.ci_low[-1] == pytest.approx(1)
    same = coverage_band(blocks_of([rows[0]] * len(rows)), order, 200, seed=0)
    assert np.allclose(same.ci_low, same.value) and np.allclose(same.ci_high, same.value)


def test_the_interval_is_that_of_a_bootstrap_done_by_hand():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 9, size=(40, 12))
    order = np.arange(12)[::-1].copy()
    band = coverage_band(blocks_of(rows.tolist()), order, 4000, seed=1)
    drawn = np.random.default_rng(5).integers(0, 40, size=(4000, 40))
    resampled = rows[drawn].sum(axis=1)[:, order]
    curves = np.cumsum(resampled, axis=1) / resampled.sum(axis=1, keepdims=True)
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    assert np.allclose(band.ci_low, low, atol=0.005) and np.allclose(band.ci_high, high, atol=0.005)
    assert (band.ci_low[:-1] < band.value[:-1]).all() and (band.value[:-1] < band.ci_high[:-1]).all()


def test_one_block_has_no_interval():
    band = coverage_band(blocks_of([[1, 2, 0]]), np.array([1, 0, 2]), 100, seed=0)
    assert band.value.tolist() == pytest.approx([2 / 3, 1, 1])
    assert band.ci_low is None and band.ci_high is None


def test_coverage_of_nothing_is_an_error():
    with pytest.raises(VocabError, match="no response token was counted"):
        coverage_curve(np.zeros(3, dtype=np.int64), np.arange(3))


def test_lost_tokens_are_the_most_frequent_outside():
    counts = np.array([5, 0, 9, 2, 9])
    assert lost_tokens(counts, np.array([2, 4, 0, 3, 1]), 1, 2) == [(4, 9), (0, 5)]
    assert lost_tokens(counts, np.array([2, 4, 0, 3, 1]), 4, 9) == []


def test_cross_coverage_of_hand_made_domains():
    vocabs = {"a": DraftVocab(np.array([0, 1]), 4), "b": DraftVocab(np.array([2]), 4)}
    counts = {"a": np.array([3, 1, 0, 0]), "b": np.array([1, 0, 2, 1]), "c": np.zeros(4, dtype=np.int64)}
    found = cross_coverage(vocabs, counts)
    assert found[("a", "a")] == 1.0 and found[("a", "b")] == 0.25 and found[("b", "b")] == 0.5
    assert found[("b", "a")] == 0.0 and found[("a", "c")] is None


def test_a_mixture_weighs_shares_not_sizes():
    counts = {"small": np.array([8, 2]), "large": np.array([100, 900])}
    assert mixture_scores(counts, {"small": 3, "large": 1}).tolist() == pytest.approx([0.625, 0.375])
    assert rank_by_count(mixture_scores(counts, {"small": 1, "large": 1})).tolist() == [1, 0]
    assert mixture_scores(counts, {"small": 2, "large": 0}).tolist() == [8, 2]


def test_equal_scores_rank_by_id():
    assert rank_by_count(np.array([1.0, 3.0, 1.0, 3.0])).tolist() == [1, 3, 0, 2]


def test_a_mixture_of_unknown_or_empty_domains_is_refused():
    with pytest.raises(VocabError, match="domain x: known are a"):
        mixture_scores({"a": np.array([1])}, {"x": 1})
    with pytest.raises(VocabError, match="no response token"):
        mixture_scores({"a": np.array([0])}, {"a": 1})
