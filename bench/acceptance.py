"""Greedy acceptance of every vocabulary size and draft length, from intervals of sizes.

Tokens are ranked in the order in which they enter a vocabulary. A draft of size k proposes the target's token
y exactly if rank(y) <= k < r, where r is the lowest rank among the tokens with a larger logit than y. A round
accepts its first d tokens if k is in all d intervals, one per depth.
"""

from dataclasses import dataclass

import numpy as np

from bench.variant import Variant
from bench.vocab.draft_vocab import Floats, IntArray


@dataclass(frozen=True)
class Intervals:
    """The sizes for which a draft is right, at every position of one answer.

    A round that starts at position s knows tokens 0..s of the answer and drafts the tokens after s. Its first
    d + 1 tokens are right exactly for the sizes low[s, d] <= k < high[s, d].

    Attributes:
        low: `(num_tokens - 1, longest draft)`; increases with depth.
        high: as `low`; decreases with depth. An interval with low >= high is empty.
    """

    low: IntArray
    high: IntArray

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape or self.low.ndim != 2:
            raise ValueError(f"low {self.low.shape} and high {self.high.shape} must be equal matrices")

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.low) + 1

    @property
    def longest_draft(self) -> int:
        """The largest gamma that was replayed."""
        return self.low.shape[1]

    def walk(self, draft_length: int) -> "Acceptance":
        """Every round of every vocabulary size at one draft length, at most the longest replayed."""
        if draft_length > self.longest_draft:
            raise ValueError(f"gamma {draft_length} exceeds {self.longest_draft}, the longest replayed")
        low, high = self.low[:, :draft_length], self.high[:, :draft_length]
        is_held = low < high
        edges = np.unique(np.concatenate([[1], low[is_held], high[is_held]]))
        counts = _accepted_from_each_place(low, high, edges)
        place = np.zeros(len(edges), dtype=np.int64)
        num_rounds = np.zeros(len(edges))
        accepted_at = np.zeros((draft_length, len(edges)))
        depths = np.arange(draft_length)[:, None]
        columns = np.arange(len(edges))
        while len(columns):
            accepted = counts[place[columns], columns]
            num_rounds[columns] += 1
            accepted_at[:, columns] += depths < accepted
            place[columns] += accepted + 1
            columns = columns[place[columns] < len(low)]
        return Acceptance(edges, num_rounds, accepted_at)

    def accepted_by_round(self, variant: Variant) -> list[int]:
        """Accepted tokens of every round of one decode, as the decode itself counts them."""
        inside = (self.low <= variant.vocab_size) & (variant.vocab_size < self.high)
        counts, place, found = inside[:, : variant.draft_length].sum(axis=1), 0, []
        while place < len(counts):
            found.append(int(counts[place]))
            place += found[-1] + 1
        return found


@dataclass(frozen=True)
class Acceptance:
    """Acceptance in the decodes of one answer, as step functions of the vocabulary size.

    Attributes:
        edges: sizes at which something changes `(n,)`, ascending; the first is 1.
        num_rounds: rounds from edge to edge `(n,)`; fractions if they are expectations.
        accepted_at: number of rounds whose drafted token at each position was accepted `(draft length, n)`.
    """

    edges: IntArray
    num_rounds: Floats
    accepted_at: Floats

    def at(self, sizes: IntArray) -> tuple[Floats, Floats]:
        """Rounds `(len(sizes),)` and acceptance by position `(draft length, len(sizes))`."""
        steps = np.searchsorted(self.edges, sizes, side="right") - 1
        return self.num_rounds[steps], self.accepted_at[:, steps]


def _accepted_from_each_place(low: IntArray, high: IntArray, edges: IntArray) -> IntArray:
    """Tokens that a round accepts, by position and edge `(positions, len(edges))`."""
    # Each interval adds 1 at its start and subtracts 1 at its end; the cumulative sum counts intervals.
    changes = np.zeros((len(low), len(edges) + 1), dtype=np.int64)
    places, depths = np.nonzero(low < high)
    np.add.at(changes, (places, np.searchsorted(edges, low[places, depths])), 1)
    np.add.at(changes, (places, np.searchsorted(edges, high[places, depths])), -1)
    return changes[:, :-1].cumsum(axis=1)


# Expected acceptance of sampled decoding, given the sampled text.


@dataclass(frozen=True)
class Ratios:
    """For each token of one sampled answer, the probability that it came from an accepted draft.

    Attributes:
        ratios: min(1, draft / target) of the answer's token at each position, depth and size
            `(num_tokens - 1, longest draft, len(sizes))`; positions as in `Intervals`.
        sizes: vocabulary sizes, ascending from 1. Between two sizes, the lower one is used.
    """

    ratios: Floats
    sizes: IntArray

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.ratios) + 1

    def walk(self, draft_length: int) -> Acceptance:
        """Expected rounds and acceptance by position at one draft length, of every size."""
        num_places, longest, _ = self.ratios.shape
        if draft_length > longest:
            raise ValueError(f"gamma {draft_length} exceeds {longest}, the longest replayed")
        # Probability that a round from each position accepts at least 1, 2, ... gamma tokens.
        reached: Floats = np.cumprod(self.ratios[:, :draft_length], axis=1, dtype=np.float64)
        starts = _chance_of_a_round(reached, num_places)
        return Acceptance(self.sizes, starts.sum(0), np.einsum("pk,pdk->dk", starts, reached))


def _chance_of_a_round(reached: Floats, num_places: int) -> Floats:
    """Probability that some round starts at each place `(num_places, sizes)`; one starts at the first."""
    draft_length, num_sizes = reached.shape[1:]
    starts = np.zeros((num_places + draft_length + 1, num_sizes))
    starts[0] = 1
    # Exactly m accepted: at least m, less at least m + 1.
    at_least = np.concatenate([np.ones((num_places, 1, num_sizes)), reached], axis=1)
    exactly = at_least - np.concatenate([reached, np.zeros((num_places, 1, num_sizes))], axis=1)
    for place in range(num_places):
        starts[place + 1 : place + draft_length + 2] += starts[place] * exactly[place]
    return starts[:num_places]
