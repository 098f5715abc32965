"""A trimmed draft vocabulary and its two maps, `d2t` offsets and `t2d` mask.

Every engine relies on this: draft ids are in ascending order of target id, so `nonzero(t2d) == arange(k) +
d2t`, whatever the ranking is.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import VocabError

IntArray = NDArray[np.int64]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DraftVocab:
    """The k target tokens that a draft can propose.

    Attributes:
        target_ids: their target ids, strictly ascending `(k,)`.
        target_vocab_size: V.
    """

    target_ids: IntArray
    target_vocab_size: int

    def __post_init__(self) -> None:
        ids = self.target_ids
        if ids.ndim != 1 or not ids.size or (np.diff(ids) <= 0).any():
            raise VocabError("draft vocabulary ids must be a strictly increasing list")
        if ids[0] < 0 or ids[-1] >= self.target_vocab_size:
            raise VocabError(
                f"draft vocabulary ids run from {ids[0]} to {ids[-1]}, outside the target's "
                f"vocabulary of {self.target_vocab_size} tokens"
            )

    def __len__(self) -> int:
        return len(self.target_ids)

    @property
    def is_full(self) -> bool:
        """Whether it contains every token of the target."""
        return len(self) == self.target_vocab_size

    @property
    def d2t(self) -> IntArray:
        """Offsets: target id = draft id + d2t[draft id] `(k,)`."""
        return self.target_ids - np.arange(len(self), dtype=np.int64)

    @property
    def t2d(self) -> NDArray[np.bool_]:
        """Mask of the kept tokens over the target vocabulary `(V,)`."""
        mask = np.zeros(self.target_vocab_size, dtype=np.bool_)
        mask[self.target_ids] = True
        return mask

    @property
    def content_hash(self) -> str:
        """sha256 of the ids as little-endian int64; it differs between two maps of the same size."""
        return hashlib.sha256(self.target_ids.astype("<i8").tobytes()).hexdigest()

    def rows_of(self, wanted: "DraftVocab") -> IntArray:
        """Draft ids of the tokens of `wanted` `(len(wanted),)`: rows of an LM head with this vocabulary.

        Raises:
            VocabError: `wanted` has tokens that are not in this vocabulary.
        """
        missing = np.setdiff1d(wanted.target_ids, self.target_ids)
        if len(missing):
            shown = ", ".join(map(str, missing[:5]))
            raise VocabError(
                f"its vocabulary of {len(self)} lacks {len(missing)} of the {len(wanted)} requested tokens, "
                f"such as {shown}; choose only from its tokens"
            )
        return np.searchsorted(self.target_ids, wanted.target_ids)

    @classmethod
    def from_d2t(cls, d2t: IntArray, target_vocab_size: int) -> "DraftVocab":
        """The vocabulary of the offsets in a checkpoint.

        Raises:
            VocabError: the offsets map two draft ids to one target id, or outside the vocabulary.
        """
        return cls(np.asarray(d2t, dtype=np.int64) + np.arange(len(d2t)), target_vocab_size)


def rank_by_count(counts: IntArray | Floats) -> IntArray:
    """All target ids by decreasing count or score `(V,)`; ties by increasing id, to be reproducible."""
    return np.argsort(-counts, kind="stable").astype(np.int64)


def selection_order(ranking: IntArray, must_keep: Iterable[int]) -> IntArray:
    """The ranking with the must-keep ids first, in their own order.

    The vocabulary of size k is its first k ids, if k is at least the size of the must-keep set.
    """
    forced = np.isin(ranking, np.fromiter(must_keep, dtype=np.int64))
    return np.concatenate([ranking[forced], ranking[~forced]])


def choose_vocab(
    ranking: IntArray, must_keep: Iterable[int], size: int, target_vocab_size: int
) -> DraftVocab:
    """The vocabulary of `size` tokens: the must-keep set, then the best ranked tokens.

    Args:
        ranking: every id that the draft can propose, best first: all V, or those of a draft that is already
            trimmed.
        must_keep: ids in every vocabulary (end of turn, special tokens), if the draft has them.
        size: k.
        target_vocab_size: V.

    Raises:
        VocabError: `size` is below the must-keep set or above the length of the ranking.
    """
    must_keep = list(must_keep)
    least, most = max(1, int(np.isin(ranking, must_keep).sum())), len(ranking)
    if not least <= size <= most:
        raise VocabError(
            f"vocabulary size {size} is impossible: it must be between {least} (the tokens "
            f"that every draft must keep, such as end of turn) and {most} (all tokens of the draft)"
        )
    return DraftVocab(np.sort(selection_order(ranking, must_keep)[:size]), target_vocab_size)
