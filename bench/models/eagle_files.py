"""The files of an EAGLE draft, opened and checked before any weight is read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.cost.config_json import DraftKind, kind_of, read_config
from bench.errors import CheckpointError, VocabError
from bench.models.draft_config import EagleConfig, Layout, eagle_config, read_draft_keys, tensor_name
from bench.models.weights import EMBEDDING, HEAD, StoredTensor, as_integers, open_weights, without_prefix
from bench.vocab.draft_vocab import DraftVocab

CONFIG = "config.json"

# What some trainers call the norms of single features.
_OLD_NAMES = {"aux_norm_low": "fc_norm.0", "aux_norm_mid": "fc_norm.1", "aux_norm_high": "fc_norm.2"}

# Tensors that neither engine reads: computed ones, kept by old trainers.
_UNREAD = ("rotary_emb.inv_freq",)

_FLOATS = ("F64", "F32", "F16", "BF16")

# A weight that each key promises.
_BIASES = {
    "attention_bias": "layers.0.self_attn.q_proj.bias",
    "qkv_bias": "layers.0.self_attn.q_proj.bias",
    "mlp_bias": "layers.0.mlp.up_proj.bias",
    "bias": "fc.bias",
}


@dataclass(frozen=True)
class EagleFiles:
    """An EAGLE draft before its weights are loaded.

    Attributes:
        folder: of it.
        config: what it computes, as its weights confirm.
        layers: tensors of the layers, with layers by number.
        head: LM head `(k, H)`; None where it is the target's.
        embedding: input embedding `(V, H)`; None where it is the target's.
        vocab: tokens that the head has.
        notes: what of the configuration was corrected.
    """

    folder: Path
    config: EagleConfig
    layers: Mapping[str, StoredTensor]
    head: StoredTensor | None
    embedding: StoredTensor | None
    vocab: DraftVocab
    notes: tuple[str, ...] = ()


def kind_of_files(folder: Path) -> DraftKind:
    """The kind of a draft, by its configuration or, if that is not enough, the names of its tensors.

    Raises:
        AssetError: there are no weights.
        CheckpointError: it is of a kind that is not supported.
    """
    kind = kind_of(read_config(folder / CONFIG)[1], str(folder / CONFIG))
    if kind is not DraftKind.EAGLE:
        return kind
    names = _named(open_weights(folder)).keys()
    if "layers.0.hidden_norm.weight" in names:
        return DraftKind.EAGLE3
    return DraftKind.EAGLE if "fc.weight" in names else DraftKind.DECODER_LM


def open_eagle(
    folder: Path, kind: DraftKind, ignored: Collection[str] = (), may_be_quantised: bool = False
) -> EagleFiles:
    """Opens a draft of `kind`.

    Args:
        folder: of the draft.
        kind: EAGLE-3 or EAGLE.
        ignored: keys of its configuration that the user takes the responsibility for.
        may_be_quantised: whether it is opened to be described, and not to be run.

    Raises:
        AssetError: there are no weights.
        CheckpointError: keys or tensors are not those of a draft that can be run.
    """
    values = read_config(folder / CONFIG)[1]
    if may_be_quantised:
        config = eagle_config(values, kind, str(folder / CONFIG))
    else:
        config, _ = read_draft_keys(values, str(folder / CONFIG), kind, ignored)
    tensors = _named(open_weights(folder))
    if not num_layers_in(tensors):
        first = min(tensors, default="none")
        raise CheckpointError(
            f"{folder}: no tensor begins with midlayer. or layers.0., as in {kind.label}, and the first is "
            f"{first}; rename them as the engines read them"
        )
    maps: dict[str, StoredTensor] = {name: tensors.pop(name) for name in ("d2t", "t2d") if name in tensors}
    head, embedding = tensors.pop(HEAD, None), tensors.pop(EMBEDDING, None)
    vocab = read_vocab(maps, config.vocab_size, folder)
    _check_biases(values, tensors, folder)
    if not may_be_quantised:
        check_head(head, vocab, config, folder)
        check_embedding(embedding, config, folder)
        parts = {HEAD: head, EMBEDDING: embedding}
        check_types({**tensors, **{name: t for name, t in parts.items() if t is not None}}, folder)
    tensors = _without_unread(tensors)
    found, notes = (num_layers_in(tensors), len(vocab)), []
    for key, said, counts in zip(
        ("num_hidden_layers", "draft_vocab_size"),
        (config.num_layers, config.draft_vocab_size),
        found,
        strict=True,
    ):
        if said != counts:
            notes.append(f"{key}={said} is stale: the weights have {counts}, which counts")
    config = replace(config, num_layers=found[0], draft_vocab_size=found[1])
    return EagleFiles(folder, config, tensors, head, embedding, vocab, tuple(notes))


def read_vocab(tensors: Mapping[str, StoredTensor], target_vocab_size: int, folder: Path) -> DraftVocab:
    """The vocabulary that the maps of a checkpoint state; without any, that of the target.

    Args:
        tensors: of the checkpoint.
        target_vocab_size: V.
        folder: of the checkpoint, for errors.

    Raises:
        CheckpointError: the maps are out of order or range, or disagree.
    """
    d2t, t2d = tensors.get("d2t"), tensors.get("t2d")
    try:
        offsets = np.zeros(target_vocab_size, dtype=np.int64) if d2t is None else as_integers(d2t.tensor())
        vocab = DraftVocab.from_d2t(offsets, target_vocab_size)
        mask = vocab.t2d if t2d is None else as_integers(t2d.tensor())
    except (VocabError, ValueError) as error:
        raise CheckpointError(f"{folder}: d2t is not a vocabulary map: {error}") from error
    if len(mask) != target_vocab_size:
        raise CheckpointError(
            f"{folder}: t2d has {len(mask):,} entries, and vocab_size is {target_vocab_size:,}; correct "
            f"{CONFIG}, or fetch the draft again"
        )
    if not np.array_equal(np.flatnonzero(mask), vocab.target_ids):
        raise CheckpointError(f"{folder}: its maps d2t and t2d name different tokens")
    return vocab


def num_layers_in(names: Collection[str]) -> int:
    """Decoder layers that tensors of these names make up."""
    numbered = [tensor_name(name, Layout.SPECULATORS) for name in names]
    return 1 + max((int(name.split(".")[1]) for name in numbered if name.startswith("layers.")), default=-1)


def _named(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors with layers by number."""
    found = {}
    for name, tensor in without_prefix(tensors).items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        found[tensor_name(name, Layout.SPECULATORS)] = tensor
    return found


