"""Rotary embedding, batch-1 attention and its caches, shared by the target's lean decoder and the draft."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from bench.models.rope import Rope

# Rows that a table begins with at most, whatever a configuration says; no text here is as long.
_MOST_ROWS = 2**20


class RotaryTable:
    """Cos and signed sin of every position; the table grows for longer texts.

    Args:
        rope: the embedding.
        head_dim: width of one head.
        length: positions that the model was trained on.
        like: whose device and dtype the tables have.
        rotary_dim: dimensions of a head that turn; the others follow in each of its halves. All unless given.
    """

    def __init__(self, rope: Rope, head_dim: int, length: int, like: Tensor, rotary_dim: int | None = None):
        frequencies, self._factor = rope.frequencies(rotary_dim or head_dim, length)
        self._num_still = (head_dim - (rotary_dim or head_dim)) // 2
        self._frequencies, self._like = torch.from_numpy(frequencies).float(), like
        self._cos, self._sin = self._made(min(length, _MOST_ROWS))

    def upto(self, length: int) -> tuple[Tensor, Tensor]:
        """Cos and signed sin `(at least length, head_dim)`, as `apply_rotary` takes them."""
        if length > len(self._cos):
            self._cos, self._sin = self._made(2 * length)
        return self._cos, self._sin

    def _made(self, length: int) -> tuple[Tensor, Tensor]:
        angles = torch.outer(torch.arange(length, dtype=torch.float32), self._frequencies)
        still = (0, self._num_still)
        cos = F.pad(angles.cos() * self._factor, still, value=1.0).repeat(1, 2)
        sin = F.pad(angles.sin() * self._factor, still).repeat(1, 2)
        return cos.to(self._like), signed_sin(sin).to(self._like)


def signed_sin(sin: Tensor) -> Tensor:
    """Sin `(..., head_dim)` with its first half negated, so that a rotation need not negate activations."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat([-first, second], dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `(..., n, head_dim)` by tables `(n, head_dim)`, halves paired as in Llama.

    At batch 1 a small kernel costs as much as a large one, so this uses only four.

    Args:
        x: queries or keys.
        cos: cosines.
        sin: as `signed_sin`.
    """
    # Not fused: rounded as models round it.
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def grouped_attention(
    q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None, mask: Tensor | None = None
) -> Tensor:
    """Causal attention of the last n positions over all `length` positions.

    Query heads that share a key-value head are laid side by side as rows, so that keys and values are
    read once and never repeated in memory.

    Args:
        q: `(1, heads, n, head_dim)`.
        keys: `(1, kv_heads, length, head_dim)`; the last n are the queries' own positions.
        values: as `keys`.
        scale: of the scores; 1/sqrt(head_dim) unless given.
        mask: from `causal_mask`, so that the layers of a pass can share one; made here unless given.

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
    if mask is None:
        mask = causal_mask(n, length, groups, q.device)
    attended = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale)
    return attended.reshape(q.shape)


def causal_mask(num_new: int, length: int, groups: int, device: torch.device) -> Tensor | None:
    """Which positions the rows of `grouped_attention` see `(groups x num_new, length)`; None: all of them."""
    if num_new == 1 or num_new == length:
        return None
    return (
        torch.ones(num_new, length, dtype=torch.bool, device=device).tril(length - num_new).repeat(groups, 1)
    )


class Window(Protocol):
    """Where one pass's new tokens stand in a cache, in which every layer stores them and attends.

    Attributes:
        reach: positions that tables of positions must hold for this pass.
    """

    reach: int

    def rows(self, table: Tensor) -> Tensor:
        """Those of the new tokens, of a table by position `(positions, ...)`."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Stores the new tokens' keys and values, and attends over all up to each.

        Args:
            layer: index.
            q: rotated queries `(1, heads, n, head_dim)`.
            k: rotated keys `(1, kv_heads, n, head_dim)`.
            v: as `k`.
            scale: of the scores; 1/sqrt(head_dim) unless given.

        Returns:
            `(1, heads, n, head_dim)`.
        """


class TokenCache(Protocol):
    """A key-value cache as the passes of this package take it."""

    def window(self, num_new: int) -> Window:
        """The place of the next `num_new` tokens."""


# A key-value cache that is written in place and rolled back in constant time.

