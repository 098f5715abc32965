"""Trimmed checkpoints: an EAGLE-3 draft or a decoder LM's output head, cut to a vocabulary.

Nothing is retrained: rows of the LM head are taken, and maps say which target tokens they are. A head that is
already trimmed is cut further, its map composed with the new one.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import CheckpointError, VocabError
from bench.export.checkpoint_files import (
    CONFIG,
    HEAD,
    WEIGHTS,
    check_plain_head,
    read_head,
    read_offsets,
    read_tensors,
    read_vocab,
    read_weight_file,
)
from bench.export.config_edit import with_draft_vocab_size
from bench.export.layouts import Layout, converted, layer_config, layout_of, tensor_name
from bench.export.weight_files import save_tensors, stated_hash
from bench.model_config import read_config
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