def _without_unread(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(_UNREAD)}
    for name in list(found):
        if name.endswith(".hidden_norm.weight") and not name.startswith("layers.0."):
            # The norm of a later layer is input_layernorm in vLLM, with this one idle; SGLang reverses them.
            norm = found.pop(name)
            found.setdefault(name.replace("hidden_norm", "input_layernorm"), norm)
    return found


def check_head(head: StoredTensor | None, vocab: DraftVocab, config: EagleConfig, folder: Path) -> None:
    """Refuses an LM head that does not have a row of the right width for each token.

    Raises:
        CheckpointError: so.
    """
    if head is None and not vocab.is_full:
        raise CheckpointError(
            f"{folder} has a map of {len(vocab)} tokens and no LM head for them; fetch the draft again"
        )
    if head is not None and head.shape != (len(vocab), config.hidden_size):
        missing = " without d2t, the map of a trimmed head" if vocab.is_full else ""
        raise CheckpointError(
            f"{folder}: the LM head has {head.num_rows} rows of {head.shape[-1]}, its vocabulary "
            f"{len(vocab)} tokens{missing}, and the draft's hidden size is {config.hidden_size}"
        )


def check_embedding(embedding: StoredTensor | None, config: EagleConfig, folder: Path) -> None:
    """Refuses an input embedding that does not have a row of the right width for each token.

    Raises:
        CheckpointError: so.
    """
    wanted = (config.vocab_size, config.hidden_size)
    if embedding is not None and embedding.shape != wanted:
        raise CheckpointError(
            f"{folder}: the input embedding is {embedding.shape}, the configuration says {wanted}"
        )


def _check_biases(values: Mapping[str, Any], tensors: Mapping[str, StoredTensor], folder: Path) -> None:
    layer = values.get("transformer_layer_config")
    layer = layer if isinstance(layer, Mapping) else values
    for key, name in _BIASES.items():
        if (values.get(key) or layer.get(key)) and name not in tensors:
            raise CheckpointError(
                f"{folder}: {key}=true, and the weights hold no {name}; correct {CONFIG}, or fetch the draft "
                "again"
            )


def check_types(tensors: Mapping[str, StoredTensor], folder: Path) -> None:
    """Refuses quantised tensors, which cannot be run.

    Raises:
        CheckpointError: so.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{folder}: {name} is {tensor.dtype}, and a quantised draft cannot be run; measure the same "
                "draft in bfloat16"
            )
