"""The layers of an MTP module: norms of embedding and hidden state, `fc` over both, a decoder layer, a norm.

The arithmetic is vLLM 0.32's (`qwen3_next_mtp.py`, `qwen3_5_mtp.py`, `deepseek_mtp.py`, `glm4_moe_mtp.py`).
Weights are laid out on loading so that every kind of layer turns its queries and keys in the same way:
dimensions that do not turn lie behind those that do, in each half of a head.
"""

from collections.abc import Callable, Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import CheckpointError
from bench.models.eagle_body import Body
from bench.models.mtp_config import MtpConfig


class ZeroCentredNorm(nn.RMSNorm):
    """Multiplies by 1 + weight, in float32, as Qwen3-Next and Gemma do."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., H)`."""
        weight = self.weight.float() + 1.0
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).type_as(x)


def _norm(config: MtpConfig, size: int) -> nn.RMSNorm:
    kind = ZeroCentredNorm if config.has_zero_centred_norms else nn.RMSNorm
    return kind(size, config.rms_norm_eps)


class _Attention(nn.Module):
    """Plain keys and values, with or without norms of both, and with or without a gate on the output."""

    def __init__(self, config: MtpConfig, biases: Collection[str]):
        super().__init__()
        size, self._config = config.hidden_size, config
        queries, keys = (
            n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = _linear("q_proj", size, queries, biases)
        self.k_proj = _linear("k_proj", size, keys, biases)
        self.v_proj = _linear("v_proj", size, keys, biases)
        self.o_proj = _linear("o_proj", queries, size, biases)
        if config.has_output_gate:
            self.gate_proj = _linear("gate_proj", size, queries, biases)
        if config.qk_norm:
            self.q_norm, self.k_norm = _norm(config, config.head_dim), _norm(config, config.head_dim)

    def queries(self, x: Tensor) -> Tensor:
        q = self._split(self.q_proj(x), self._config.num_attention_heads)
        return self.q_norm(q) if self._config.qk_norm else q

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        heads = self._config.num_key_value_heads
        k, v = self._split(self.k_proj(x), heads), self._split(self.v_proj(x), heads)
        return self.k_norm(k) if self._config.qk_norm else k, v

    def output(self, attended: Tensor, x: Tensor) -> Tensor:
        attended = attended.transpose(1, 2).flatten(2)
        if self._config.has_output_gate:
            attended = attended * torch.sigmoid(self.gate_proj(x))
        return self.o_proj(attended)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self._config.head_dim)).transpose(1, 2)


