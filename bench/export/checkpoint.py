"""Trimmed checkpoints: an EAGLE-3 draft or a decoder LM's output head, cut to a vocabulary.

Nothing is retrained: rows of the LM head are taken, and maps say which target tokens they are. A head that is
already trimmed is cut further, its map composed with the new one.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from bench.cost.config_json import read_config
from bench.errors import CheckpointError, VocabError
from bench.export.files import READ_ERRORS, as_integers, load_pickled, save_tensors, stated_hash
from bench.export.layouts import (
    Layout,
    converted,
    layer_config,
    layout_of,
    tensor_name,
    with_draft_vocab_size,
)
from bench.vocab.draft_vocab import DraftVocab, IntArray

__all__ = [
    "Layout",
    "read_head",
    "read_offsets",
    "read_tensors",
    "read_trimmed",
    "trim_eagle3",
    "trim_lm_head",
]

_EMBEDDING, _TRIMMED_HEAD = "embed_tokens.weight", "lm_head.safetensors"


def trim_eagle3(
    folder: Path,
    vocab: DraftVocab,
    target_head: Tensor | None,
    layout: Layout,
    out: Path,
    verifier: str,
    target_embedding: Tensor | None = None,
) -> None:
    """Writes the EAGLE-3 draft in `folder` with its LM head cut to `vocab`.

    The input embedding stays whole. Where the source leaves it out it stays out, unless it is given: vLLM and
    SGLang then share the target's. With k = V there are no maps, as engines expect.

    Args:
        folder: the draft, in either layout, of any vocabulary that contains `vocab`.
        vocab: the tokens to keep.
        target_head: LM head of the target `(V, H)`, for drafts that leave theirs to it.
        layout: of what is written.
        out: folder to make.
        verifier: name of the target, for the speculators configuration.
        target_embedding: input embedding of the target `(V, H)`, for drafts that leave theirs to it.

    Raises:
        CheckpointError: the draft cannot be read, lacks tokens of `vocab`, or belongs to another target.
        OutputError: the checkpoint cannot be written.
    """
    tensors, (text, values) = read_tensors(folder), read_config(folder / CONFIG)
    layer = layer_config(values, folder / CONFIG)
    if target_embedding is not None:
        tensors.setdefault(_EMBEDDING, target_embedding)
    _check_target(layer, tensors.get(_EMBEDDING), vocab.target_vocab_size, folder)
    head, own = _own_head(tensors, target_head, vocab.target_vocab_size, folder)
    _check_width(layer, head, folder)
    _put_head(tensors, head[torch.from_numpy(_rows(own, vocab, folder))].contiguous(), vocab)
    if layout is layout_of(values):
        config = with_draft_vocab_size(text, len(vocab), str(folder / CONFIG))
    else:
        changed = converted(values, layer, len(vocab), verifier, folder / CONFIG)
        config = json.dumps(changed, indent=2) + "\n"
    named = {tensor_name(name, layout): tensor for name, tensor in tensors.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(named, out / WEIGHTS, _meta(vocab))
    (out / CONFIG).write_text(config, "utf-8", newline="")


def trim_lm_head(folder: Path, vocab: DraftVocab, out: Path) -> None:
    """Writes the output head of the decoder LM in `folder`, cut to `vocab`, with its maps.

    No engine loads such a head in place of a draft's own: SGLang cuts the head itself, from the token map
    that is exported beside. This one is for engines of your own and for checking theirs. A head tied to the
    input embedding becomes a copy of its rows; the embedding stays whole.

    Raises:
        CheckpointError: the model cannot be read or has another vocabulary.
        OutputError: the head cannot be written.
    """
    head = read_head(folder)
    if len(head) != vocab.target_vocab_size:
        raise CheckpointError(
            f"{folder}: the LM head has {len(head)} rows, the vocabulary is one of {vocab.target_vocab_size} "
            "tokens; draft and target must share their tokenizer"
        )
    tensors: dict[str, Tensor] = {}
    _put_head(tensors, head[torch.from_numpy(vocab.target_ids)].contiguous(), vocab)
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, out / _TRIMMED_HEAD, _meta(vocab))


def read_trimmed(folder: Path, target_vocab_size: int) -> tuple[DraftVocab, Tensor]:
    """Vocabulary and LM head `(k, H)` of a trimmed checkpoint, checked.

    Raises:
        CheckpointError: tensors are missing or do not fit each other.
    """
    path = folder / _TRIMMED_HEAD
    if not path.exists():
        path = folder / WEIGHTS
    tensors = read_weight_file(path) if path.exists() else read_tensors(folder)
    head, vocab = _own_head(tensors, None, target_vocab_size, folder)
    stated = stated_hash(path) if path.exists() else None
    if stated is not None and stated != vocab.content_hash:
        raise CheckpointError(f"{path}: its ids do not have the content_hash that it states; export it again")
    return vocab, head


def _own_head(
    tensors: dict[str, Tensor], target_head: Tensor | None, target_vocab_size: int, folder: Path
) -> tuple[Tensor, DraftVocab]:
    check_plain_head(tensors, folder)
    head = tensors.get(HEAD)
    if head is None:
        head = target_head
    if head is None:
        raise CheckpointError(f"{folder} leaves its LM head to the target, whose head was not given")
    vocab = read_vocab(tensors, target_vocab_size, folder)
    if len(head) != len(vocab):
        raise CheckpointError(
            f"{folder}: the LM head has {len(head)} rows, its vocabulary {len(vocab)} tokens"
        )
    return head, vocab


def _check_target(
    layer: dict[str, Any], embedding: Tensor | None, target_vocab_size: int, folder: Path
) -> None:
    stated = layer.get("vocab_size", target_vocab_size)
    if stated != target_vocab_size:
        raise CheckpointError(
            f"{folder} drafts for a target of {stated} tokens, the vocabulary is one of "
            f"{target_vocab_size}; draft and target must share their tokenizer"
        )
    if embedding is not None and len(embedding) != target_vocab_size:
        raise CheckpointError(
            f"{folder}: the input embedding has {len(embedding)} rows, the target {target_vocab_size} tokens"
        )


def _check_width(layer: dict[str, Any], head: Tensor, folder: Path) -> None:
    size = layer.get("hidden_size", head.shape[-1])
    if head.shape[1:] != (size,):
        raise CheckpointError(
            f"{folder}: rows of the LM head are {head.shape[-1]} wide, the draft's hidden size is {size}; a "
            "draft of another size than its target needs a head of its own"
        )


def _rows(own: DraftVocab, wanted: DraftVocab, folder: Path) -> IntArray:
    """Rows of the head over `own` that hold the tokens of `wanted`."""
    try:
        return own.rows_of(wanted)
    except VocabError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _put_head(tensors: dict[str, Tensor], head: Tensor, vocab: DraftVocab) -> None:
    tensors[HEAD] = head
    tensors.pop("d2t", None)
    tensors.pop("t2d", None)
    if not vocab.is_full:
        tensors["d2t"], tensors["t2d"] = torch.from_numpy(vocab.d2t), torch.from_numpy(vocab.t2d)


def _meta(vocab: DraftVocab) -> dict[str, str]:
    return {"format": "pt", "content_hash": vocab.content_hash}


# Reads checkpoints: one weight file, several of them, or a pickled one.

HEAD, WEIGHTS, CONFIG = "lm_head.weight", "model.safetensors", "config.json"

_INDEX, _PICKLED = "model.safetensors.index.json", "pytorch_model.bin"

_EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight", "embed_tokens.weight")


def read_tensors(folder: Path, only: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint, named as SafeAILab names them.

    Args:
        folder: of the checkpoint.
        only: names, as they are stored, of those to read where they exist; all without it.

    Raises:
        CheckpointError: there are none that can be read safely.
    """
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        tensors |= read_weight_file(path, only)
    return {tensor_name(name, Layout.SAFEAILAB): tensor for name, tensor in tensors.items()}


