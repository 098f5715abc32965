"""The EAGLE-3 draft (arXiv 2503.01840): one decoder layer over the target's own features.

Layout and arithmetic are those of the SafeAILab checkpoints that vLLM and SGLang load: three hidden
states of the target are fused by `fc`; the layer reads [norm(embedding of the next token) ;
norm(hidden)] and adds to the un-normed hidden; its pre-norm output is the next step's hidden, and
`norm` then the LM head give logits over the draft vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.layers import InPlaceLayer, apply_rotary, grouped_attention, rotary_tables


@dataclass(frozen=True)
class Eagle3Config:
    """Shape of an EAGLE-3 draft; names follow its `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    norm_before_residual: bool = False


class _Attention(nn.Module):
    def __init__(self, config: Eagle3Config):
        super().__init__()
        wide, kv_size = 2 * config.hidden_size, config.num_key_value_heads * config.head_dim
        q_size = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(wide, q_size, bias=False)
        self.k_proj = nn.Linear(wide, kv_size, bias=False)
        self.v_proj = nn.Linear(wide, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)


class _MLP(nn.Module):
    def __init__(self, config: Eagle3Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)


class _Layer(nn.Module):
    def __init__(self, config: Eagle3Config):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = _Attention(config)
        self.mlp = _MLP(config)
        self.input_layernorm = nn.RMSNorm(size, eps)
        self.hidden_norm = nn.RMSNorm(size, eps)
        self.post_attention_layernorm = nn.RMSNorm(size, eps)


class Eagle3Body(nn.Module):
    """Everything of the draft but embedding and LM head; parameter names are the checkpoint's.

    The forward pass comes in parts, because inference and training differ in attention only.
    """

    def __init__(self, config: Eagle3Config):
        super().__init__()
        self.config = config
        self.fc = nn.Linear(3 * config.hidden_size, config.hidden_size, bias=False)
        self.midlayer = _Layer(config)
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def queries_keys_values(self, embeds: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections of `(batch, n, H)` inputs, un-rotated, each `(batch, heads, n, head_dim)`."""
        x = self._attention_input(embeds, hidden)
        attention, kv_heads = self.midlayer.self_attn, self.config.num_key_value_heads
        return (
            self._split(attention.q_proj(x), self.config.num_attention_heads),
            self._split(attention.k_proj(x), kv_heads),
            self._split(attention.v_proj(x), kv_heads),
        )

    def keys_values(self, embeds: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As `queries_keys_values`, for positions that only need to be attended to."""
        x = self._attention_input(embeds, hidden)
        attention, heads = self.midlayer.self_attn, self.config.num_key_value_heads
        return self._split(attention.k_proj(x), heads), self._split(attention.v_proj(x), heads)

    def finish(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """Attention output `(batch, heads, n, head_dim)` and layer input to layer output `(batch, n, H)`."""
        layer = self.midlayer
        residual = layer.hidden_norm(hidden) if self.config.norm_before_residual else hidden
        hidden = residual + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        x = layer.post_attention_layernorm(hidden)
        mlp = layer.mlp
        return hidden + mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))

    def _attention_input(self, embeds: Tensor, hidden: Tensor) -> Tensor:
        layer = self.midlayer
        return torch.cat([layer.input_layernorm(embeds), layer.hidden_norm(hidden)], dim=-1)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.config.head_dim)).transpose(1, 2)


class Eagle3Draft:
    """An EAGLE-3 draft at batch 1, with its key-value cache."""

    def __init__(self, body: Eagle3Body, embedding: Tensor):
        self.body, self.embedding = body, embedding
        config = body.config
        self._cos, self._sin = rotary_tables(
            config.head_dim, config.rope_theta, config.max_position_embeddings, embedding
        )
        self._cache = InPlaceLayer()

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """Cos and sin of every position `(positions, head_dim)`."""
        return self._cos, self._sin

    @property
    def length(self) -> int:
        """Positions held in the cache."""
        return self._cache.length

    def reset(self) -> None:
        """Forgets the conversation."""
        self._cache = InPlaceLayer()

    def rewind(self, length: int) -> None:
        """Forgets the positions after the first `length`."""
        self._cache.rewind(length)

    def extend(self, next_ids: Tensor, features: Tensor) -> Tensor:
        """Takes in positions whose true features are known (prefill, and after a verification).

        Args:
            next_ids: the token that follows each position `(n,)`.
            features: the target's features of each position `(1, n, 3H)`.

        Returns:
            Layer output of the last position `(1, 1, H)`, from which the first token is drafted.
        """
        return self._run(next_ids, self.body.fc(features))[:, -1:]

    def step(self, next_id: Tensor, hidden: Tensor) -> Tensor:
        """One chained step: a drafted token `(1,)` on the draft's own output `(1, 1, H)`."""
        return self._run(next_id, hidden)

    def normed(self, hidden: Tensor) -> Tensor:
        """The LM head's input."""
        return self.body.norm(hidden)

    def _run(self, next_ids: Tensor, hidden: Tensor) -> Tensor:
        start = self._cache.length
        end = start + next_ids.shape[0]
        q, k, v = self.body.queries_keys_values(F.embedding(next_ids, self.embedding)[None], hidden)
        cos, sin = self._cos[start:end], self._sin[start:end]
        keys, values = self._cache.update(apply_rotary(k, cos, sin), v)
        return self.body.finish(grouped_attention(apply_rotary(q, cos, sin), keys, values), hidden)
