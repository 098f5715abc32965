from types import SimpleNamespace

import numpy as np

from bench.vocab.coverage import count_tokens, coverage, must_keep_ids
from bench.vocab.draft_vocab import DraftVocab


def test_counts_add_over_answers():
    assert count_tokens([[1, 1, 3], [], [3, 0]], 5).tolist() == [1, 2, 0, 2, 0]


def test_coverage_is_the_share_of_tokens_not_of_types():
    counts = np.array([6, 2, 1, 1])
    assert coverage(counts, DraftVocab(np.array([0]), 4)) == 0.6
    assert coverage(counts, DraftVocab(np.array([0, 3]), 4)) == 0.7
    assert coverage(counts, DraftVocab(np.arange(4), 4)) == 1.0


def test_coverage_of_nothing_is_unknown():
    assert coverage(np.zeros(4, dtype=np.int64), DraftVocab(np.array([0]), 4)) is None


def test_must_keep_is_specials_and_end_tokens_once_each():
    assert must_keep_ids(SimpleNamespace(all_special_ids=[2, 0, 2]), [5, 0]) == [0, 2, 5]