def read_weight_file(path: Path, only: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of one file; of safetensors, those that are not wanted are not read.

    Raises:
        CheckpointError: it is not a file of tensors that can be read safely.
    """
    try:
        if path.name == _PICKLED:
            tensors = load_pickled(path)
            if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
                raise CheckpointError(f"{path}: not a dict of tensors, as a checkpoint is")
            return {name: tensor for name, tensor in tensors.items() if only is None or name in only}
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if only is None or name in only}  # noqa: SIM118 - not a mapping
    except READ_ERRORS as error:
        raise CheckpointError(f"{path}: the weights cannot be read ({error})") from error


def read_head(folder: Path) -> Tensor:
    """Output head `(V, H)` of a decoder LM; its input embedding where the two are tied.

    Raises:
        CheckpointError: there is neither, or the head is more than a matrix.
    """
    names = _tensor_names(folder)
    check_plain_head(names, folder)
    for name in (HEAD, *_EMBEDDINGS):
        if name in names:
            return read_tensors(folder, [name])[name]
    raise CheckpointError(f"{folder}: neither {HEAD} nor an input embedding is in its files")


def read_offsets(folder: Path) -> IntArray | None:
    """The `d2t` of a draft whose head is trimmed already; None for any other, and where there are no weights.

    Raises:
        CheckpointError: the weights cannot be read, or hold a `d2t` that is none.
    """
    if not any((folder / name).exists() for name in (WEIGHTS, _INDEX, _PICKLED)):
        return None
    d2t = read_tensors(folder, ["d2t"]).get("d2t")
    try:
        return None if d2t is None else as_integers(d2t)
    except ValueError as error:
        raise CheckpointError(f"{folder}: d2t is not a vocabulary map: {error}") from error


def read_vocab(tensors: dict[str, Tensor], target_vocab_size: int, folder: Path) -> DraftVocab:
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
        offsets = np.zeros(target_vocab_size, dtype=np.int64) if d2t is None else as_integers(d2t)
        vocab = DraftVocab.from_d2t(offsets, target_vocab_size)
        mask = vocab.t2d if t2d is None else as_integers(t2d)
    except (VocabError, ValueError) as error:
        raise CheckpointError(f"{folder}: d2t is not a vocabulary map: {error}") from error
    if len(mask) != target_vocab_size or not np.array_equal(np.flatnonzero(mask), vocab.target_ids):
        raise CheckpointError(f"{folder}: its maps d2t and t2d name different tokens")
    return vocab


def check_plain_head(names: Collection[str], folder: Path) -> None:
    """Refuses an LM head that is more than a matrix: with a bias or in a quantised format.

    Args:
        names: of the tensors of the checkpoint.
        folder: of the checkpoint, for errors.

    Raises:
        CheckpointError: rows of the matrix alone would not be the head's rows.
    """
    prefix = HEAD.removesuffix("weight")
    others = sorted(name for name in names if name.startswith(prefix) and name != HEAD)
    if others:
        raise CheckpointError(
            f"{folder}: the LM head holds {others[0]} beside its matrix, so it cannot be cut by rows; give a "
            "checkpoint whose head is neither quantised nor biased"
        )


def _tensor_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in _weight_files(folder):
        if path.name == _PICKLED:
            names |= read_weight_file(path).keys()
            continue
        try:
            with safe_open(path, framework="pt") as file:
                names |= set(file.keys())
        except READ_ERRORS as error:
            raise CheckpointError(f"{path}: the weights cannot be read ({error})") from error
    return names


def _weight_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if index.exists():
        try:
            return [folder / shard for shard in sorted(set(read_config(index)[1]["weight_map"].values()))]
        except (KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: expected a weight_map of tensors to files") from error
    if (folder / _PICKLED).exists():
        return [folder / _PICKLED]
    raise CheckpointError(f"{folder} holds neither {WEIGHTS}, {_INDEX} nor {_PICKLED}")
