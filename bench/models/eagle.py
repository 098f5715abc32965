"""EAGLE drafts at batch 1: EAGLE-3, and EAGLE-1, EAGLE-2 and HASS, which share one arithmetic.

Embedding and LM head may be left out of a checkpoint; they then come from the target. A checkpoint whose
head is already trimmed brings its own `d2t`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from bench.cost.config_json import DraftKind
from bench.errors import CheckpointError
from bench.models.draft import CapturableDraft, Placement
from bench.models.draft_config import EagleConfig, Layout, feature_layers, layer_note, tensor_name
from bench.models.eagle_body import Body, EagleBody, Unroll
from bench.models.eagle_files import CONFIG, EagleFiles, open_eagle
from bench.models.fused import (
    FusedEntry,
    FusedNorm,
    FusedOps,
    FusedStack,
    LayerParts,
    fused_obstacle,
    takes,
)
from bench.models.kernels import RmsNorm, join_linears, pack_linears, swap_norms
from bench.models.layers import KVCache, RotaryTable, StaticCache, TokenCache, Window, apply_rotary
from bench.models.target import Target
from bench.models.weights import WEIGHTS, StoredTensor, stored
from bench.text.tokenizer import shared_ids
from bench.vocab.draft_vocab import DraftVocab, IntArray


class EagleDraft(CapturableDraft):
    """An EAGLE draft, which takes in hidden states of the target `(1, n, width)`.

    Its hidden states are what its next step reads.

    Args:
        vocab: as of `Draft`.
        head_weight: as of `Draft`.
        body: everything but embedding and LM head.
        embedding: of the target's tokens `(V, H)`.
        feature_layers: the target's.
    """

    def __init__(
        self,
        vocab: DraftVocab,
        head_weight: Tensor,
        body: Body,
        embedding: Tensor,
        feature_layers: Sequence[int],
    ):
        super().__init__(body.config.shape, vocab, head_weight, embedding)
        self.body, self.embedding, self.feature_layers = body, embedding, tuple(feature_layers)
        join_linears(body)
        swap_norms(body)
        self.num_packed = pack_linears(body)
        config = body.config
        width, length = config.head_dim, config.max_position_embeddings
        self._rotary = RotaryTable(config.rope, width, length, embedding, config.rotary_dim or width)
        self._cache = KVCache(len(body.layers))
        self._fused: FusedStack | None = None
        self._entry: FusedEntry | None = None

    @property
    def fused_obstacle(self) -> str | None:
        """As of `Draft`."""
        if not isinstance(self.body, EagleBody):
            return super().fused_obstacle
        return fused_obstacle(self.embedding, self.body.layers)

    def fuse(self, wanted: bool) -> None:
        """As of `Draft`."""
        super().fuse(wanted)
        for module in self.body.modules():
            if isinstance(module, RmsNorm):
                module.fused = FusedNorm(self._ops, module) if self._ops else None
        self._fused = self._fused_stack(self._ops) if self._ops else None
        self._entry = self._fused_entry(self._ops) if self._ops else None

    @property
    def length(self) -> int:
        """Positions held in the cache."""
        return self._cache.length

    def reset(self) -> None:
        """Forgets the conversation."""
        self._cache = KVCache(len(self.body.layers))

    def rewind(self, length: int) -> None:
        """Forgets the positions after the first `length`."""
        self._cache.rewind(length)

    def prefill(self, prompt_ids: Tensor, next_id: Tensor, features: Tensor) -> Tensor:
        """Reads a prompt: every position holds its features and the token after it."""
        self.reset()
        return self.extend(torch.cat([prompt_ids[1:], next_id]), features)

    def extend(self, next_ids: Tensor, features: Tensor) -> Tensor:
        """Takes in positions whose true features are known, with the token that follows each."""
        return self.read(next_ids, features, self._cache)[:, -1:]

    def step(self, next_id: Tensor, hidden: Tensor) -> Tensor:
        """A drafted token on the draft's own output, in place of features."""
        return self.continue_from(next_id, hidden, self._cache)

    def static_cache(self, room: int) -> StaticCache:
        """As of `CapturableDraft`."""
        config = self.body.config
        heads, width = config.num_key_value_heads, config.head_dim
        return StaticCache(len(self.body.layers), heads, width, room, self.embedding)

    def read(self, next_ids: Tensor, features: Tensor, cache: TokenCache) -> Tensor:
        """As of `CapturableDraft`."""
        return self._run(next_ids, self.body.fuse(features), cache)

    def continue_from(self, next_id: Tensor, hidden: Tensor, cache: TokenCache) -> Tensor:
        """As of `CapturableDraft`."""
        return self._run(next_id, hidden, cache)

    def normed(self, hidden: Tensor) -> Tensor:
        """The LM head's input."""
        return self.body.head_input(hidden)

    def unroll(self, token_ids: Tensor, features: Tensor) -> Unroll:
        """Chains over one text."""
        embeds = F.embedding(token_ids[1:], self.embedding)[None]
        return Unroll(self.body, self._rotary.upto(len(token_ids)), embeds, features)

    def _embedded(self, next_ids: Tensor, window: Window) -> Tensor:
        """Input embeddings `(1, n, H)` of the new tokens."""
        return F.embedding(next_ids, self.embedding)[None]

    def _run(self, next_ids: Tensor, hidden: Tensor, cache: TokenCache) -> Tensor:
        if self._fused and isinstance(cache, KVCache) and takes(len(next_ids), cache):
            return self._run_fused(next_ids, hidden, cache)
        window = cache.window(next_ids.shape[0])
        cos, sin = (window.rows(table) for table in self._rotary.upto(window.reach))
        x, residual = self.body.enter(self._embedded(next_ids, window), hidden)
        for index, layer in enumerate(self.body.decoder_layers):
            if index:
                x, residual = layer.enter(hidden)
            q, k, v = layer.queries_keys_values(x)
            rotated = apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
            hidden = layer.finish(window.attend(index, *rotated, v), residual)
        return self.body.output(hidden)

    def _run_fused(self, next_ids: Tensor, hidden: Tensor, cache: KVCache) -> Tensor:
        window = cache.window(len(next_ids))
        if self._entry:
            x, residual = self._entry(next_ids, hidden), hidden
        else:
            x, residual = self.body.enter(self._embedded(next_ids, window), hidden)
        assert self._fused is not None
        hidden, _, _ = self._fused.run(x, residual, cache, self._rotary.upto(window.reach))
        return self.body.output(hidden)

    def _fused_entry(self, ops: FusedOps) -> FusedEntry | None:
        """Where the first layer reads two norms and adds to the hidden state as it is."""
        if self.kind is not DraftKind.EAGLE3 or self.body.config.norm_before_residual:
            return None
        first = cast(Any, self.body.layers[0])
        return FusedEntry(ops, self.embedding, first.input_layernorm, first.hidden_norm)

    def _fused_stack(self, ops: FusedOps) -> FusedStack:
        config, layers = self.body.config, cast(list[Any], list(self.body.layers))
        parts = []
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            attention = layer.self_attn
            of_qk = (attention.q_norm, attention.k_norm) if config.qk_norm else ()
            norms = [FusedNorm(ops, norm) for norm in (layer.post_attention_layernorm, *of_qk)]
            following = following and FusedNorm(ops, following.input_layernorm)
            parts.append(LayerParts.of(layer, norms[0], following, *norms[1:]))
        heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        return FusedStack(ops, parts, heads)


