"""Rankings of tokens, on one domain or on a mixture of several."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.errors import VocabError
from bench.vocab.draft_vocab import Floats, IntArray


def mixture_scores(counts: Mapping[str, IntArray], weights: Mapping[str, float]) -> Floats:
    """Frequency of each token in a mixture of domains `(V,)`.

    Args:
        counts: token counts `(V,)` by domain.
        weights: weight of each domain, in any unit. A single domain ranks by its counts.

    Raises:
        VocabError: a domain with a weight is unknown or has no counts.
    """
    used = {name: weight for name, weight in weights.items() if weight > 0}
    for name in used:
        if name not in counts:
            raise VocabError(f"cannot rank by domain {name}: known are {', '.join(counts)}")
        if not counts[name].any():
            raise VocabError(f"cannot rank by domain {name}: no response token was counted in it")
    total = sum(used.values())
    if len(used) == 1:
        # Integers, so that equal counts stay equal.
        return counts[next(iter(used))].astype(np.float64)
    scores = [weight / total * (counts[name] / counts[name].sum()) for name, weight in used.items()]
    return np.sum(scores, axis=0)


# The vocabulary that needs no text: low ids are frequent tokens, as tokenizers number their merges.

BY_ID = "by id"  # as records name the order; no domain can have this name


def order_by_id(order: IntArray, num_must_keep: int) -> IntArray:
    """The tokens of a ranking `(n,)`: those that must be kept first, then all others by increasing id."""
    return np.concatenate([order[:num_must_keep], np.sort(order[num_must_keep:])])


def id_prefix_size(order: IntArray, num_must_keep: int, prefix: int | None) -> int | None:
    """Size of the vocabulary of all ids below `prefix` and of what must be kept; None where that is all."""
    if prefix is None:
        return None
    size = int((order < prefix).sum() + (order[:num_must_keep] >= prefix).sum())
    return size if size < len(order) else None


# A list of tokens that somebody published, such as those of another draft.

PUBLISHED = "published list"  # as records name the order


def order_by_list(order: IntArray, num_must_keep: int, ids: IntArray) -> tuple[IntArray, int | None]:
    """A ranking with the tokens of a list first, behind those that must be kept; and how many both are.

    Args:
        order: of the ranking `(n,)`; tokens of the list that it lacks are left out.
        num_must_keep: tokens at its front that are in every vocabulary.
        ids: of the list.

    Returns:
        The order, and the number of tokens; None where that is all of them.
    """
    kept, rest = order[:num_must_keep], order[num_must_keep:]
    is_listed = np.isin(rest, ids)
    size = num_must_keep + int(is_listed.sum())
    listed = np.concatenate([kept, rest[is_listed], rest[~is_listed]])
    return listed, size if size < len(order) else None


# The rankings of a run, and the coverage of every vocabulary size.


@dataclass(frozen=True)
class Ranking:
    """The draft's tokens in the order in which they enter a vocabulary.

    Attributes:
        order: token ids `(full size of the draft,)`.
        counts: count of each token, in that order.
        num_seen: number of tokens at the front that were counted or must be kept.
        num_must_keep: number of tokens at the front that are in every vocabulary.
    """

    order: IntArray
    counts: Floats
    num_seen: int
    num_must_keep: int

    def coverage(self) -> Floats:
        """Share of the ranking's own tokens that each size covers; size k at index k - 1."""
        return np.cumsum(self.counts) / self.counts.sum()

    def coverage_of(self, token_ids: IntArray) -> Floats:
        """Share of other tokens that each size covers; size k at index k - 1."""
        rank = np.full(max(int(self.order.max()), int(token_ids.max())) + 1, len(self.order))
        rank[self.order] = np.arange(len(self.order))
        found = np.bincount(rank[token_ids], minlength=len(self.order) + 1)[:-1]
        return np.cumsum(found) / len(token_ids)
