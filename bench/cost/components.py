"""FLOPs, bytes and kernel launches of one forward pass, component by component.

`bench.cost.flops` counts what arXiv 2603.05210 counts; this adds what that leaves out and hardware pays
for: attention over the context, weights, activations and keys and values that move through memory, and
launches. Conventions:

- 2 FLOPs per multiply-add. Norms, activations, rotary embedding, softmax and argmax count 0.
- Weights are read once per pass whatever the batch. Biases, norms of single heads, and soft caps on logits
  are left out.
- Every operation reads its inputs and writes its output once; caches between operations are ignored.
- Masked positions are computed, as the kernels do: n new tokens attend to context + n positions each.
- Launches are an estimate for eager PyTorch without fusion; compiled or captured graphs launch fewer.
- A sliding window is not modelled: the context is to be no longer than it.
"""

from dataclasses import dataclass

from bench.cost.flops import DraftFlops, draft_flops
from bench.cost.shape import DraftKind, DraftShape

EMBEDDING, FC, NORMS = "embedding", "fc", "norms"

PROJECTIONS, CONTEXT, MLP = "attention_projections", "attention_context", "mlp"

HEAD, SELECTION = "lm_head", "selection"

# Ids and offsets are int64.
_ID_BYTES = 8

# Rotary embedding of queries and of keys: negate, concatenate, two products and a sum each.
_ROTARY_LAUNCHES = 2 * 5

_CACHE_WRITES = 2