_GROWTH = 256


class InPlaceLayer(DynamicLayer):
    """One layer's keys and values `(batch, kv_heads, length, head_dim)` inside larger buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.key_buffer: Tensor | None = None
        self.value_buffer: Tensor | None = None

    @property
    def keys(self) -> Tensor | None:
        """A view of those that are held; made when asked for, which most passes do not."""
        return None if self.key_buffer is None else self.key_buffer[:, :, : self.length]

    @keys.setter
    def keys(self, _: None) -> None:
        """The base class begins with none."""

    @property
    def values(self) -> Tensor | None:
        """As `keys`."""
        return None if self.value_buffer is None else self.value_buffer[:, :, : self.length]

    @values.setter
    def values(self, _: None) -> None:
        """The base class begins with none."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Appends `(batch, kv_heads, new, head_dim)` states; returns views of all states so far."""
        start, end = self.length, self.length + key_states.shape[-2]
        if self.key_buffer is None or end > self.key_buffer.shape[-2]:
            self._grow(key_states, value_states, end)
        assert self.key_buffer is not None and self.value_buffer is not None
        self.key_buffer[:, :, start:end] = key_states
        self.value_buffer[:, :, start:end] = value_states
        self.length = end
        return self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]

    def make_room(self, num_new: int) -> tuple[Tensor, Tensor]:
        """Takes in new positions, which the caller writes, after those that are held; returns the buffers."""
        keys, values, end = self.key_buffer, self.value_buffer, self.length + num_new
        assert keys is not None and values is not None
        if end > keys.shape[-2]:
            self._grow(keys, values, end)
            return self.make_room(num_new)
        self.length = end
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.length

    def rewind(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        self.length = min(length, self.length)

    def select_rows(self, rows: Tensor) -> None:
        """Keeps these batch rows only."""
        assert self.key_buffer is not None and self.value_buffer is not None
        self.key_buffer = self.key_buffer.index_select(0, rows)
        self.value_buffer = self.value_buffer.index_select(0, rows)

    def repeat_rows(self, times: int) -> None:
        """Repeats every batch row `times` times, copies side by side."""
        assert self.key_buffer is not None and self.value_buffer is not None
        self.key_buffer = self.key_buffer.repeat_interleave(times, dim=0)
        self.value_buffer = self.value_buffer.repeat_interleave(times, dim=0)

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

    def begin(self, ids: Tensor) -> Tensor:
        """What a pass over `ids` `(batch, n)` must read: those; a pass through `transformers` asks first."""
        return ids

    def rewind(self, length: int) -> None:
        """Forgets everything after the first `length` tokens, in every layer."""
        for layer in self.layers:
            layer.rewind(length)

    def window(self, num_new: int) -> "GrowingWindow":
        """The next positions."""
        return GrowingWindow(self.layers, self.length, num_new)

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keeps these batch rows only, in every layer."""
        for layer in self.layers:
            layer.select_rows(rows)

    def repeat_rows(self, times: int) -> None:
        """Repeats every batch row `times` times, copies side by side, in every layer."""
        for layer in self.layers:
            layer.repeat_rows(times)


class GrowingWindow:
    """Positions after the `length` that the layers hold; shapes grow with the text."""

    def __init__(self, layers: Sequence[InPlaceLayer], length: int, num_new: int):
        self.reach = length + num_new
        self._layers, self._start, self._num_new = layers, length, num_new
        self._mask: Tensor | None = None

    def rows(self, table: Tensor) -> Tensor:
        """As of `Window`: a view."""
        return table[self._start : self.reach]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """As of `Window`."""
        keys, values = self._layers[layer].update(k, v)
        if self._mask is None:
            self._mask = causal_mask(self._num_new, self.reach, q.shape[1] // k.shape[1], q.device)
        return grouped_attention(q, keys, values, scale, self._mask)


# A key-value cache whose shapes and addresses never change, so that passes over it can be captured.


def uses_flash(like: Tensor) -> bool:
    """Whether flash attention can run on tensors of this device and dtype."""
    if not like.is_cuda or like.dtype not in (torch.bfloat16, torch.float16) or torch.version.hip:
        return False
    return torch.cuda.get_device_properties(like.device).major >= 8


class StaticCache:
    """Keys and values of at most `room` positions. How many are held is a number on the device.

    A pass stores its new tokens after the `length` held and does not change `length`: the caller sets it to
    what was accepted, and the next pass overwrites the rest. The work of a pass does not depend on `length`.

    Args:
        num_layers: of the model.
        kv_heads: of one layer.
        head_dim: width of a head.
        room: positions.
        like: whose device and dtype it has.

    Attributes:
        room: as given.
        length: positions held `(1,)`.
        uses_flash: whether one token attends to no more than what is held, by flash attention.
    """

    def __init__(self, num_layers: int, kv_heads: int, head_dim: int, room: int, like: Tensor):
        self.room = room
        shape = (num_layers, 1, kv_heads, self.room, head_dim)
        # Zeros: masked positions have weight zero, and zero times uninitialised memory may be NaN.
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.length = torch.zeros(1, dtype=torch.long, device=like.device)
        self.uses_flash = uses_flash(like)

    def load(self, cache: KVCache, length: int) -> None:
        """Takes the first `length` positions of another cache."""
        for index, layer in enumerate(cache.layers):
            self.keys[index, :, :, :length] = layer.keys[:, :, :length]
            self.values[index, :, :, :length] = layer.values[:, :, :length]
        self.length.fill_(length)

    def rewind(self, length: Tensor) -> None:
        """The next pass stores its tokens after the first `length` `(1,)`."""
        self.length = length

    def window(self, num_new: int) -> "StaticWindow":
        """The next positions."""
        return StaticWindow(self, num_new)


class StaticWindow:
    """Positions after those that a `StaticCache` holds.

    One token attends by flash attention where there is any, several by matrix products over the whole room.
    Ten layers of 9 heads over 300 of 512 positions as one graph on an H200: flash takes 147 us for one token
    and 212 us for four, and the kernel that `scaled_dot_product_attention` has for masks 375 us for four, all
    with the writing of keys and values; products take 107 and 110 us without it.
    """

    def __init__(self, cache: StaticCache, num_new: int):
        self.reach = cache.room
        self._cache, self._num_new = cache, num_new
        self._every = torch.arange(cache.room, device=cache.length.device)
        self._positions = cache.length + self._every[:num_new]
        self._mask: Tensor | None = None
        self._bounds: tuple[Tensor, Tensor] | None = None

    def rows(self, table: Tensor) -> Tensor:
        """As of `Window`."""
        return table.index_select(0, self._positions)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """As of `Window`."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys.index_copy_(2, self._positions, k)
        values.index_copy_(2, self._positions, v)
        if self._num_new == 1 and self._cache.uses_flash:
            return self._attend_to_held(q, keys, values, scale)
        kv_heads, head_dim = k.shape[1], q.shape[3]
        if self._mask is None:
            self._mask = self._added_mask(q.shape[1] // kv_heads, q.dtype)
        rows = q.reshape(kv_heads, -1, head_dim)
        scores = torch.baddbmm(
            self._mask.expand(kv_heads, -1, -1),
            rows,
            keys[0].transpose(1, 2),
            alpha=head_dim**-0.5 if scale is None else scale,
        )
        return (torch.softmax(scores, dim=-1) @ values[0]).reshape(q.shape)

    def _added_mask(self, groups: int, dtype: torch.dtype) -> Tensor:
        """What is added to scores `(groups x n, room)`: 0 where a row sees, else minus infinity."""
        seen = self._every <= self._positions[:, None]
        mask = torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, float("-inf"))
        return mask.repeat(groups, 1)

    def _attend_to_held(self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
        """Flash attention over one sequence whose length is on the device, aligned at its end."""
        if self._bounds is None:
            ends = torch.full_like(self._positions[:1], self._num_new), self._cache.length + self._num_new
            of_q, of_k = (F.pad(end, (1, 0)).int() for end in ends)
            self._bounds = of_q, of_k
        attended = torch.ops.aten._flash_attention_forward(
            q[0].transpose(0, 1),
            keys[0].transpose(0, 1),
            values[0].transpose(0, 1),
            *self._bounds,
            self._num_new,
            self._cache.room,
            0.0,
            True,
            False,
            scale=scale,
        )[0]
        return attended.transpose(0, 1)[None]