def load_eagle(folder: Path, kind: DraftKind, placement: Placement) -> EagleDraft:
    """Loads an EAGLE draft for the target of `placement`.

    Raises:
        AssetError: there are no weights.
        CheckpointError: there is no target, or the files are not a draft of it that can be run.
    """
    target = placement.target
    if target is None:
        raise CheckpointError(f"{folder} is {kind.label}, which runs on the features of its target")
    files, shared, size_notes = _fitted(open_eagle(folder, kind, placement.ignored_keys), target)
    config, num_target_layers = files.config, target.config.num_hidden_layers
    _check_target(files, target)
    layers = feature_layers(config, num_target_layers, placement.layer_ids, str(folder / CONFIG))
    with torch.device("meta"):
        body = EagleBody(config, files.layers.keys())
    check_layout(body, files.layers, f"{folder}: {{}}, where {CONFIG} makes it {kind.label}")
    body.load_state_dict({name: t.tensor() for name, t in files.layers.items()}, strict=True, assign=True)
    like = target.embedding_weight
    body = body.to(like).eval().requires_grad_(False)
    head = _rows_of(target.head_weight, files.vocab) if files.head is None else files.head.tensor()
    embedding = like if files.embedding is None else _of_rows(files.embedding.tensor(), len(like))
    draft = EagleDraft(files.vocab, head.to(like), body, embedding.to(like), layers)
    note = layer_note(config, layers, num_target_layers)
    draft.notes = (*files.notes, *size_notes, *([note] if note else []))
    if len(shared) < target.vocab_size:
        draft.unknown_ids = np.setdiff1d(np.arange(target.vocab_size), shared)
    return draft