@dataclass(frozen=True)
class ComponentCost:
    """What one component of one forward pass costs.

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
        """Everything that moves."""
        return self.weight_bytes + self.activation_bytes + self.kv_bytes

    def __add__(self, other: "ComponentCost") -> "ComponentCost":
        return ComponentCost(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
            self.kv_bytes + other.kv_bytes,
            self.num_launches + other.num_launches,
        )


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        num_tokens: new tokens of every sequence.
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


def draft_step_cost(
    shape: DraftShape,
    vocab_size: int,
    context_length: int,
    batch: int = 1,
    dtype_bytes: int = 2,
    num_tokens: int = 1,
    include_fc: bool = False,
) -> dict[str, ComponentCost]:
    """One step of a draft, by component.

    Args:
        shape: of the draft.
        vocab_size: rows of its LM head, k.
        context_length: positions already held.
        batch: sequences.
        dtype_bytes: of weights and arithmetic.
        num_tokens: new tokens of every sequence; one when drafting.
        include_fc: whether the step starts from the target's features, as the first of a round does;
            chained steps start from the draft's own output. The paper's count has it in every step.

    Returns:
        Costs by component; `fc` only where it runs.
    """
    run = Pass(num_tokens, context_length, batch, dtype_bytes)
    parts = _forward(shape, vocab_size, run)
    if include_fc and shape.feature_size:
        parts[FC] = _fc(shape, draft_flops(shape, vocab_size), run)
    return parts


def verify_cost(
    target: DraftShape, num_tokens: int, context_length: int, batch: int = 1, dtype_bytes: int = 2
) -> dict[str, ComponentCost]:
    """One verification of `num_tokens` tokens (gamma + 1) by the target, by component."""
    return _forward(target, target.vocab_size, Pass(num_tokens, context_length, batch, dtype_bytes))


def total_cost(parts: dict[str, ComponentCost]) -> ComponentCost:
    """Sum over components."""
    return sum(parts.values(), ComponentCost())


def _forward(shape: DraftShape, vocab_size: int, run: Pass) -> dict[str, ComponentCost]:
    per_token = draft_flops(shape, vocab_size)
    return {
        EMBEDDING: _embedding(shape, run),
        NORMS: _norms(shape, run),
        PROJECTIONS: _projections(shape, per_token, run),
        CONTEXT: _context(shape, run),
        MLP: _mlp(shape, per_token, run),
        HEAD: _head(shape, per_token, vocab_size, run),
        SELECTION: _selection(shape, vocab_size, run),
    }


def _matrices(flops_per_token: int, activations_per_row: int, launches: int, run: Pass) -> ComponentCost:
    # Every weight is in one multiply-add per token.
    return ComponentCost(
        flops=flops_per_token * run.rows,
        weight_bytes=flops_per_token // 2 * run.dtype_bytes,
        activation_bytes=activations_per_row * run.rows * run.dtype_bytes,
        num_launches=launches,
    )


def _embedding(shape: DraftShape, run: Pass) -> ComponentCost:
    row_bytes = shape.hidden_size * run.dtype_bytes
    # Only the rows of the tokens at hand are read.
    return ComponentCost(
        weight_bytes=run.rows * row_bytes,
        activation_bytes=run.rows * (row_bytes + _ID_BYTES),
        num_launches=1,
    )


def _norms(shape: DraftShape, run: Pass) -> ComponentCost:
    in_layers = shape.norms_per_layer * shape.num_layers
    # EAGLE-3 norms embedding and hidden state apart before its first layer.
    num_norms = in_layers + 1 + (1 if shape.kind is DraftKind.EAGLE3 else 0)
    width_bytes = shape.hidden_size * run.dtype_bytes
    return ComponentCost(
        weight_bytes=num_norms * width_bytes,
        activation_bytes=num_norms * 2 * width_bytes * run.rows,
        num_launches=num_norms,
    )


def _fc(shape: DraftShape, per_token: DraftFlops, run: Pass) -> ComponentCost:
    return _matrices(per_token.fc, shape.feature_size + shape.hidden_size, 1, run)


def _projections(shape: DraftShape, per_token: DraftFlops, run: Pass) -> ComponentCost:
    hidden, query, key_value = shape.hidden_size, _query_size(shape), _key_value_size(shape)
    residual = 3 * hidden
    output = query + hidden
    elements = shape.num_layers * (3 * hidden + query + 2 * key_value + output + residual)
    launches = shape.num_layers * (4 + 1)
    if shape.kind is DraftKind.EAGLE3:
        # The first layer's input is twice as wide, and concatenated before.
        elements += 3 * hidden + 4 * hidden
        launches += 1
    return _matrices(per_token.attention, elements, launches, run)


def _context(shape: DraftShape, run: Pass) -> ComponentCost:
    query, key_value = _query_size(shape), _key_value_size(shape)
    length = run.context_length + run.num_tokens
    rotary = 2 * (query + key_value)
    attention = 2 * query
    positions = run.batch * (length + run.num_tokens)
    return ComponentCost(
        flops=shape.num_layers * 4 * run.rows * query * length,
        activation_bytes=shape.num_layers * (rotary + attention) * run.rows * run.dtype_bytes,
        kv_bytes=shape.num_layers * positions * 2 * key_value * run.dtype_bytes,
        num_launches=shape.num_layers * (_ROTARY_LAUNCHES + _CACHE_WRITES + 1),
    )


def _mlp(shape: DraftShape, per_token: DraftFlops, run: Pass) -> ComponentCost:
    hidden, wide = shape.hidden_size, shape.intermediate_size
    down, residual = wide + hidden, 3 * hidden
    if shape.gated_mlp:
        elements, launches = 2 * (hidden + wide) + 2 * wide + 3 * wide + down + residual, 6
    else:
        elements, launches = hidden + wide + 2 * wide + down + residual, 4
    return _matrices(per_token.mlp, shape.num_layers * elements, shape.num_layers * launches, run)


def _head(shape: DraftShape, per_token: DraftFlops, vocab_size: int, run: Pass) -> ComponentCost:
    return _matrices(per_token.lm_head, shape.hidden_size + vocab_size, 1, run)


def _selection(shape: DraftShape, vocab_size: int, run: Pass) -> ComponentCost:
    is_trimmed = vocab_size < shape.vocab_size
    # A trimmed draft looks its token up in d2t: one id read, one offset read, one id written.
    lookup = 3 * _ID_BYTES if is_trimmed else 0
    return ComponentCost(
        activation_bytes=run.rows * (vocab_size * run.dtype_bytes + _ID_BYTES + lookup),
        num_launches=2 if is_trimmed else 1,
    )


def _query_size(shape: DraftShape) -> int:
    return shape.num_attention_heads * shape.head_dim


def _key_value_size(shape: DraftShape) -> int:
    return shape.num_key_value_heads * shape.head_dim
