"""The layers of an EAGLE draft; the forward pass comes in parts, as training attends in another way.

EAGLE-3 (arXiv 2503.01840): `fc` fuses hidden states of the target; the first layer reads [norm(embedding of
the next token) ; norm(hidden)] and adds to the un-normed hidden; its pre-norm output is the next step's
hidden, and `norm` then the LM head give logits. EAGLE-1 and 2 (arXiv 2401.15077, 2406.16858) and HASS: `fc`
makes one hidden state of [embedding ; hidden], the first layer has no norm of its input, and the LM head
reads the output as it is. Layout and arithmetic are those of vLLM 0.32; parameter names are the checkpoints',
with layers by number.
"""

from abc import abstractmethod
from collections.abc import Collection, Iterator
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.cost.config_json import DraftKind
from bench.models.draft_config import EagleConfig
from bench.models.layers import apply_rotary


class DraftLayer(Protocol):
    """A decoder layer in parts, so that training and replay can attend in another way than a draft does."""

    def enter(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Attention input and residual of a layer after the first, `(batch, n, H)` each."""

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections of `(batch, n, width)` inputs, un-rotated, each `(batch, heads, n, head_dim)`."""

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `queries_keys_values`, for positions that only need to be attended to."""

    def finish(self, attended: Tensor, residual: Tensor) -> Tensor:
        """Attention output `(batch, heads, n, head_dim)` and residual to layer output `(batch, n, H)`."""


class Body(nn.Module):
    """Everything of a draft that reads the target's hidden states, but embedding and LM head.

    Attributes:
        config: what it computes.
        layers: its decoder layers.
    """

    config: EagleConfig
    layers: nn.ModuleList

    @property
    def decoder_layers(self) -> list[DraftLayer]:
        """First to last."""
        return cast(list[DraftLayer], list(self.layers))

    @abstractmethod
    def fuse(self, features: Tensor) -> Tensor:
        """The target's features `(batch, n, width)` to hidden states `(batch, n, H)`, as `enter` takes."""

    @abstractmethod
    def enter(self, embeds: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's attention input and residual, of embeddings and hidden states `(batch, n, H)`."""

    @abstractmethod
    def output(self, hidden: Tensor) -> Tensor:
        """The last layer's output to the hidden state that the next step reads."""

    @abstractmethod
    def head_input(self, hidden: Tensor) -> Tensor:
        """What the LM head reads, of hidden states from `output`."""


class _Attention(nn.Module):
    def __init__(self, config: EagleConfig, width: int, prefix: str, biases: Collection[str]):
        super().__init__()
        kv_size = config.num_key_value_heads * config.head_dim
        q_size = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(width, q_size, bias=f"{prefix}q_proj.bias" in biases)
        self.k_proj = nn.Linear(width, kv_size, bias=f"{prefix}k_proj.bias" in biases)
        self.v_proj = nn.Linear(width, kv_size, bias=f"{prefix}v_proj.bias" in biases)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=f"{prefix}o_proj.bias" in biases)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)


class _MLP(nn.Module):
    def __init__(self, config: EagleConfig, prefix: str, biases: Collection[str]):
        super().__init__()
        size, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(size, wide, bias=f"{prefix}gate_proj.bias" in biases)
        self.up_proj = nn.Linear(size, wide, bias=f"{prefix}up_proj.bias" in biases)
        self.down_proj = nn.Linear(wide, size, bias=f"{prefix}down_proj.bias" in biases)


class EagleLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: EagleConfig, index: int, biases: Collection[str]):
        super().__init__()
        size, eps, self._config = config.hidden_size, config.rms_norm_eps, config
        is_first, is_eagle3 = index == 0, config.kind is DraftKind.EAGLE3
        prefix = f"layers.{index}."
        width = 2 * size if is_first and is_eagle3 else size
        self.self_attn = _Attention(config, width, f"{prefix}self_attn.", biases)
        self.mlp = _MLP(config, f"{prefix}mlp.", biases)
        if is_eagle3 or not is_first:
            self.input_layernorm = nn.RMSNorm(size, eps)
        if is_eagle3 and is_first:
            self.hidden_norm = nn.RMSNorm(size, eps)
        self.post_attention_layernorm = nn.RMSNorm(size, eps)

    def enter(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Attention input and residual of a layer after the first, `(batch, n, H)` each."""
        return self.input_layernorm(hidden), hidden

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections of `(batch, n, width)` inputs, un-rotated, each `(batch, heads, n, head_dim)`."""
        q = self._split(self.self_attn.q_proj(x), self._config.num_attention_heads)
        return (self.self_attn.q_norm(q) if self._config.qk_norm else q, *self.keys_values(x))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `queries_keys_values`, for positions that only need to be attended to."""
        attention, heads = self.self_attn, self._config.num_key_value_heads
        k, v = self._split(attention.k_proj(x), heads), self._split(attention.v_proj(x), heads)
        return attention.k_norm(k) if self._config.qk_norm else k, v

    def finish(self, attended: Tensor, residual: Tensor) -> Tensor:
        """Attention output `(batch, heads, n, head_dim)` and residual to layer output `(batch, n, H)`."""
        hidden = residual + self.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        x, mlp = self.post_attention_layernorm(hidden), self.mlp
        return hidden + mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self._config.head_dim)).transpose(1, 2)


class EagleBody(Body):
    """The body of an EAGLE draft.

    Args:
        config: what it computes.
        biases: names of the parameters that are biases of linear layers.
    """

    def __init__(self, config: EagleConfig, biases: Collection[str] = ()):
        super().__init__()
        self.config = config
        size, eps, width = config.hidden_size, config.rms_norm_eps, config.feature_width
        if self._is_eagle3:
            if width:
                self.fc = nn.Linear(width, size, bias="fc.bias" in biases)
            if width and config.norm_before_fc:
                self.input_norm = nn.RMSNorm(width, eps)
            if width and config.fc_norm:
                one = width // config.num_features
                self.fc_norm = nn.ModuleList(nn.RMSNorm(one, eps) for _ in range(config.num_features))
            self.norm = nn.RMSNorm(size, eps)
        else:
            self.fc = nn.Linear(2 * size, size, bias="fc.bias" in biases)
        self.layers = nn.ModuleList(EagleLayer(config, index, biases) for index in range(config.num_layers))

    def fuse(self, features: Tensor) -> Tensor:
        """As of `Body`."""
        config = self.config
        if not self._is_eagle3 or not config.feature_width:
            return features
        if config.norm_before_fc:
            features = self.input_norm(features)
        if config.fc_norm:
            chunks = features.chunk(config.num_features, dim=-1)
            features = torch.cat([norm(c) for norm, c in zip(self.fc_norm, chunks, strict=True)], dim=-1)
        return self.fc(features)

    def enter(self, embeds: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Body`."""
        if not self._is_eagle3:
            fused = self.fc(torch.cat([embeds, hidden], dim=-1))
            return fused, fused
        layer: Any = self.layers[0]
        normed = layer.hidden_norm(hidden)
        x = torch.cat([layer.input_layernorm(embeds), normed], dim=-1)
        return x, normed if self.config.norm_before_residual else hidden

    def output(self, hidden: Tensor) -> Tensor:
        """As of `Body`."""
        return self.norm(hidden) if self.config.norm_output else hidden

    def head_input(self, hidden: Tensor) -> Tensor:
        """As of `Body`."""
        if self._is_eagle3 and not self.config.norm_output:
            hidden = self.norm(hidden)
        return hidden if self.config.logit_scale == 1 else hidden * self.config.logit_scale

    @property
    def _is_eagle3(self) -> bool:
        return self.config.kind is DraftKind.EAGLE3


class Unroll:
    """A body unrolled over its own outputs from many places of known texts at once; differentiable.

    At depth 0 every place reads true features. At depth j it reads the draft's own output of depth j - 1
    with the next token of the text, and attends to the true places up to where its chain began plus the
    chain itself - what a real draft sees after j tokens that were all right.

    Args:
        body: the draft.
        tables: rotary cos and sin `(positions, head_dim)`.
        embeds: embedding of the token that follows each place `(batch, places, H)`.
        features: the target's features at each place `(batch, places, width)`.
        is_real: places that are text and not padding `(batch, places)`; all of them unless given.
    """

    def __init__(
        self,
        body: Body,
        tables: tuple[Tensor, Tensor],
        embeds: Tensor,
        features: Tensor,
        is_real: Tensor | None = None,
    ):
        self._body, self._tables, self._embeds, self._is_real = body, tables, embeds, is_real
        self._hidden = body.fuse(features)
        self._true: list[tuple[Tensor, Tensor]] = []
        x, residual = body.enter(embeds, self._hidden)
        layers = body.decoder_layers
        for index, layer in enumerate(layers):
            keys, values = layer.keys_values(x)
            self._true.append((self._rotate(keys, 0), values))
            if layer is not layers[-1]:
                # What a later layer attends to is what the layers before it made of the true places.
                q, mask = layer.queries_keys_values(x)[0], self._mask(0, embeds.shape[1])
                attended = self._attend(self._rotate(q, 0), index, mask, [])
                x, residual = layers[index + 1].enter(layer.finish(attended, residual))

    def chains(self, start: int, stop: int, depths: int) -> Iterator[Tensor]:
        """Hidden states by depth of the chains that begin at places start..stop - 1.

        Yields:
            `(batch, chains, H)` for each depth; chains whose text has ended are left out at the end.
        """
        body, num_places = self._body, self._embeds.shape[1]
        hidden = self._hidden[:, start:stop]
        mask = self._mask(start, stop)
        own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in body.decoder_layers]
        for depth in range(depths):
            first, last = start + depth, min(stop + depth, num_places)
            x, residual = body.enter(self._embeds[:, first:last], hidden[:, : last - first])
            for index, layer in enumerate(body.decoder_layers):
                if index:
                    x, residual = layer.enter(hidden)
                q, k, v = layer.queries_keys_values(x)
                if depth:
                    own[index].append((self._rotate(k, first), v))
                attended = self._attend(self._rotate(q, first), index, mask, own[index])
                hidden = layer.finish(attended, residual)
            hidden = body.output(hidden)
            yield hidden

    def _mask(self, start: int, stop: int) -> Tensor:
        """Which true places each chain sees `(batch or 1, 1, 1, chains, places)`."""
        places = torch.arange(stop, device=self._embeds.device)
        seen = (places[None, :] <= places[start:, None])[None]
        if self._is_real is not None:
            seen = seen & self._is_real[:, None, :stop]
        return seen[:, None, None]

    def _rotate(self, x: Tensor, start: int) -> Tensor:
        cos, sin = self._tables
        return apply_rotary(x, cos[start : start + x.shape[2]], sin[start : start + x.shape[2]])

    def _attend(self, q: Tensor, index: int, mask: Tensor, own: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attention of layer `index` to true places and to what the chain itself has drafted."""
        n, seen = q.shape[2], mask.shape[-1]
        keys, values = (states[:, :, None, :seen] for states in self._true[index])
        q = q.unflatten(1, (keys.shape[1], -1)) * q.shape[-1] ** -0.5
        scores = (q @ keys.transpose(-1, -2)).masked_fill(~mask[:, :, :, :n], float("-inf"))
        scores = torch.cat([scores, *((q * k[:, :, None, :n]).sum(-1, keepdim=True) for k, _ in own)], dim=-1)
        weights = torch.softmax(scores, dim=-1)
        attended = weights[..., :seen] @ values
        for place, (_, v) in enumerate(own):
            attended = attended + weights[..., seen + place, None] * v[:, :, None, :n]
        return attended.flatten(1, 2)
