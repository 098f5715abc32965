"""Batch-1 forward pass over the weights of a Llama-like model, with few Python steps.

At batch 1 a small model spends as much time in Python on the host as in its matrices. Speculation must be
compared with the fastest plain loop that the weights allow, so the target runs through this pass
if its architecture is known. The modules are the `transformers` model's, not copies.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models.causal_lm import too_long
from bench.models.draft_config import LAST
from bench.models.fused import FusedNorm, FusedStack, LayerParts, fused_obstacle, fused_ops, takes
from bench.models.kernels import RmsNorm, joined
from bench.models.layers import KVCache, StaticCache, TokenCache, apply_rotary, signed_sin


class LeanDecoder:
    """Runs `transformers` Llama-like decoder layers at batch 1.

    Args:
        decoder: the model's decoder, with `embed_tokens`, `layers`, `norm` and `rotary_emb`.

    Attributes:
        feature_layers: layers after which the hidden state is kept (1 = after the first); `LAST` for what
            they end with, normed.
    """

    def __init__(self, decoder: Any):
        self._decoder = decoder
        self._embedding: Tensor = decoder.embed_tokens.weight
        eps: float = decoder.config.rms_norm_eps
        self._layers = [_LayerParts(layer, eps) for layer in decoder.layers]
        self._norm = RmsNorm(decoder.norm.weight, eps)
        self.feature_layers: frozenset[int] = frozenset()
        self._cos, self._sin = self._rotary_tables()
        self._fused: tuple[FusedNorm, FusedStack] | None = None

    @property
    def fused_obstacle(self) -> str | None:
        """Why its layers cannot be fused; None where they can."""
        return fused_obstacle(self._embedding, self._decoder.layers)

    def fuse(self, wanted: bool) -> None:
        """From now on passes over few tokens run fused layers, or no pass does."""
        self._fused = self._fused_parts() if wanted else None

    def static_cache(self, room: int) -> StaticCache:
        """An empty cache of fixed room."""
        config, first = self._decoder.config, self._layers[0]
        return StaticCache(
            len(self._layers), config.num_key_value_heads, first.head_dim, room, self._embedding
        )

    def forward(self, ids: Tensor, cache: TokenCache) -> tuple[Tensor, Tensor]:
        """`ids` `(1, n)` on top of `cache`; final normed hidden `(1, n, H)`, features `(1, n, layers x H)`.

        Without feature layers the features are empty.
        """
        window = cache.window(ids.shape[1])
        if window.reach > len(self._cos):
            raise too_long(window.reach, len(self._cos))
        hidden = F.embedding(ids, self._embedding)
        features = [hidden] if 0 in self.feature_layers else []
        if self._fused and isinstance(cache, KVCache) and takes(ids.shape[1], cache):
            norm, stack = self._fused
            tables = self._cos, self._sin
            _, final, kept = stack.run(norm(hidden), hidden, cache, tables, self.feature_layers)
            return self._with_features(final, features + kept)
        cos, sin = window.rows(self._cos), window.rows(self._sin)
        for index, layer in enumerate(self._layers):
            x = layer.input_norm(hidden)
            attended = window.attend(index, *layer.queries_keys_values(x, cos, sin))
            hidden = hidden + layer.o_proj(attended.transpose(1, 2).flatten(2))
            x = layer.mlp_norm(hidden)
            hidden = hidden + layer.mlp(x)
            if index + 1 in self.feature_layers:
                features.append(hidden)
        return self._with_features(self._norm(hidden), features)

    def _with_features(self, final: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        if LAST in self.feature_layers:
            features.append(final)
        return final, torch.cat(features, dim=-1) if features else final[..., :0]

    def _fused_parts(self) -> tuple[FusedNorm, FusedStack]:
        """The norm of the first layer's input, and the layers."""
        config, ops = self._decoder.config, fused_ops(self._embedding.dtype)
        heads = config.num_attention_heads, config.num_key_value_heads, self._layers[0].head_dim
        norms = [FusedNorm(ops, norm) for norm in (*(parts.input_norm for parts in self._layers), self._norm)]
        layers = [
            LayerParts.of(layer, FusedNorm(ops, parts.mlp_norm), norms[number])
            for number, (layer, parts) in enumerate(
                zip(self._decoder.layers, self._layers, strict=True), start=1
            )
        ]
        return norms[0], FusedStack(ops, layers, heads)

    def _rotary_tables(self) -> tuple[Tensor, Tensor]:
        """Cos and sin of every position `(positions, head_dim)`, scaled as the model scales them."""
        length = self._decoder.config.max_position_embeddings
        weight = self._embedding
        positions = torch.arange(length, device=weight.device)[None]
        cos, sin = self._decoder.rotary_emb(weight[:1, None], positions)
        return cos[0].contiguous(), signed_sin(sin[0])


