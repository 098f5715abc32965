"""What ranks tokens in a deployment that sees several domains."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.errors import VocabError
from bench.vocab.draft_vocab import Floats, IntArray


def mixture_scores(counts: Mapping[str, IntArray], weights: Mapping[str, float]) -> Floats:
    """Expected frequency of each token in a deployment that sees several domains `(V,)`.

    Args:
        counts: token counts `(V,)` by domain.
        weights: share of each domain in the deployment, in any unit; one domain alone ranks by its counts.

    Raises:
        VocabError: a weighted domain is unknown or nothing was counted in it.
    """
    used = {name: weight for name, weight in weights.items() if weight > 0}
    for name in used:
        if name not in counts:
            raise VocabError(f"cannot rank by domain {name}: known are {', '.join(counts)}")
        if not counts[name].any():
            raise VocabError(f"cannot rank by domain {name}: no response token was counted in it")
    total = sum(used.values())
    if len(used) == 1:
        # Whole numbers, so that equal counts stay equal.
        return counts[next(iter(used))].astype(np.float64)
    scores = [weight / total * (counts[name] / counts[name].sum()) for name, weight in used.items()]
    return np.sum(scores, axis=0)


# The rankings of a run read back, and what vocabularies of any size cover.


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

    def coverage(self) -> Floats:
        """Share of the ranking's own tokens that each size covers; size k at index k - 1."""
        return np.cumsum(self.counts) / self.counts.sum()

    def coverage_of(self, token_ids: IntArray) -> Floats:
        """Share of other tokens that each size covers; size k at index k - 1."""
        rank = np.full(max(int(self.order.max()), int(token_ids.max())) + 1, len(self.order))
        rank[self.order] = np.arange(len(self.order))
        found = np.bincount(rank[token_ids], minlength=len(self.order) + 1)[:-1]
        return np.cumsum(found) / len(token_ids)
