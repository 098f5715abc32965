"""A trimmed draft vocabulary and its two maps, `d2t` offsets and `t2d` mask.

The invariant that every engine relies on: draft ids are in ascending order of target id, so
`nonzero(t2d) == arange(k) + d2t`, whatever the ranking was.
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
        """Whether nothing is trimmed."""
        return len(self) == self.target_vocab_size

    @property
    def d2t(self) -> IntArray:
        """Offsets: target id = draft id + d2t[draft id] `(k,)`."""
        return self.target_ids - np.arange(len(self), dtype=np.int64)

    @property
    def t2d(self) -> NDArray[np.bool_]:
        """Mask over the target vocabulary of the tokens kept `(V,)`."""
        mask = np.zeros(self.target_vocab_size, dtype=np.bool_)
        mask[self.target_ids] = True
        return mask

    @property
    def content_hash(self) -> str:
        """sha256 over the ids as little-endian int64: two maps of one size differ in it."""
        return hashlib.sha256(self.target_ids.astype("<i8").tobytes()).hexdigest()

    def rows_of(self, wanted: "DraftVocab") -> IntArray:
        """Draft ids here, rows of a head over this vocabulary, of the tokens of `wanted` `(len(wanted),)`.

        Raises:
            VocabError: `wanted` holds tokens that are not in this vocabulary.
        """
        missing = np.setdiff1d(wanted.target_ids, self.target_ids)
        if len(missing):
            shown = ", ".join(map(str, missing[:5]))
            raise VocabError(
                f"its vocabulary of {len(self)} lacks {len(missing)} of the {len(wanted)} tokens asked for, "
                f"such as {shown}; choose among its own tokens"
            )
        return np.searchsorted(self.target_ids, wanted.target_ids)

    @classmethod
    def from_d2t(cls, d2t: IntArray, target_vocab_size: int) -> "DraftVocab":
        """Reads a checkpoint's offsets back.

        Raises:
            VocabError: the offsets map two draft ids to one target id, or outside the vocabulary.
        """
        return cls(np.asarray(d2t, dtype=np.int64) + np.arange(len(d2t)), target_vocab_size)


def rank_by_count(counts: IntArray | Floats) -> IntArray:
    """All target ids by falling count or score `(V,)`; equals by rising id, so results repeat exactly."""
    return np.argsort(-counts, kind="stable").astype(np.int64)


def selection_order(ranking: IntArray, must_keep: Iterable[int]) -> IntArray:
    """The ranking with the must-keep ids moved to its front, in their own order.

    The vocabulary of size k, at least as large as the must-keep set, is the first k of it.
    """
    forced = np.isin(ranking, np.fromiter(must_keep, dtype=np.int64))
    return np.concatenate([ranking[forced], ranking[~forced]])


def choose_vocab(
    ranking: IntArray, must_keep: Iterable[int], size: int, target_vocab_size: int
) -> DraftVocab:
    """The vocabulary of `size` tokens: the must-keep set, then the highest ranked.

    Args:
        ranking: every id that the draft can propose, best first; all V of them, or those of a draft
            whose head is already trimmed.
        must_keep: ids that stay at any size (end of turn, specials), where the draft has them.
        size: k.
        target_vocab_size: V.

    Raises:
        VocabError: `size` is below the must-keep set or above the length of the ranking.
    """
    must_keep = list(must_keep)
    least, most = max(1, int(np.isin(ranking, must_keep).sum())), len(ranking)
    if not least <= size <= most:
        raise VocabError(
            f"vocabulary size {size} is impossible: it must lie between {least} (the tokens "
            f"that every draft must keep, such as end of turn) and {most} (all that the draft has)"
        )
    return DraftVocab(np.sort(selection_order(ranking, must_keep)[:size]), target_vocab_size)
