"""Token counts per block of conversations, for a bootstrap over conversations in bounded memory."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from bench.vocab.draft_vocab import IntArray

# A hash assigns conversations to this many blocks, and the bootstrap resamples blocks. This is as good as
# resampling conversations, but its cost does not grow with their number.
NUM_BLOCKS = 256


@dataclass(frozen=True)
class BlockCounts:
    """How often each token occurs in each block.

    Attributes:
        block_ids: block of each entry, ascending `(n,)`.
        token_ids: token of each entry, ascending within a block `(n,)`.
        counts: count of each entry, above 0 `(n,)`.
        target_vocab_size: V.
        num_conversations: number of counted conversations.
    """

    block_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    counts: IntArray
    target_vocab_size: int
    num_conversations: int

    @classmethod
    def from_parts(
        cls,
        parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
        target_vocab_size: int,
        num_conversations: int,
    ) -> "BlockCounts":
        """Sums parts of (block ids, token ids, counts), in any order and with any overlap."""
        columns = [[np.asarray(c, dtype=np.int64) for c in part] for part in parts]
        empty = np.empty(0, dtype=np.int64)
        blocks, tokens, counts = (np.concatenate([empty, *(part[i] for part in columns)]) for i in range(3))
        keys, summed = sum_by_key(blocks * target_vocab_size + tokens, counts)
        kept = summed > 0
        keys, summed = keys[kept], summed[kept]
        return cls(
            (keys // target_vocab_size).astype(np.int32),
            (keys % target_vocab_size).astype(np.int32),
            summed,
            target_vocab_size,
            num_conversations,
        )

    def total(self) -> IntArray:
        """Counts over all blocks `(V,)`."""
        totals = np.bincount(self.token_ids, weights=self.counts, minlength=self.target_vocab_size)
        return totals.astype(np.int64)

    def within(self, target_vocab_size: int) -> "BlockCounts":
        """The same counts in a vocabulary of another size that contains all their tokens."""
        assert not len(self.token_ids) or self.token_ids.max() < target_vocab_size
        return replace(self, target_vocab_size=target_vocab_size)

    @property
    def num_blocks(self) -> int:
        """Number of non-empty blocks."""
        return len(np.unique(self.block_ids))

    def matrix(self) -> csr_matrix:
        """Counts as a sparse matrix of the non-empty blocks `(num_blocks, V)`."""
        _, rows = np.unique(self.block_ids, return_inverse=True)
        shape = (self.num_blocks, self.target_vocab_size)
        return csr_matrix((self.counts.astype(np.float64), (rows, self.token_ids)), shape=shape)


def sum_by_key(keys: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct keys, ascending, and the sum of the counts of each."""
    if not len(keys):
        return keys, counts
    # Stable sorting is fast for sorted runs, and every part is one.
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts, starts)
