"""Token counts over assistant answers, and what a vocabulary covers of them."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from bench.vocab.draft_vocab import DraftVocab, IntArray


class SpecialTokens(Protocol):
    """The part of a tokenizer that names its special tokens."""

    all_special_ids: list[int]


def count_tokens(answers: Iterable[Sequence[int]], vocab_size: int) -> IntArray:
    """How often each target token occurs in `answers` `(V,)`."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for answer in answers:
        counts += np.bincount(np.asarray(answer, dtype=np.int64), minlength=vocab_size)
    return counts


def coverage(counts: IntArray, vocab: DraftVocab) -> float | None:
    """Share of the counted tokens that `vocab` holds; None when nothing was counted.

    C(k) of arXiv 2603.05210. Over the answers that made the ranking it is optimistic; over held-out
    answers it is what a deployment sees.
    """
    total = int(counts.sum())
    return float(counts[vocab.target_ids].sum() / total) if total else None


def must_keep_ids(tokenizer: SpecialTokens, eos_token_ids: Iterable[int]) -> list[int]:
    """Tokens without which a draft could never end a turn, and the tokenizer's other specials."""
    return sorted({*tokenizer.all_special_ids, *eos_token_ids})
