"""MTP modules as drafts: those that a target brings along in its own files, or in a folder of their own.

Chained steps are those of vLLM 0.32: the module runs again on its own output, at the next position, with the
token that it drafted. Where a target has several modules, its standard speculator runs the first at every
depth, and so does this one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from bench.cost.config_json import read_config
from bench.errors import CheckpointError, one_line
from bench.models.causal_lm import layers_of
from bench.models.draft import Placement
from bench.models.draft_config import LAST
from bench.models.eagle import EagleDraft, check_layout
from bench.models.eagle_body import Unroll
from bench.models.eagle_files import (
    CONFIG,
    check_embedding,
    check_head,
    check_types,
    num_layers_in,
    read_vocab,
)
from bench.models.layers import Window
from bench.models.mtp_body import MtpBody, laid_out
from bench.models.mtp_config import MtpConfig, check_model_type, module_names, module_prefixes, mtp_config
from bench.models.target import Target
from bench.models.weights import EMBEDDING, HEAD, WEIGHTS, StoredTensor, open_file, tensor_names
from bench.vocab.draft_vocab import DraftVocab

# In a configuration, the draft that is in the target's own files.
OF_TARGET = "mtp"

# The router's correction decides between experts that are nearly equal; it stays as it is in the file.
_KEPT_EXACT = "e_score_correction_bias"


class MtpDraft(EagleDraft):
    """An MTP module, which takes in the target's last normed hidden states `(1, n, H)`."""

    def __init__(self, vocab: DraftVocab, head_weight: Tensor, body: MtpBody, embedding: Tensor):
        super().__init__(vocab, head_weight, body, embedding, (LAST,))
        config = body.config
        assert isinstance(config, MtpConfig)
        self._masks_first = config.masks_first
        if config.has_experts:
            self.obstacle = "which experts run depends on the token"
        self._shown = _all_but_first(1024, embedding)

    def unroll(self, token_ids: Tensor, features: Tensor) -> Unroll:
        """Chains over one text."""
        embeds = nn.functional.embedding(token_ids[1:], self.embedding)[None]
        if self._masks_first:
            embeds[:, 0] = 0
        return Unroll(self.body, self._rotary.upto(len(token_ids)), embeds, features)

    def _embedded(self, next_ids: Tensor, window: Window) -> Tensor:
        embeds = super()._embedded(next_ids, window)
        if not self._masks_first:
            return embeds
        if window.reach > len(self._shown):
            self._shown = _all_but_first(2 * window.reach, self.embedding)
        return embeds * window.rows(self._shown)


def _all_but_first(length: int, like: Tensor) -> Tensor:
    shown = like.new_ones(length, 1)
    shown[0] = 0
    return shown


@dataclass(frozen=True)
class MtpFiles:
    """An MTP module before its weights are loaded.

    Attributes:
        folder: of it.
        config: what it computes.
        prefix: of its tensors' names in the files.
        tensors: its tensors without head and embedding, by their names in `mtp.*`.
        head: LM head `(k, H)`; None where it is the target's.
        embedding: input embedding `(V, H)`; None where it is the target's.
        vocab: tokens that the head has.
        notes: sentences for reports.
    """

    folder: Path
    config: MtpConfig
    prefix: str
    tensors: Mapping[str, StoredTensor]
    head: StoredTensor | None
    embedding: StoredTensor | None
    vocab: DraftVocab
    notes: tuple[str, ...] = ()


def open_mtp(folder: Path, may_be_quantised: bool = False) -> MtpFiles:
    """Opens the MTP module of a checkpoint: only the shards that hold it, and no weight is read.

    Args:
        folder: of the target, or of a module alone with the configuration of its target.
        may_be_quantised: whether it is opened to be trimmed, and not to be run.

    Raises:
        AssetError: there are no weights.
        CheckpointError: there is no module, or it is not one that can be run.
    """
    values = read_config(folder / CONFIG)[1]
    check_model_type(values, str(folder / CONFIG))
    places = tensor_names(folder)
    prefixes = module_prefixes(places)
    if not prefixes:
        raise CheckpointError(
            f"{folder} holds no MTP module: no tensor is named mtp.fc.weight or model.layers.N.eh_proj.weight"
            "; take a checkpoint that was published with it, or another draft"
        )
    names = module_names(places, prefixes[0])
    names.update({name: name for name in ("d2t", "t2d") if name in places})
    files = {path: open_file(path) for path in sorted({places[name] for name in names})}
    tensors = {own: _of(files[places[name]], name, places[name]) for name, own in names.items()}
    num_layers = num_layers_in(tensors)
    # Computed ones, and those of further modules.
    unread = ("rotary_emb.inv_freq", *(f"layers.{index}." for index in range(1, num_layers)))
    tensors = {
        own: tensor
        for own, tensor in tensors.items()
        if not own.startswith(unread[1:]) and not own.endswith(unread[0])
    }
    maps: dict[str, StoredTensor] = {name: tensors.pop(name) for name in ("d2t", "t2d") if name in tensors}
    head, embedding = tensors.pop(HEAD, None), tensors.pop(EMBEDDING, None)
    where = f"{folder / CONFIG}"
    config = mtp_config(text_config(folder), {name: t.shape for name, t in tensors.items()}, where)
    vocab = read_vocab(maps, config.vocab_size, folder)
    if not may_be_quantised:
        check_head(head, vocab, config, folder)
        check_embedding(embedding, config, folder)
        parts = {HEAD: head, EMBEDDING: embedding}
        check_types({**tensors, **{name: t for name, t in parts.items() if t is not None}}, folder)
    number, notes = max(len(prefixes), num_layers), []
    if number > 1:
        notes.append(
            f"the target has {number} MTP modules; the first runs at every depth, as in vLLM's standard "
            "speculator"
        )
    return MtpFiles(folder, config, prefixes[0], tensors, head, embedding, vocab, tuple(notes))


