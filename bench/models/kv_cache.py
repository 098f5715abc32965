"""A key-value cache that is written in place and rolled back in constant time.

The stock dynamic cache copies every key and value at each token and again when rejected tokens are
removed; here both are an index.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

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