def _fitted(files: EagleFiles, target: Target) -> tuple[EagleFiles, IntArray, tuple[str, ...]]:
    """The draft with the ids that stand for the same token in its target, those ids, and what to say of it.

    Both can be padded, to different sizes; equal ids are equal tokens unless the draft's tokenizer says else.

    Raises:
        CheckpointError: there is no such id among those of the draft's head.
    """
    config, total = files.config, target.vocab_size
    ids = shared_ids(target, files.folder, config.vocab_size)
    if len(ids) == total == config.vocab_size:
        return files, ids, ()
    rows = np.flatnonzero(np.isin(files.vocab.target_ids, ids))
    kept = files.vocab.target_ids[rows]
    if not len(kept):
        raise CheckpointError(f"{files.folder}: its tokenizer has no token of the target's with the same id")
    config = replace(config, vocab_size=total, draft_vocab_size=len(kept))
    head = files.head and stored(files.head.take(rows).tensor())
    note = (
        f"the draft was made for {files.config.vocab_size:,} tokens and the target has {total:,}: it drafts "
        f"the {len(kept):,} ids that both have"
    )
    vocab = DraftVocab(kept, total)
    return replace(files, config=config, head=head, vocab=vocab), ids, (note,)


def _rows_of(head: Tensor, vocab: DraftVocab) -> Tensor:
    return head if vocab.is_full else head[torch.from_numpy(vocab.target_ids).to(head.device)]


def _of_rows(embedding: Tensor, number: int) -> Tensor:
    """As many rows; those that are missing are zero, and no text that is measured needs them."""
    missing = number - len(embedding)
    return embedding[:number] if missing <= 0 else F.pad(embedding, (0, 0, 0, missing))


def save_body(body: EagleBody, folder: Path, metadata: dict[str, str]) -> None:
    """Writes a full-vocabulary EAGLE-3 draft without embedding and head, which are the target's."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        tensor_name(name, Layout.SAFEAILAB): t.to(torch.bfloat16).contiguous()
        for name, t in body.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    (folder / CONFIG).write_text(json.dumps(_config_values(body.config), indent=2) + "\n", "utf-8")


def _config_values(config: EagleConfig) -> dict[str, Any]:
    """The `config.json` of a plain draft."""
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": config.num_layers,
        "tie_word_embeddings": False,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "draft_vocab_size": config.draft_vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "max_position_embeddings": config.max_position_embeddings,
        "norm_before_residual": config.norm_before_residual,
    }


def _check_target(files: EagleFiles, target: Target) -> None:
    config, size = files.config, target.config.hidden_size
    reads = config.hidden_size
    if config.kind is DraftKind.EAGLE3 and config.num_features:
        reads = config.target_hidden_size or config.hidden_size
    if reads != size:
        raise CheckpointError(
            f"{files.folder} drafts for a target of hidden size {reads}; this target has {size}"
        )
    parts = {"LM head": files.head, "input embedding": files.embedding}
    lacking = [name for name, part in parts.items() if part is None]
    if lacking and config.hidden_size != size:
        raise CheckpointError(
            f"{files.folder}: the draft's hidden size is {config.hidden_size}, the target's {size}, so "
            f"that it needs an {lacking[0]} of its own, and has none; fetch the draft again"
        )


def check_layout(body: Body, tensors: Mapping[str, StoredTensor | Tensor], message: str) -> None:
    """Holds the names and shapes of a draft's tensors against its parameters.

    Args:
        body: of the draft.
        tensors: by the names of its parameters.
        message: of the error, with a place for what is wrong.

    Raises:
        CheckpointError: they differ.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in body.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            problem = f"{name} is missing"
        elif name not in wanted:
            problem = f"{name} is of no use to it"
        elif wanted[name] != found[name]:
            problem = f"{name} is {found[name]} and not {wanted[name]}"
        else:
            continue
        raise CheckpointError(f"{message.replace('{}', problem)}; correct {CONFIG}, or fetch it again")
