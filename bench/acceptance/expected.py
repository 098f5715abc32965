"""Expected acceptance of sampled decoding, given the text that came out.

Speculative sampling is lossless, so the text tells nothing of the draft; but a token x of it came from an
accepted draft with the probability min(1, draft(x) / target(x)). The first m tokens of a round are accepted
with the product of such ratios, and where rounds begin follows place by place. Over texts of the target that
is exact on average; at ratios of 0 and 1 it is greedy acceptance.
"""

from dataclasses import dataclass

import numpy as np

from bench.acceptance.intervals import Acceptance
from bench.vocab.draft_vocab import Floats, IntArray


@dataclass(frozen=True)
class Ratios:
    """How likely each token of one sampled answer came from an accepted draft.

    Attributes:
        ratios: min(1, draft / target) of the answer's token at each place, depth and size
            `(num_tokens - 1, longest draft, len(sizes))`; places as of `Intervals`.
        sizes: vocabulary sizes, ascending from 1; between them the lower one stands.
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
            raise ValueError(f"gamma {draft_length} exceeds the {longest} replayed")
        # Probability that a round from each place accepts at least 1, 2, ... gamma tokens.
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
