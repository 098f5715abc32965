"""What every draft has: an LM head over the k tokens of its vocabulary."""

from torch import Tensor

from bench.models.layers import make_linear


class DraftHead:
    """The draft's LM head over k tokens: the rows of the target's head that the vocabulary keeps.

    Attributes:
        size: k.
        target_ids: target id of every row `(k,)`, ascending; None when k is the whole vocabulary.
    """

    def __init__(self, weight: Tensor, target_ids: Tensor | None):
        self.size = weight.shape[0]
        self.target_ids = target_ids
        self.linear = make_linear(weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states `(..., H)` to logits `(..., k)`."""
        return self.linear(hidden)

    def select(self, logits: Tensor) -> Tensor:
        """Target ids of the best tokens `(...)`; among equals the lowest id, whatever k is."""
        best = logits.argmax(-1)
        return best if self.target_ids is None else self.target_ids[best]
