import numpy as np

from bench.records import RankingRecord


def test_unseen_tokens_follow_by_rising_id():
    ranking = RankingRecord("code", [5, 2], [0.0, 4.0], 1, None).ranking(6)
    assert ranking.order.tolist() == [5, 2, 0, 1, 3, 4]
    assert ranking.coverage().tolist() == [0, 1, 1, 1, 1, 1]
    assert ranking.coverage_of(np.array([5, 5, 0, 4])).tolist() == [0.5, 0.5, 0.75, 0.75, 0.75, 1]


def test_a_draft_that_lacks_tokens_never_covers_them():
    ranking = RankingRecord("code", [7], [4.0], 1, [3, 7]).ranking(2)
    assert ranking.order.tolist() == [7, 3]
    assert ranking.coverage_of(np.array([7, 9, 1, 3])).tolist() == [0.25, 0.5]
