"""Coverage C(k) of every k at once, with bootstrap intervals, across domains, and what is lost.

Arrays hold size k at index k - 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.errors import VocabError
from bench.stats.bootstrap import draw_counts
from bench.stats.estimates import percentile_interval
from bench.vocab.blocks import BlockCounts
from bench.vocab.draft_vocab import DraftVocab, Floats, IntArray

# Of curves at a time: what stays in a cache is done in a third of the time.
_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Band:
    """A curve over every k with its 95% percentile bootstrap interval `(n,)`.

    Attributes:
        value: the curve of all data.
        ci_low: lower end; None if all data is one block, which cannot be resampled.
        ci_high: upper end; None as `ci_low`.
    """

    value: Floats
    ci_low: Floats | None
    ci_high: Floats | None


def coverage_curve(counts: IntArray | Floats, order: IntArray) -> Floats:
    """C(k): share of the counted tokens among the first k of `order`, for every k `(len(order),)`.

    Raises:
        VocabError: nothing was counted.
    """
    total = counts.sum()
    if not total:
        raise VocabError("no response token was counted, so there is no coverage")
    return np.cumsum(counts[order]) / total


def coverage_band(blocks: BlockCounts, order: IntArray, num_resamples: int, seed: int) -> Band:
    """C(k) with intervals, resampling blocks of conversations.

    Args:
        blocks: counts of the tokens to cover.
        order: token ids in the order in which they enter the vocabulary.
        num_resamples: resamples of the bootstrap.
        seed: seed of the bootstrap.

    Raises:
        VocabError: nothing was counted.
    """
    counts, num_blocks = blocks.total(), blocks.num_blocks
    value = coverage_curve(counts, order)
    if num_blocks < 2:
        return Band(value, None, None)
    matrix = blocks.matrix()
    rng = np.random.default_rng(seed)
    weights = draw_counts(num_blocks, num_resamples, rng)
    totals = weights @ np.asarray(matrix.sum(axis=1)).ravel()
    # Tokens that never occur do not change coverage: resample the others, and expand the curves afterwards.
    seen = np.flatnonzero(counts[order])
    columns = matrix[:, order[seen]].tocsc()
    low, high = np.empty(len(seen)), np.empty(len(seen))
    carried = np.zeros((num_resamples, 1))
    step = max(1, _CHUNK_BYTES // (8 * num_resamples))
    for start in range(0, len(seen), step):
        part = (columns[:, start : start + step].T @ weights.T).T
        curves = carried + np.cumsum(part, axis=1)
        carried = curves[:, -1:]
        ends = percentile_interval(curves / totals[:, None])
        low[start : start + step], high[start : start + step] = ends
    places = np.searchsorted(seen, np.arange(len(order)), side="right") - 1
    return Band(value, _spread(low, places), _spread(high, places))


def _spread(values: Floats, places: IntArray) -> Floats:
    return np.where(places >= 0, values[np.maximum(places, 0)], 0.0)


def lost_tokens(counts: IntArray, order: IntArray, size: int, limit: int) -> list[tuple[int, int]]:
    """The most frequent tokens outside the vocabulary of `size`: (token id, count), largest count first."""
    outside = counts.copy()
    outside[order[:size]] = 0
    found = np.argsort(-outside, kind="stable")[:limit]
    return [(int(token), int(outside[token])) for token in found if outside[token]]


def cross_coverage(
    vocabs: Mapping[str, DraftVocab], counts: Mapping[str, IntArray]
) -> dict[tuple[str, str], float | None]:
    """Coverage by (name of the vocabulary, name of the domain); None if a domain has no counts."""
    return {
        (chosen_on, domain): coverage(found, vocab)
        for chosen_on, vocab in vocabs.items()
        for domain, found in counts.items()
    }


# Token counts of assistant answers, and their coverage by a vocabulary.


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
    """Share of the counted tokens in `vocab`; None if nothing was counted.

    C(k) of arXiv 2603.05210. On the answers that made the ranking it is optimistic; on held-out answers it is
    realistic.
    """
    total = int(counts.sum())
    return float(counts[vocab.target_ids].sum() / total) if total else None


def must_keep_ids(tokenizer: SpecialTokens, eos_token_ids: Iterable[int]) -> list[int]:
    """Tokens that a draft needs to end a turn, and the tokenizer's other special tokens."""
    return sorted({*tokenizer.all_special_ids, *eos_token_ids})
