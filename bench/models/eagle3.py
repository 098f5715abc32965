"""The EAGLE-3 draft (arXiv 2503.01840): one decoder layer over the target's own features.

Layout and arithmetic are those of the SafeAILab checkpoints that vLLM and SGLang load: three hidden
states of the target are fused by `fc`; the layer reads [norm(embedding of the next token) ;
norm(hidden)] and adds to the un-normed hidden; its pre-norm output is the next step's hidden, and
`norm` then the LM head give logits over the draft vocabulary.

Embedding and LM head may be left out of a checkpoint; they then come from the target. A checkpoint whose
head is already trimmed brings its own `d2t`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.cost.config_json import read_config
from bench.cost.shape import DraftShape
from bench.errors import AssetError, CheckpointError
from bench.models.draft import Draft, Placement
from bench.models.layers import InPlaceLayer, apply_rotary, grouped_attention, pack_linears, rotary_tables
from bench.models.target import Target
from bench.vocab.draft_vocab import DraftVocab

_ARCHITECTURE = "LlamaForCausalLMEagle3"

# Fewer layers than the deepest three that features are taken after.
_LEAST_TARGET_LAYERS = 7


def default_feature_layers(num_layers: int) -> tuple[int, int, int]:
    """Target layers after which the hidden state feeds the draft; the default of vLLM and SGLang."""
    return (2, num_layers // 2, num_layers - 3)


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

    def values(self) -> dict[str, Any]:
        """As a checkpoint's `config.json` says it."""
        return {
            "architectures": [_ARCHITECTURE],
            "model_type": "llama",
            "num_hidden_layers": 1,
            "tie_word_embeddings": False,
            **asdict(self),
        }

    @property
    def shape(self) -> DraftShape:
        """What its cost depends on."""
        return DraftShape.from_config(self.values(), "EAGLE-3 draft")


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


class Eagle3Draft(Draft):
    """An EAGLE-3 draft, which takes in the target's features three wide `(1, n, 3H)`.

    Its hidden states are the layer's outputs before the last norm.

    Args:
        shape: as of `Draft`.
        vocab: as of `Draft`.
        head_weight: as of `Draft`.
        body: everything but embedding and LM head.
        embedding: of the target's tokens `(V, H)`.
        feature_layers: the target's.
    """

    def __init__(
        self,
        shape: DraftShape,
        vocab: DraftVocab,
        head_weight: Tensor,
        body: Eagle3Body,
        embedding: Tensor,
        feature_layers: tuple[int, ...],
    ):
        super().__init__(shape, vocab, head_weight, embedding)
        self.body, self.embedding, self.feature_layers = body, embedding, feature_layers
        self.num_packed = pack_linears(body)
        config = body.config
        self._cos, self._sin = rotary_tables(
            config.head_dim, config.rope_theta, config.max_position_embeddings, embedding
        )
        self._cache = InPlaceLayer()

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

    def prefill(self, prompt_ids: Tensor, next_id: Tensor, features: Tensor) -> Tensor:
        """Reads a prompt: every position holds its features and the token after it."""
        self.reset()
        return self.extend(torch.cat([prompt_ids[1:], next_id]), features)

    def extend(self, next_ids: Tensor, features: Tensor) -> Tensor:
        """Takes in positions whose true features are known, with the token that follows each."""
        return self._run(next_ids, self.body.fc(features))[:, -1:]

    def step(self, next_id: Tensor, hidden: Tensor) -> Tensor:
        """A drafted token on the draft's own output, in place of features."""
        return self._run(next_id, hidden)

    def normed(self, hidden: Tensor) -> Tensor:
        """The LM head's input."""
        return self.body.norm(hidden)

    def unroll(self, token_ids: Tensor, features: Tensor) -> "Unroll":
        """Chains over one text."""
        embeds = F.embedding(token_ids[1:], self.embedding)[None]
        return Unroll(self.body, (self._cos, self._sin), embeds, features)

    def _run(self, next_ids: Tensor, hidden: Tensor) -> Tensor:
        start = self._cache.length
        end = start + next_ids.shape[0]
        q, k, v = self.body.queries_keys_values(F.embedding(next_ids, self.embedding)[None], hidden)
        cos, sin = self._cos[start:end], self._sin[start:end]
        keys, values = self._cache.update(apply_rotary(k, cos, sin), v)
        return self.body.finish(grouped_attention(apply_rotary(q, cos, sin), keys, values), hidden)


