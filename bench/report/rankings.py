"""The rankings of a run read back, and what vocabularies of any size cover."""

from dataclasses import dataclass

import numpy as np

from bench.records import RankingRecord
from bench.vocab.draft_vocab import Floats, IntArray


@dataclass(frozen=True)
class Ranking:
    """The draft's tokens as they enter a vocabulary.

    Attributes:
        order: `(draft's whole vocabulary,)`.
        counts: how often each was counted, in that order.
        num_seen: tokens at the front that were counted or must be kept.
        num_must_keep: tokens at the front that every size holds.
    """

    order: IntArray
    counts: Floats
    num_seen: int
    num_must_keep: int

    @classmethod
    def from_record(cls, record: RankingRecord, full_size: int) -> "Ranking":
        """Adds the tokens that were never counted, by rising id."""
        everything = np.arange(full_size) if record.candidate_ids is None else np.array(record.candidate_ids)
        order = np.concatenate([record.seen_ids, np.setdiff1d(everything, record.seen_ids)]).astype(np.int64)
        counts = np.zeros(len(order))
        counts[: len(record.seen_counts)] = record.seen_counts
        return cls(order, counts, len(record.seen_ids), record.num_must_keep)

    def coverage(self) -> Floats:
        """Share of the ranking's own tokens that each size covers; size k at index k - 1."""
        return np.cumsum(self.counts) / self.counts.sum()

    def coverage_of(self, token_ids: IntArray) -> Floats:
        """Share of other tokens that each size covers; size k at index k - 1."""
        rank = np.full(max(int(self.order.max()), int(token_ids.max())) + 1, len(self.order))
        rank[self.order] = np.arange(len(self.order))
        found = np.bincount(rank[token_ids], minlength=len(self.order) + 1)[:-1]
        return np.cumsum(found) / len(token_ids)