class _LatentAttention(nn.Module):
    """Latent attention (DeepSeek-V2, arXiv 2405.04434); keys and values are made of the latents."""

    def __init__(self, config: MtpConfig, biases: Collection[str]):
        super().__init__()
        latent, size, heads = config.latent, config.hidden_size, config.num_attention_heads
        assert latent is not None
        self._config, self._latent = config, latent
        queries = heads * config.head_dim
        if latent.query_rank:
            self.q_a_proj = _linear("q_a_proj", size, latent.query_rank, biases)
            self.q_a_layernorm = nn.RMSNorm(latent.query_rank, config.rms_norm_eps)
            self.q_b_proj = _linear("q_b_proj", latent.query_rank, queries, biases)
        else:
            self.q_proj = _linear("q_proj", size, queries, biases)
        compressed = latent.kv_rank + latent.rotary_dim
        self.kv_a_proj_with_mqa = _linear("kv_a_proj_with_mqa", size, compressed, biases)
        self.kv_a_layernorm = nn.RMSNorm(latent.kv_rank, config.rms_norm_eps)
        wide = heads * (latent.still_dim + latent.value_dim)
        self.kv_b_proj = _linear("kv_b_proj", latent.kv_rank, wide, biases)
        self.o_proj = _linear("o_proj", heads * latent.value_dim, size, biases)

    def queries(self, x: Tensor) -> Tensor:
        is_compressed = bool(self._latent.query_rank)
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if is_compressed else self.q_proj(x)
        q = q.unflatten(-1, (self._config.num_attention_heads, -1)).transpose(1, 2)
        return q if self._config.score_factor == 1 else q * self._config.score_factor

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latent, heads = self._latent, self._config.num_attention_heads
        compressed, turning = self.kv_a_proj_with_mqa(x).split([latent.kv_rank, latent.rotary_dim], dim=-1)
        wide = self.kv_b_proj(self.kv_a_layernorm(compressed)).unflatten(-1, (heads, -1)).transpose(1, 2)
        still, values = wide.split([latent.still_dim, latent.value_dim], dim=-1)
        turning = turning[:, None].expand(-1, heads, -1, -1)
        halves = zip(turning.chunk(2, dim=-1), still.chunk(2, dim=-1), strict=True)
        keys = torch.cat([part for half in halves for part in half], dim=-1)
        # Caches hold keys and values of one width.
        return keys, F.pad(values, (0, self._config.head_dim - latent.value_dim))

    def output(self, attended: Tensor, _x: Tensor) -> Tensor:
        return self.o_proj(attended[..., : self._latent.value_dim].transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: MtpConfig):
        super().__init__()
        size, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(size, wide, bias=False)
        self.up_proj = nn.Linear(size, wide, bias=False)
        self.down_proj = nn.Linear(wide, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MtpLayer(nn.Module):
    """One decoder layer of the target's kind; see `DraftLayer`."""

    def __init__(self, config: MtpConfig, biases: Collection[str], experts: Callable[[], nn.Module] | None):
        super().__init__()
        self.input_layernorm = _norm(config, config.hidden_size)
        self.self_attn = (_LatentAttention if config.latent else _Attention)(config, biases)
        self.post_attention_layernorm = _norm(config, config.hidden_size)
        self.mlp = experts() if experts else _MLP(config)

    def enter(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As of `DraftLayer`."""
        return self.input_layernorm(hidden), hidden

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of `DraftLayer`."""
        return (self.self_attn.queries(x), *self.keys_values(x))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As of `DraftLayer`."""
        return self.self_attn.keys_values(x)

    def finish(self, attended: Tensor, residual: Tensor) -> Tensor:
        """As of `DraftLayer`."""
        # A gate reads attention's input, which is the norm of the residual.
        hidden = residual + self.self_attn.output(attended, self.input_layernorm(residual))
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class MtpBody(Body):
    """An MTP module without embedding and LM head.

    Args:
        config: what it computes.
        biases: names of the parameters that are biases of linear layers.
        experts: makes the mixture of experts, where the layer has one.
    """

    def __init__(
        self,
        config: MtpConfig,
        biases: Collection[str] = (),
        experts: Callable[[], nn.Module] | None = None,
    ):
        super().__init__()
        self.config, size = config, config.hidden_size
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden = _norm(config, size), _norm(config, size)
        self.fc = nn.Linear(2 * size, size, bias="fc.bias" in biases)
        self.layers = nn.ModuleList([MtpLayer(config, biases, experts)])
        self.norm = _norm(config, size)

    def fuse(self, features: Tensor) -> Tensor:
        """As of `Body`: the target's last normed hidden states go in as they are."""
        return features

    def enter(self, embeds: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Body`."""
        both = torch.cat([self.pre_fc_norm_embedding(embeds), self.pre_fc_norm_hidden(hidden)], dim=-1)
        return self.decoder_layers[0].enter(self.fc(both))

    def output(self, hidden: Tensor) -> Tensor:
        """As of `Body`."""
        return self.norm(hidden) if self.config.norm_output else hidden

    def head_input(self, hidden: Tensor) -> Tensor:
        """As of `Body`."""
        return hidden if self.config.norm_output else self.norm(hidden)


def _linear(name: str, inputs: int, outputs: int, biases: Collection[str]) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=f"layers.0.self_attn.{name}.bias" in biases)


# From a checkpoint's tensors to the parameters above.


def laid_out(tensors: Mapping[str, Tensor], config: MtpConfig) -> dict[str, Tensor]:
    """A module's tensors, by their names here, as the parameters of `MtpBody`.

    Raises:
        CheckpointError: experts are missing.
    """
    found = dict(tensors)
    heads, turn = config.num_attention_heads, turning_order(config)
    attention = "layers.0.self_attn."
    for part in ("weight", "bias"):
        queries = f"{attention}q_proj.{part}"
        if config.has_output_gate and queries in found:
            q, gate = found[queries].unflatten(0, (heads, 2, -1)).unbind(1)
            found[queries], found[f"{attention}gate_proj.{part}"] = q.flatten(0, 1), gate.flatten(0, 1)
        names = ("q_proj", "q_b_proj") if config.latent else ("q_proj", "k_proj")
        for name in (f"{attention}{name}.{part}" for name in names):
            if name in found:
                found[name] = found[name].unflatten(0, (-1, config.head_dim))[:, turn].flatten(0, 1)
        compressed = f"{attention}kv_a_proj_with_mqa.{part}"
        if config.latent and compressed in found:
            rest, turning = found[compressed].split([config.latent.kv_rank, config.latent.rotary_dim])
            pairs = _pairs(config.latent.rotary_dim, config.is_interleaved)
            found[compressed] = torch.cat([rest, turning[torch.cat(pairs)]])
    for name in (f"{attention}q_norm.weight", f"{attention}k_norm.weight"):
        if name in found:
            found[name] = found[name][turn]
    return _with_experts_joined(found) if config.has_experts else found


def turning_order(config: MtpConfig) -> Tensor:
    """Where each dimension of a head is in a checkpoint `(head_dim,)`."""
    start = config.latent.still_dim if config.latent else 0
    still_start = 0 if config.latent else config.rotary_dim
    still = still_start + torch.arange(config.head_dim - config.rotary_dim)
    first, second = _pairs(config.rotary_dim, config.is_interleaved)
    before, behind = still.chunk(2) if len(still) else (still, still)
    return torch.cat([start + first, before, start + second, behind])


def _pairs(rotary_dim: int, is_interleaved: bool) -> tuple[Tensor, Tensor]:
    """The dimensions that turn, in two rows whose columns turn together."""
    every = torch.arange(rotary_dim)
    if is_interleaved:
        return every[0::2], every[1::2]
    return every[: rotary_dim // 2], every[rotary_dim // 2 :]


def _with_experts_joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Experts one by one as one tensor each of `gate_up_proj` and `down_proj`, as `transformers` has them."""
    prefix = "layers.0.mlp.experts."
    single = {
        name: t for name, t in tensors.items() if name.startswith(prefix) and name[len(prefix)].isdigit()
    }
    found = {name: t for name, t in tensors.items() if name not in single}
    if not single:
        return found
    number = 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in single)
    try:
        gates, ups, downs = (
            torch.stack([single.pop(f"{prefix}{e}.{part}_proj.weight") for e in range(number)])
            for part in ("gate", "up", "down")
        )
    except KeyError as error:
        raise CheckpointError(f"the tensor {error.args[0]} of an expert is missing") from error
    found[f"{prefix}gate_up_proj"], found[f"{prefix}down_proj"] = torch.cat([gates, ups], dim=1), downs
    return {**found, **single}