class Unroll:
    """A body unrolled over its own outputs from many places of known texts at once; differentiable.

    At depth 0 every place reads true features. At depth j it reads the draft's own output of depth j - 1
    with the next token of the text, and attends to the true places up to where its chain began plus the
    chain itself - what a real draft sees after j tokens that were all right.

    Args:
        body: the draft.
        tables: rotary cos and sin `(positions, head_dim)`.
        embeds: embedding of the token that follows each place `(batch, places, H)`.
        features: the target's features at each place `(batch, places, 3H)`.
        is_real: places that are text and not padding `(batch, places)`; all of them unless given.
    """

    def __init__(
        self,
        body: Eagle3Body,
        tables: tuple[Tensor, Tensor],
        embeds: Tensor,
        features: Tensor,
        is_real: Tensor | None = None,
    ):
        self._body, self._tables, self._embeds, self._is_real = body, tables, embeds, is_real
        self._hidden = body.fc(features)
        keys, self._values = body.keys_values(embeds, self._hidden)
        self._keys = self._rotate(keys, 0)

    def chains(self, start: int, stop: int, depths: int) -> Iterator[Tensor]:
        """Layer outputs by depth of the chains that begin at places start..stop - 1.

        Yields:
            `(batch, chains, H)` for each depth; chains whose text has ended are left out at the end.
        """
        body, num_places = self._body, self._embeds.shape[1]
        hidden = self._hidden[:, start:stop]
        mask = self._mask(start, stop)
        chain: list[tuple[Tensor, Tensor]] = []
        for depth in range(depths):
            first, last = start + depth, min(stop + depth, num_places)
            hidden = hidden[:, : last - first]
            q, k, v = body.queries_keys_values(self._embeds[:, first:last], hidden)
            if depth:
                chain.append((self._rotate(k, first), v))
            hidden = body.finish(self._attend(self._rotate(q, first), mask, chain), hidden)
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

    def _attend(self, q: Tensor, mask: Tensor, chain: list[tuple[Tensor, Tensor]]) -> Tensor:
        n, seen = q.shape[2], mask.shape[-1]
        keys, values = self._keys[:, :, None, :seen], self._values[:, :, None, :seen]
        q = q.unflatten(1, (keys.shape[1], -1)) * q.shape[-1] ** -0.5
        scores = (q @ keys.transpose(-1, -2)).masked_fill(~mask[:, :, :, :n], float("-inf"))
        own = [(q * k[:, :, None, :n]).sum(-1, keepdim=True) for k, _ in chain]
        weights = torch.softmax(torch.cat([scores, *own], dim=-1), dim=-1)
        attended = weights[..., :seen] @ values
        for index, (_, v) in enumerate(chain):
            attended = attended + weights[..., seen + index, None] * v[:, :, None, :n]
        return attended.flatten(1, 2)


def read_eagle3_config(folder: Path) -> Eagle3Config:
    """Shape of the checkpoint in `folder`.

    Raises:
        CheckpointError: there is no EAGLE-3 configuration.
    """
    path = folder / "config.json"
    _, values = read_config(path)
    values.setdefault("draft_vocab_size", values.get("vocab_size"))
    if "hidden_size" in values and "num_attention_heads" in values:
        values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    rope = values.get("rope_parameters") or {}
    values.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    values.setdefault("max_position_embeddings", 2048)
    values.setdefault("rms_norm_eps", 1e-6)
    names = [f.name for f in fields(Eagle3Config) if f.name != "norm_before_residual"]
    missing = [name for name in names if values.get(name) is None]
    if missing:
        raise CheckpointError(f"{path}: an EAGLE-3 draft needs {', '.join(missing)}")
    chosen = {name: values[name] for name in names}
    return Eagle3Config(**chosen, norm_before_residual=bool(values.get("norm_before_residual", False)))


def load_eagle3(folder: Path, shape: DraftShape, placement: Placement) -> Eagle3Draft:
    """Loads a draft for the target of `placement`.

    Raises:
        CheckpointError: there is no target, or the files are not an EAGLE-3 draft of it.
    """
    target = placement.target
    if target is None:
        raise CheckpointError(f"{folder} is an EAGLE-3 draft, which runs on the features of its target")
    config, tensors = read_eagle3_config(folder), _read_tensors(folder)
    num_layers = target.config.num_hidden_layers
    if num_layers < _LEAST_TARGET_LAYERS:
        raise CheckpointError(
            f"{folder}: EAGLE-3 features need a target of at least seven layers; this one has {num_layers}"
        )
    if config.vocab_size != target.vocab_size or config.hidden_size != target.config.hidden_size:
        raise CheckpointError(
            f"{folder} drafts for a target with {config.vocab_size} tokens and hidden size "
            f"{config.hidden_size}; this target has {target.vocab_size} and {target.config.hidden_size}"
        )
    embedding = tensors.pop("embed_tokens.weight", target.embedding_weight)
    head, vocab = _head_and_vocab(tensors, target, folder)
    with torch.device("meta"):
        body = Eagle3Body(config)
    try:
        body.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split("\n")[1:3]).strip()
        raise CheckpointError(f"{folder} does not have the EAGLE-3 layout: {problem}") from error
    like = target.embedding_weight
    body = body.to(like).eval().requires_grad_(False)
    layers = default_feature_layers(num_layers)
    return Eagle3Draft(shape, vocab, head.to(like), body, embedding.to(like), layers)


def save_body(body: Eagle3Body, folder: Path, metadata: dict[str, str]) -> None:
    """Writes a full-vocabulary draft without embedding and head, which are the target's."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in body.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    (folder / "config.json").write_text(json.dumps(body.config.values(), indent=2) + "\n", "utf-8")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.exists():
            return load_file(safe)
        if pickled.exists():
            return torch.load(pickled, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read ({error})") from error
    raise AssetError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _head_and_vocab(tensors: dict[str, Tensor], target: Target, folder: Path) -> tuple[Tensor, DraftVocab]:
    head, d2t = tensors.pop("lm_head.weight", None), tensors.pop("d2t", None)
    tensors.pop("t2d", None)
    if head is None:
        head = target.head_weight
    if d2t is not None:
        vocab = DraftVocab.from_d2t(d2t.numpy(), target.vocab_size)
    else:
        vocab = DraftVocab(np.arange(target.vocab_size, dtype=np.int64), target.vocab_size)
    if len(head) != len(vocab):
        raise CheckpointError(
            f"{folder}: the LM head has {len(head)} rows, its vocabulary {len(vocab)} tokens"
        )
    return head, vocab