class _LayerParts:
    """The callables and weights of one layer, looked up once.

    Matrices that read the same input are one where they are not packed: a GPU then has fewer kernels.
    """

    def __init__(self, layer: Any, eps: float):
        attention, mlp = layer.self_attn, layer.mlp
        self.input_norm = RmsNorm(layer.input_layernorm.weight, eps)
        self.mlp_norm = RmsNorm(layer.post_attention_layernorm.weight, eps)
        self.o_proj, self.head_dim = attention.o_proj, attention.head_dim
        self._qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._joined_qkv = joined(*self._qkv)
        self._num_kv = self._qkv[1].out_features // self.head_dim
        self._gate_up = (mlp.gate_proj, mlp.up_proj)
        self._joined_gate_up = joined(*self._gate_up)
        self._down_proj = mlp.down_proj

    def queries_keys_values(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(1, n, H)` to rotated queries and keys, and values `(1, heads, n, head_dim)`."""
        if self._joined_qkv is None:
            q, k, v = (self._split(projection(x)) for projection in self._qkv)
            return apply_rotary(q, cos, sin), apply_rotary(k, cos, sin), v
        states, kv = self._split(self._joined_qkv(x)), self._num_kv
        rotated = apply_rotary(states[:, :-kv], cos, sin)
        return rotated[:, :-kv], rotated[:, -kv:], states[:, -kv:]

    def mlp(self, x: Tensor) -> Tensor:
        """`(1, n, H)` to the same."""
        if self._joined_gate_up is None:
            gate, up = (projection(x) for projection in self._gate_up)
        else:
            gate, up = self._joined_gate_up(x).chunk(2, dim=-1)
        return self._down_proj(F.silu(gate) * up)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(1, x.shape[1], -1, self.head_dim).transpose(1, 2)


# Batch-1 forward pass over the weights of Gemma 3, with few Python steps.


def is_lean_gemma(config: Any) -> bool:
    """Whether a text configuration is of the Gemma 3 that this pass computes."""
    return (
        config.model_type == "gemma3_text"
        and config.hidden_activation == "gelu_pytorch_tanh"
        and config.attn_logit_softcapping is None
        and not config.use_bidirectional_attention
    )


class LeanGemma:
    """Runs `transformers` Gemma 3 decoder layers at batch 1, on no more positions than the window holds.

    Args:
        decoder: the model's decoder, with `embed_tokens`, `layers`, `norm` and `rotary_emb`.
    """

    def __init__(self, decoder: Any):
        config = decoder.config
        self._embed = decoder.embed_tokens
        self._layers = [
            _GemmaLayerParts(layer, config.layer_types[i]) for i, layer in enumerate(decoder.layers)
        ]
        self._norm = _Norm(decoder.norm)
        self._longest: int = min(config.sliding_window, config.max_position_embeddings)
        weight = decoder.embed_tokens.weight
        positions = torch.arange(self._longest, device=weight.device)[None]
        self._rotary = {
            kind: self._tables(decoder.rotary_emb(weight[:1, None], positions, kind))
            for kind in set(config.layer_types)
        }

    def forward(self, ids: Tensor, cache: TokenCache) -> Tensor:
        """`ids` `(1, n)` on top of `cache`; final normed hidden states `(1, n, H)`."""
        window = cache.window(ids.shape[1])
        if window.reach > self._longest:
            raise ValueError(
                f"{window.reach} tokens exceed the {self._longest} positions of the model's window"
            )
        rotary = {kind: (window.rows(cos), window.rows(sin)) for kind, (cos, sin) in self._rotary.items()}
        hidden = self._embed(ids)
        for index, layer in enumerate(self._layers):
            q, k, v = layer.project(layer.input_norm(hidden))
            cos, sin = rotary[layer.kind]
            rotated = apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
            attended = window.attend(index, *rotated, v, layer.scale)
            attended = layer.o_proj(attended.transpose(1, 2).flatten(2))
            hidden = hidden + layer.attention_norm(attended)
            x = layer.mlp_input_norm(hidden)
            x = layer.down_proj(F.gelu(layer.gate_proj(x), approximate="tanh") * layer.up_proj(x))
            hidden = hidden + layer.mlp_norm(x)
        return self._norm(hidden)

    @staticmethod
    def _tables(rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        cos, sin = rotary
        return cos[0], signed_sin(sin[0])


class _Norm:
    """Gemma's RMSNorm: in float32, times 1 + weight."""

    def __init__(self, norm: Any):
        self._weight = 1.0 + norm.weight.float()
        self._eps: float = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self._weight.shape, self._weight, self._eps).type_as(x)


class _GemmaLayerParts:
    """The callables and weights of one layer, looked up once."""

    def __init__(self, layer: Any, kind: str):
        attention, mlp = layer.self_attn, layer.mlp
        self.kind, self.head_dim, self.scale = kind, attention.head_dim, attention.scaling
        self.input_norm, self.attention_norm = (
            _Norm(layer.input_layernorm),
            _Norm(layer.post_attention_layernorm),
        )
        self.mlp_input_norm, self.mlp_norm = (
            _Norm(layer.pre_feedforward_layernorm),
            _Norm(layer.post_feedforward_layernorm),
        )
        self.q_norm, self.k_norm = _Norm(attention.q_norm), _Norm(attention.k_norm)
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.o_proj = attention.o_proj
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(1, n, H)` to queries, keys and values `(1, heads, n, head_dim)`, queries and keys normed."""
        split = (*x.shape[:2], -1, self.head_dim)
        return (
            self.q_norm(self.q_proj(x).view(split).transpose(1, 2)),
            self.k_norm(self.k_proj(x).view(split).transpose(1, 2)),
            self.v_proj(x).view(split).transpose(1, 2),
        )
