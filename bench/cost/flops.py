"""FLOPs per drafted token, by component, as a function of the draft's vocabulary size.

Convention of arXiv 2603.05210: 2 FLOPs per multiply-add of every matrix; embedding lookup, norms, rotary
embedding, softmax and attention over the context count 0. An EAGLE-3 draft's `fc` is charged on every
token, as published, although engines run it once per round.
"""

from dataclasses import dataclass

from bench.cost.shape import DraftKind, DraftShape
from bench.vocab.draft_vocab import Floats, IntArray


@dataclass(frozen=True)
class DraftFlops:
    """FLOPs of one drafted token."""

    fc: int
    attention: int
    mlp: int
    lm_head: int

    @property
    def total(self) -> int:
        """Of the whole draft."""
        return self.fc + self.attention + self.mlp + self.lm_head

    @property
    def lm_head_share(self) -> float:
        """Part of the total that trimming can reach."""
        return self.lm_head / self.total


def draft_flops(shape: DraftShape, vocab_size: int) -> DraftFlops:
    """FLOPs per drafted token with a head of `vocab_size` rows."""
    hidden, is_eagle = shape.hidden_size, shape.kind is DraftKind.EAGLE3
    # EAGLE-3 reads the embedding and the hidden state side by side in its first layer.
    widths = [2 * hidden if is_eagle and layer == 0 else hidden for layer in range(shape.num_layers)]
    query = shape.num_attention_heads * shape.head_dim
    key_value = shape.num_key_value_heads * shape.head_dim
    attention = sum(2 * width * (query + 2 * key_value) + 2 * query * hidden for width in widths)
    matrices = 3 if shape.gated_mlp else 2
    return DraftFlops(
        fc=2 * shape.feature_size * hidden,
        attention=attention,
        mlp=2 * matrices * hidden * shape.intermediate_size * shape.num_layers,
        lm_head=2 * hidden * vocab_size,
    )


def total_flops(shape: DraftShape, sizes: IntArray) -> IntArray:
    """F(k): FLOPs per drafted token of the whole draft, for each k in `sizes` `(n,)`."""
    row = draft_flops(shape, 1)
    return row.total + row.lm_head * (sizes - 1)


def latency_reduction(shape: DraftShape, sizes: IntArray) -> Floats:
    """R(k) = 1 - F(k) / F(V) for each k in `sizes` `(n,)` (arXiv 2603.05210)."""
    return 1.0 - total_flops(shape, sizes) / draft_flops(shape, shape.vocab_size).total
