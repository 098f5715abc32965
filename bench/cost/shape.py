"""The sizes of a draft and its cost: FLOPs of a token as published; FLOPs, bytes and launches of a pass.

The paper (arXiv 2603.05210) counts only the matrices. A pass adds the rest of what hardware
does: attention over the context, weights, activations and keys and values that move through
memory, and launches. Conventions:

- 2 FLOPs per multiply-add. Norms, activations, rotary embedding, softmax and argmax count 0.
- Weights are read once per pass whatever the batch. Biases, norms of single heads, and soft caps on logits
  are left out.
- Every operation reads its inputs and writes its output once; caches between operations are ignored.
- Masked positions are computed, as the kernels do: n new tokens attend to context + n positions each.
- Launches are an estimate for eager PyTorch without fusion; compiled or captured graphs launch fewer.
- A sliding window is not modelled: the context must not be longer than the window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.cost.config_json import DraftKind, read_config, sizes_of
from bench.vocab.draft_vocab import Floats, IntArray

__all__ = [
    "CONTEXT", "EMBEDDING", "FC", "HEAD", "MLP", "NORMS", "PROJECTIONS", "SELECTION", "DraftKind",
    "DraftShape", "Pass", "PassCost", "TokenFlops", "total_cost",
]  # fmt: skip

# Parts of a pass.
EMBEDDING, FC, NORMS = "embedding", "fc", "norms"
PROJECTIONS, CONTEXT, MLP = "attention_projections", "attention_context", "mlp"
HEAD, SELECTION = "lm_head", "selection"

# Norms beside those of the layers and the last one.
_MORE_NORMS = {DraftKind.EAGLE3: 1, DraftKind.EAGLE: -2, DraftKind.MTP: 2}

# Ids and offsets are int64.
_ID_BYTES = 8

# Rotary embedding of queries and of keys: negate, concatenate, two products and a sum each.
_ROTARY_LAUNCHES = 2 * 5

_CACHE_WRITES = 2


@dataclass(frozen=True)
class TokenFlops:
    """FLOPs of one drafted token: 2 per multiply-add of every matrix, and nothing else."""

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
        """Share of the total that trimming can reduce."""
        return self.lm_head / self.total


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        num_tokens: new tokens of every sequence: one when drafting, gamma + 1 in a verification.
        context_length: positions that every sequence already holds.
        batch: sequences.
        dtype_bytes: of weights, activations, keys and values.
    """

    num_tokens: int = 1
    context_length: int = 0
    batch: int = 1
    dtype_bytes: int = 2

    @property
    def rows(self) -> int:
        """Rows of every matrix product."""
        return self.batch * self.num_tokens


@dataclass(frozen=True)
class PassCost:
    """What a pass, or one part of it, costs.

    Attributes:
        flops: 2 per multiply-add.
        weight_bytes: weights read.
        activation_bytes: inputs read and outputs written, without keys and values.
        kv_bytes: keys and values read and written.
        num_launches: kernels, an estimate for eager execution.
    """

    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    kv_bytes: int = 0
    num_launches: int = 0

    @property
    def total_bytes(self) -> int:
        """All bytes read and written."""
        return self.weight_bytes + self.activation_bytes + self.kv_bytes

    def __add__(self, other: "PassCost") -> "PassCost":
        return PassCost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def total_cost(parts: Mapping[str, PassCost]) -> PassCost:
    """Sum over the parts of a pass."""
    return sum(parts.values(), PassCost())


