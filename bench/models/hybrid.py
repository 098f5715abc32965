"""A cache for models whose layers keep recurrent states (Mamba, gated delta nets, short convolutions).

A recurrent state cannot drop its newest tokens, as keys and values can. So the state before the last pass is
kept. After a rollback to a position behind it, the next pass first reads the tokens since that state again.
After a rollback further back, it reads the whole text again.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionCacheLayerMixin

from bench.models.layers import InPlaceLayer, KVCache

_STATES = ("conv_states", "recurrent_states")


def cache_for(config: Any) -> KVCache:
    """An empty cache with a layer for each that the text model of `config` caches."""
    layers = [
        layer if isinstance(layer, LinearAttentionCacheLayerMixin) else InPlaceLayer()
        for layer in DynamicCache(config=config).layers
    ]
    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers):
        return HybridCache(layers)
    return KVCache(len(layers) or config.num_hidden_layers)


class HybridCache(KVCache):
    """Keys and values in place, and states with a snapshot."""

    def __init__(self, layers: list[Any]):
        super().__init__(0)
        self.layers = layers
        self._ids: Tensor | None = None
        self._held, self._length = 0, 0
        self._saved: tuple[int, list[dict[str, dict[int, Tensor]]]] | None = None

    @property
    def length(self) -> int:
        """Tokens of the text, also those that the next pass must read again."""
        return self._length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held before this pass, where the model asks."""
        if any(isinstance(layer, DynamicLayer) for layer in self.layers):
            return super().get_seq_length(layer_idx)
        return self._saved[0] if self._saved else 0

    def begin(self, ids: Tensor) -> Tensor:
        """What a pass over `ids` `(batch, n)` must read: what is owed, then those."""
        held, known = self._held, self._ids
        self._saved = (held, [_copied(layer) for layer in self.layers])
        self._ids = ids if known is None else torch.cat([known[:, : self._length], ids], dim=1)
        self._held = self._length = self._ids.shape[1]
        return self._ids[:, held:]

    def rewind(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        if length >= self._length:
            return
        self._length = length
        if length >= self._held:
            return
        start, states = self._saved if self._saved and self._saved[0] <= length else (0, None)
        for index, layer in enumerate(self.layers):
            _restore(layer, start, None if states is None else states[index])
        self._held = start

    def select_rows(self, rows: Tensor) -> None:
        """Keeps these batch rows only, in every layer."""
        self._map_rows(lambda tensor: tensor.index_select(0, rows), lambda layer: layer.select_rows(rows))

    def repeat_rows(self, times: int) -> None:
        """Repeats every batch row `times` times, copies side by side, in every layer."""
        self._map_rows(
            lambda tensor: tensor.repeat_interleave(times, dim=0), lambda layer: layer.repeat_rows(times)
        )

    def _map_rows(self, of_tensor: Any, of_layer: Any) -> None:
        self._saved = None
        if self._ids is not None:
            self._ids = of_tensor(self._ids)
        for layer in self.layers:
            if isinstance(layer, InPlaceLayer):
                of_layer(layer)
                continue
            for name in _STATES:
                states = getattr(layer, name)
                for index, state in states.items():
                    states[index] = None if state is None else of_tensor(state)
            if isinstance(layer, DynamicLayer) and layer.is_initialized:
                layer.keys, layer.values = of_tensor(layer.keys), of_tensor(layer.values)


def _copied(layer: Any) -> dict[str, dict[int, Tensor]]:
    """States of a layer as they are; of keys and values nothing, which a length restores."""
    if isinstance(layer, InPlaceLayer):
        return {}
    return {
        name: {index: state.clone() for index, state in getattr(layer, name).items() if state is not None}
        for name in _STATES
    }


def _restore(layer: Any, length: int, states: dict[str, dict[int, Tensor]] | None) -> None:
    """Puts a layer back to its first `length` tokens; without states to the start."""
    if isinstance(layer, InPlaceLayer):
        layer.rewind(length)
        return
    if isinstance(layer, DynamicLayer) and layer.is_initialized:
        layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
    for name in _STATES:
        held = getattr(layer, name)
        for index, state in held.items():
            saved = (states or {}).get(name, {}).get(index)
            if state is not None and saved is not None:
                state.copy_(saved)
            elif state is not None:
                state.zero_()
    if not states or not any(states.values()):
        for index in layer.has_previous_state:
            layer.has_previous_state[index] = False
