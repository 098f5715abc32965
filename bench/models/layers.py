"""Rotary embedding and batch-1 attention, shared by the target's lean decoder and the draft."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from bench.models.rope import Rope


class RotaryTable:
    """Cos and sin of every position, which grows when longer texts come.

    Args:
        rope: the embedding.
        head_dim: width of one head.
        length: positions that the model was trained on.
        like: whose device and dtype the tables have.
    """

    def __init__(self, rope: Rope, head_dim: int, length: int, like: Tensor):
        frequencies, self._factor = rope.frequencies(head_dim, length)
        self._frequencies, self._like = torch.from_numpy(frequencies).float(), like
        self._cos, self._sin = self._made(length)

    def upto(self, length: int) -> tuple[Tensor, Tensor]:
        """Cos and sin `(at least length, head_dim)`."""
        if length > len(self._cos):
            self._cos, self._sin = self._made(2 * length)
        return self._cos, self._sin

    def _made(self, length: int) -> tuple[Tensor, Tensor]:
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self._frequencies).repeat(1, 2)
        return (angles.cos() * self._factor).to(self._like), (angles.sin() * self._factor).to(self._like)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `(..., n, head_dim)` by tables `(n, head_dim)`, halves paired as in Llama."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def grouped_attention(q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention of the last n positions over all `length` positions.

    Query heads that share a key-value head are laid side by side as rows, so that keys and values are
    read once and never repeated in memory.

    Args:
        q: `(1, heads, n, head_dim)`.
        keys: `(1, kv_heads, length, head_dim)`; the last n are the queries' own positions.
        values: as `keys`.
        scale: of the scores; 1/sqrt(head_dim) unless given.

    Returns:
        `(1, heads, n, head_dim)`.
    """
    heads, n, kv_heads, length = q.shape[1], q.shape[2], keys.shape[1], keys.shape[2]
    if n == length and n > 1:
        return F.scaled_dot_product_attention(
            q, keys, values, is_causal=True, scale=scale, enable_gqa=heads != kv_heads
        )
    groups = heads // kv_heads
    rows = q.reshape(1, kv_heads, groups * n, q.shape[3])
    mask = None
    if n > 1:
        mask = torch.ones(n, length, dtype=torch.bool, device=q.device).tril(length - n)
        mask = mask.repeat(groups, 1)
    attended = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale)
    return attended.reshape(q.shape)


# A key-value cache that is written in place and rolled back in constant time.

_GROWTH = 256


class InPlaceLayer(DynamicLayer):
    """One layer's keys and values `(batch, kv_heads, length, head_dim)` inside larger buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.key_buffer: Tensor | None = None
        self.value_buffer: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Appends `(batch, kv_heads, new, head_dim)` states; returns views of all states so far."""
        start, end = self.length, self.length + key_states.shape[-2]
        if self.key_buffer is None or end > self.key_buffer.shape[-2]:
            self._grow(key_states, value_states, end)
        assert self.key_buffer is not None and self.value_buffer is not None
        self.key_buffer[:, :, start:end] = key_states
        self.value_buffer[:, :, start:end] = value_states
        return self._show(end)

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.length

    def rewind(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        if length < self.length:
            self._show(length)

    def select_rows(self, rows: Tensor) -> None:
        """Keeps these batch rows only."""
        assert self.key_buffer is not None and self.value_buffer is not None
        self.key_buffer = self.key_buffer.index_select(0, rows)
        self.value_buffer = self.value_buffer.index_select(0, rows)
        self._show(self.length)

    def repeat_rows(self, times: int) -> None:
        """Repeats every batch row `times` times, copies side by side."""
        assert self.key_buffer is not None and self.value_buffer is not None
        self.key_buffer = self.key_buffer.repeat_interleave(times, dim=0)
        self.value_buffer = self.value_buffer.repeat_interleave(times, dim=0)
        self._show(self.length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        assert self.key_buffer is not None and self.value_buffer is not None
        self.length = length
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]
        return self.keys, self.values

    def _grow(self, keys: Tensor, values: Tensor, needed: int) -> None:
        capacity = max(needed + _GROWTH, 2 * needed)
        old_keys, old_values, self.is_initialized = self.key_buffer, self.value_buffer, True
        self.dtype, self.device = keys.dtype, keys.device
        self.key_buffer = keys.new_empty((*keys.shape[:2], capacity, keys.shape[-1]))
        self.value_buffer = values.new_empty((*values.shape[:2], capacity, values.shape[-1]))
        if old_keys is not None and old_values is not None:
            self.key_buffer[:, :, : self.length] = old_keys[:, :, : self.length]
            self.value_buffer[:, :, : self.length] = old_values[:, :, : self.length]


class KVCache(Cache):
    """In-place cache of a whole decoder, as `transformers` models take it."""

    def __init__(self, num_layers: int):
        super().__init__(layers=[InPlaceLayer() for _ in range(num_layers)])

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].get_seq_length()

    def rewind(self, length: int) -> None:
        """Forgets everything after the first `length` tokens, in every layer."""
        for layer in self.layers:
            layer.rewind(length)

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keeps these batch rows only, in every layer."""
        for layer in self.layers:
            layer.select_rows(rows)

    def repeat_rows(self, times: int) -> None:
        """Repeats every batch row `times` times, copies side by side, in every layer."""
        for layer in self.layers:
            layer.repeat_rows(times)


# Linear layers whose weights are laid out for the CPU's matrix kernel once, not at every call.

# Rows of a verification at common draft lengths; only a layout hint, other row counts stay correct.
ROWS_HINT = 4


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has a packed kernel for this weight on this machine."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32


class PackedLinear(nn.Module):
    """y = x W^T (+ b) with W `(out, in)` packed for oneDNN. Inference only."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS_HINT)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def make_linear(weight: Tensor) -> nn.Module:
    """The fastest bias-free linear layer that this machine has for `weight` `(out, in)`."""
    if can_pack(weight):
        return PackedLinear(weight)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


def pack_linears(model: nn.Module) -> int:
    """Replaces every packable `nn.Linear` under `model` in place; returns how many."""
    packed = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and can_pack(child.weight):
                setattr(module, name, PackedLinear(child.weight, child.bias))
                packed += 1
    return packed