def has_own_head(folder: Path) -> bool:
    """Whether the module in `folder` brings an LM head along, quantised or not."""
    files, prefix = open_mtp(folder, may_be_quantised=True), HEAD.removesuffix("weight")
    return files.head is not None or any(name.startswith(prefix) for name in files.tensors)


def load_mtp(folder: Path, placement: Placement) -> MtpDraft:
    """Loads an MTP module for the target of `placement`.

    Raises:
        AssetError: there are no weights.
        CheckpointError: there is no target, or the files hold no module of it that can be run.
    """
    target = placement.target
    if target is None:
        raise CheckpointError(f"{folder} is an MTP module, which runs on the hidden states of its target")
    files = open_mtp(folder)
    config, like = files.config, target.embedding_weight
    _check_target(files, target)
    state = laid_out({name: stored.tensor() for name, stored in files.tensors.items()}, config)
    with torch.device("meta"):
        body = MtpBody(config, state.keys(), _experts_of(target) if config.has_experts else None)
    check_layout(body, state, f"{folder}: {files.prefix}* is no MTP module of a {config.model_type}: {{}}")
    body.load_state_dict(state, strict=True, assign=True)
    body = body.to(like).eval().requires_grad_(False)
    for name, buffer in body.named_buffers():
        if name.endswith(_KEPT_EXACT):
            buffer.data = state[name].to(like.device, torch.float32)
    head = files.head.tensor() if files.head else _rows_of(target.head_weight, files.vocab)
    embedding = like if files.embedding is None else files.embedding.tensor()
    draft = MtpDraft(files.vocab, head.to(like), body, embedding.to(like))
    draft.notes = files.notes
    return draft


def save_mtp(body: MtpBody, folder: Path, metadata: dict[str, str]) -> None:
    """Writes a module in the layout `mtp.*`, without embedding and head, which are the target's."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"mtp.{name}": t.to(torch.bfloat16).contiguous() for name, t in body.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    config = body.config
    assert isinstance(config, MtpConfig)
    values = {
        "architectures": ["LlamaMTP"],
        "model_type": config.model_type,
        "mtp_num_hidden_layers": config.num_layers,
        "num_hidden_layers": config.num_layers,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "max_position_embeddings": config.max_position_embeddings,
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def text_config(folder: Path) -> Any:
    """The target's configuration with the defaults of its model type.

    Raises:
        CheckpointError: `transformers` cannot read it.
    """
    try:
        return AutoConfig.from_pretrained(folder).get_text_config()
    except Exception as error:  # damaged or foreign files can raise anything
        problem = f"is of no model that transformers knows: {one_line(error)}"
        raise CheckpointError(f"{folder / CONFIG} {problem}") from error


def _of(tensors: Mapping[str, StoredTensor], name: str, path: Path) -> StoredTensor:
    if name not in tensors:
        raise CheckpointError(f"{path}: the index says that it holds {name}, and it does not; fetch it again")
    return tensors[name]


def _check_target(files: MtpFiles, target: Target) -> None:
    found = (files.config.hidden_size, files.config.vocab_size)
    wanted = (target.config.hidden_size, target.vocab_size)
    if found != wanted:
        raise CheckpointError(
            f"{files.folder}: the MTP module is of a target of hidden size {found[0]} with {found[1]:,} "
            f"tokens; this target has {wanted[0]} and {wanted[1]:,}"
        )


def _experts_of(target: Target) -> Callable[[], nn.Module]:
    """Makes a mixture of experts of the class and sizes that the target's own layers have."""
    for layer in reversed(list(layers_of(target.decoder))):
        mlp: Any = getattr(layer, "mlp", None)
        if hasattr(mlp, "experts"):
            return lambda: type(mlp)(target.config)
    raise CheckpointError("the MTP module has a mixture of experts, and no layer of its target has one")


def _rows_of(head: Tensor, vocab: DraftVocab) -> Tensor:
    return head if vocab.is_full else head[torch.from_numpy(vocab.target_ids).to(head.device)]