@dataclass(frozen=True)
class DraftShape:
    """The sizes of a draft that its cost depends on; a dense target has the same ones.

    Attributes:
        kind: EAGLE-3, EAGLE (1, 2 or HASS), MTP module or decoder LM.
        hidden_size: H.
        intermediate_size: width of the MLP; of a mixture of experts, of those that one token goes through.
            The router is left out, and that several tokens can go through others.
        num_layers: decoder layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; fewer than query heads with GQA.
        head_dim: width of one head.
        vocab_size: V of the target.
        draft_vocab_size: rows of the draft's LM head as it is.
        gated_mlp: three matrices in the MLP instead of two.
        tied_head: the LM head is the input embedding.
        feature_size: width of the target's features that enter `fc`; 0 where there is no `fc`.
        norms_per_layer: norms over the hidden state in one layer.
        projection_weights: weights of attention's projections in one layer, where they are not q, k, v and o
            alone; 0 where they are.
    """

    kind: DraftKind
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    gated_mlp: bool
    tied_head: bool
    feature_size: int
    norms_per_layer: int = 2
    projection_weights: int = 0

    @classmethod
    def read(cls, folder: Path) -> "DraftShape":
        """Of the model in `folder`, as `from_config`."""
        path = folder / "config.json"
        return cls.from_config(read_config(path)[1], str(path))

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> "DraftShape":
        """From the values of a `config.json` called `where`.

        Raises:
            CheckpointError: sizes are missing, or the model is a mixture of experts.
        """
        return cls(**sizes_of(values, where))

    def token_flops(self, vocab_size: int) -> TokenFlops:
        """FLOPs per drafted token with a head of `vocab_size` rows, as arXiv 2603.05210 counts them.

        An EAGLE-3 draft's `fc` is charged on every token, as published, although engines run it once per
        round.
        """
        hidden, query, key_value = self.hidden_size, self._query_size, self._key_value_size
        widths = [hidden] * self.num_layers
        if self.has_wide_first_layer:
            widths[0] *= 2
        if self.projection_weights:
            attention = 2 * self.projection_weights * self.num_layers
        else:
            attention = sum(2 * width * (query + 2 * key_value) + 2 * query * hidden for width in widths)
        matrices = 3 if self.gated_mlp else 2
        return TokenFlops(
            fc=2 * self.fc_width * hidden,
            attention=attention,
            mlp=2 * matrices * hidden * self.intermediate_size * self.num_layers,
            lm_head=2 * hidden * vocab_size,
        )

    def total_flops(self, sizes: IntArray) -> IntArray:
        """F(k): FLOPs per drafted token of the whole draft, for each k in `sizes` `(n,)`."""
        row = self.token_flops(1)
        return row.total + row.lm_head * (sizes - 1)

    def latency_reduction(self, sizes: IntArray) -> Floats:
        """R(k) = 1 - F(k) / F(V) for each k in `sizes` `(n,)` (arXiv 2603.05210)."""
        return 1.0 - self.total_flops(sizes) / self.token_flops(self.vocab_size).total

    def cost(self, run: Pass, vocab_size: int | None = None, *, with_fc: bool = False) -> dict[str, PassCost]:
        """One forward pass, by part.

        Args:
            run: the pass: a draft step has one new token, a verification by a target gamma + 1.
            vocab_size: rows of the LM head, k; None for all V.
            with_fc: whether the pass starts from the target's features, as the first step of a round does;
                chained steps start from the draft's own output. The paper's count has it in every step.
        """
        rows = self.vocab_size if vocab_size is None else vocab_size
        matrices = self.token_flops(rows)
        parts = {
            EMBEDDING: self._embedding(run),
            NORMS: self._norms(run),
            PROJECTIONS: self._projections(matrices.attention, run),
            CONTEXT: self._context(run),
            MLP: self._mlp(matrices.mlp, run),
            HEAD: _products(matrices.lm_head, self.hidden_size + rows, 1, run),
            SELECTION: self._selection(rows, run),
        }
        if self.fc_width and (with_fc or self.has_fc_in_every_step):
            parts[FC] = _products(matrices.fc, self.fc_width + self.hidden_size, 1, run)
        return parts

    @property
    def has_wide_first_layer(self) -> bool:
        """Whether the first layer reads the embedding and the hidden state side by side, as EAGLE-3 does."""
        return self.kind is DraftKind.EAGLE3

    @property
    def has_fc_in_every_step(self) -> bool:
        """Whether every step runs `fc`, over embedding and features, as EAGLE-1 and 2 and MTP do."""
        return self.kind in (DraftKind.EAGLE, DraftKind.MTP)

    @property
    def fc_width(self) -> int:
        """What `fc` reads: features alone, or the embedding too; 0 where there is no `fc`."""
        return self.feature_size + (self.hidden_size if self.has_fc_in_every_step else 0)

    @property
    def _query_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def _key_value_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def _embedding(self, run: Pass) -> PassCost:
        row_bytes = self.hidden_size * run.dtype_bytes
        # Only the rows of the new tokens are read.
        return PassCost(
            weight_bytes=run.rows * row_bytes,
            activation_bytes=run.rows * (row_bytes + _ID_BYTES),
            num_launches=1,
        )

    def _norms(self, run: Pass) -> PassCost:
        # One before the head; EAGLE-3 norms embedding and hidden state apart before its first layer. EAGLE-1
        # and 2 have neither a norm before the head nor one before the first layer. MTP norms both before
        # `fc`.
        num_norms = self.norms_per_layer * self.num_layers + 1 + _MORE_NORMS.get(self.kind, 0)
        width_bytes = self.hidden_size * run.dtype_bytes
        return PassCost(
            weight_bytes=num_norms * width_bytes,
            activation_bytes=num_norms * 2 * width_bytes * run.rows,
            num_launches=num_norms,
        )

    def _projections(self, flops_per_token: int, run: Pass) -> PassCost:
        hidden, query, key_value = self.hidden_size, self._query_size, self._key_value_size
        residual = 3 * hidden
        output = query + hidden
        elements = self.num_layers * (3 * hidden + query + 2 * key_value + output + residual)
        launches = self.num_layers * (4 + 1)
        if self.has_wide_first_layer:
            # The first layer's input is twice as wide, and concatenated before.
            elements += 3 * hidden + 4 * hidden
            launches += 1
        return _products(flops_per_token, elements, launches, run)

    def _context(self, run: Pass) -> PassCost:
        query, key_value = self._query_size, self._key_value_size
        length = run.context_length + run.num_tokens
        rotary = 2 * (query + key_value)
        attention = 2 * query
        positions = run.batch * (length + run.num_tokens)
        return PassCost(
            flops=self.num_layers * 4 * run.rows * query * length,
            activation_bytes=self.num_layers * (rotary + attention) * run.rows * run.dtype_bytes,
            kv_bytes=self.num_layers * positions * 2 * key_value * run.dtype_bytes,
            num_launches=self.num_layers * (_ROTARY_LAUNCHES + _CACHE_WRITES + 1),
        )

    def _mlp(self, flops_per_token: int, run: Pass) -> PassCost:
        hidden, wide = self.hidden_size, self.intermediate_size
        down, residual = wide + hidden, 3 * hidden
        if self.gated_mlp:
            elements, launches = 2 * (hidden + wide) + 2 * wide + 3 * wide + down + residual, 6
        else:
            elements, launches = hidden + wide + 2 * wide + down + residual, 4
        return _products(flops_per_token, self.num_layers * elements, self.num_layers * launches, run)

    def _selection(self, vocab_size: int, run: Pass) -> PassCost:
        is_trimmed = vocab_size < self.vocab_size
        # A trimmed draft looks its token up in d2t: one id read, one offset read, one id written.
        lookup = 3 * _ID_BYTES if is_trimmed else 0
        return PassCost(
            activation_bytes=run.rows * (vocab_size * run.dtype_bytes + _ID_BYTES + lookup),
            num_launches=2 if is_trimmed else 1,
        )


def _products(flops_per_token: int, activations_per_row: int, launches: int, run: Pass) -> PassCost:
    """Matrix products: every weight is in one multiply-add per token."""
    return PassCost(
        flops=flops_per_token * run.rows,
        weight_bytes=flops_per_token // 2 * run.dtype_bytes,
        activation_bytes=activations_per_row * run.rows * run.dtype_bytes,
        num_launches=launches,
    )
