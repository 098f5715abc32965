"""Trimmed checkpoints: an EAGLE-3 draft or a decoder LM's output head, cut to a vocabulary.

Nothing is retrained: rows of the LM head are taken, and maps say which target tokens they are. A head that is
already trimmed is cut further, its map composed with the new one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from bench.errors import CheckpointError, VocabError
from bench.export.config_edit import with_draft_vocab_size
from bench.export.layouts import Layout, converted, layer_config, layout_of, tensor_name
from bench.export.weight_files import READ_ERRORS, as_integers, load_pickled, save_tensors, stated_hash
from bench.vocab.draft_vocab import DraftVocab, IntArray

_INDEX = "model.safetensors.index.json"
_HEAD, _WEIGHTS, _CONFIG = "lm_head.weight", "model.safetensors", "config.json"
_TRIMMED_HEAD = "lm_head.safetensors"


def trim_eagle3(
    folder: Path, vocab: DraftVocab, target_head: Tensor | None, layout: Layout, out: Path, verifier: str
) -> None:
    """Writes the EAGLE-3 draft in `folder` with its LM head cut to `vocab`.

    The input embedding stays whole, and stays out where the source leaves it out: engines then share the
    target's. With k = V there are no maps, as engines expect.

    Args:
        folder: the draft, in either layout, of any vocabulary that contains `vocab`.
        vocab: the tokens to keep.
        target_head: LM head of the target `(V, H)`, for drafts that leave theirs to it.
        layout: of what is written.
        out: folder to make.
        verifier: name of the target, for the speculators configuration.

    Raises:
        CheckpointError: the draft cannot be read, lacks tokens of `vocab`, or belongs to another target.
    """
    tensors, (text, values) = read_tensors(folder), _read_config(folder / _CONFIG)
    layer = layer_config(values, folder / _CONFIG)
    if layer.get("vocab_size", vocab.target_vocab_size) != vocab.target_vocab_size:
        raise CheckpointError(
            f"{folder} drafts for a target of {layer['vocab_size']} tokens, the vocabulary is one of "
            f"{vocab.target_vocab_size}; draft and target must share their tokenizer"
        )
    head, own = _own_head(tensors, target_head, vocab.target_vocab_size, folder)
    _put_head(tensors, head[torch.from_numpy(_rows(own, vocab, folder))].contiguous(), vocab)
    out.mkdir(parents=True, exist_ok=True)
    if layout is layout_of(values):
        config = with_draft_vocab_size(text, len(vocab), str(folder / _CONFIG))
    else:
        config = json.dumps(converted(values, layer, len(vocab), verifier), indent=2) + "\n"
    named = {tensor_name(name, layout): tensor for name, tensor in tensors.items()}
    save_tensors(named, out / _WEIGHTS, _meta(vocab))
    (out / _CONFIG).write_text(config, "utf-8", newline="")


def trim_lm_head(folder: Path, vocab: DraftVocab, out: Path) -> None:
    """Writes the output head of the decoder LM in `folder`, cut to `vocab`, with its maps.

    No engine loads such a head in place of a draft's own: SGLang cuts the head itself, from the token map
    that is exported beside. This one is for engines of your own and for checking theirs. A head tied to the
    input embedding becomes a copy of its rows; the embedding stays whole.

    Raises:
        CheckpointError: the model cannot be read or has another vocabulary.
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
        path = folder / _WEIGHTS
    try:
        tensors = load_file(path) if path.exists() else read_tensors(folder)
        stated = stated_hash(path) if path.exists() else None
    except READ_ERRORS as error:
        raise CheckpointError(f"{path}: the weights cannot be read ({error})") from error
    head, vocab = _own_head(tensors, None, target_vocab_size, folder)
    if stated is not None and stated != vocab.content_hash:
        raise CheckpointError(f"{path}: its ids do not have the content_hash that it states; export it again")
    return vocab, head


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, named as SafeAILab names them.

    Raises:
        CheckpointError: there are none that can be read safely.
    """
    index, pickled = folder / _INDEX, folder / "pytorch_model.bin"
    try:
        if (folder / _WEIGHTS).exists():
            tensors = load_file(folder / _WEIGHTS)
        elif index.exists():
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            tensors = {name: t for shard in shards for name, t in load_file(folder / shard).items()}
        elif pickled.exists():
            tensors = load_pickled(pickled)
        else:
            raise CheckpointError(f"{folder} holds neither {_WEIGHTS}, {_INDEX} nor pytorch_model.bin")
    except READ_ERRORS as error:
        raise CheckpointError(f"{folder}: the weights cannot be read ({error})") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{pickled}: not a dict of tensors, as a checkpoint is")
    return {tensor_name(name, Layout.SAFEAILAB): tensor for name, tensor in tensors.items()}


def read_offsets(folder: Path) -> IntArray | None:
    """The `d2t` of a draft whose head is trimmed already; None for any other, and where there are no weights.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    path = folder / _WEIGHTS
    if path.exists():
        try:
            with safe_open(path, framework="numpy") as file:
                return as_integers(file.get_tensor("d2t")) if "d2t" in set(file.keys()) else None
        except READ_ERRORS as error:
            raise CheckpointError(f"{path}: the weights cannot be read ({error})") from error
    if not any((folder / name).exists() for name in (_INDEX, "pytorch_model.bin")):
        return None
    d2t = read_tensors(folder).get("d2t")
    return None if d2t is None else as_integers(d2t)


def read_head(folder: Path) -> Tensor:
    """Output head `(V, H)` of a decoder LM; its input embedding where the two are tied.

    Raises:
        CheckpointError: there is neither.
    """
    tensors = read_tensors(folder)
    names = (
        _HEAD,
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "wte.weight",
        "embed_tokens.weight",
    )
    for name in names:
        if name in tensors:
            return tensors[name]
    raise CheckpointError(f"{folder}: neither {_HEAD} nor an input embedding is in its files")


def _own_head(
    tensors: dict[str, Tensor], target_head: Tensor | None, target_vocab_size: int, folder: Path
) -> tuple[Tensor, DraftVocab]:
    head, d2t, t2d = tensors.get(_HEAD), tensors.get("d2t"), tensors.get("t2d")
    if head is None:
        head = target_head
    if head is None:
        raise CheckpointError(f"{folder} leaves its LM head to the target, whose head was not given")
    try:
        offsets = np.zeros(target_vocab_size, dtype=np.int64) if d2t is None else as_integers(d2t)
        vocab = DraftVocab.from_d2t(offsets, target_vocab_size)
        mask = vocab.t2d if t2d is None else as_integers(t2d)
    except (VocabError, ValueError) as error:
        raise CheckpointError(f"{folder}: d2t is not a vocabulary map: {error}") from error
    if len(mask) != target_vocab_size or not np.array_equal(np.flatnonzero(mask), vocab.target_ids):
        raise CheckpointError(f"{folder}: its maps d2t and t2d name different tokens")
    if len(head) != len(vocab):
        raise CheckpointError(
            f"{folder}: the LM head has {len(head)} rows, its vocabulary {len(vocab)} tokens"
        )
    return head, vocab


def _rows(own: DraftVocab, wanted: DraftVocab, folder: Path) -> np.ndarray:
    """Rows of the head over `own` that hold the tokens of `wanted`."""
    missing = np.setdiff1d(wanted.target_ids, own.target_ids)
    if len(missing):
        shown = ", ".join(map(str, missing[:5]))
        raise CheckpointError(
            f"{folder}: its vocabulary of {len(own)} lacks {len(missing)} of the {len(wanted)} tokens asked "
            f"for, such as {shown}; choose among its own tokens"
        )
    return np.searchsorted(own.target_ids, wanted.target_ids)


def _put_head(tensors: dict[str, Tensor], head: Tensor, vocab: DraftVocab) -> None:
    tensors[_HEAD] = head
    tensors.pop("d2t", None)
    tensors.pop("t2d", None)
    if not vocab.is_full:
        tensors["d2t"], tensors["t2d"] = torch.from_numpy(vocab.d2t), torch.from_numpy(vocab.t2d)


def _meta(vocab: DraftVocab) -> dict[str, str]:
    return {"format": "pt", "content_hash": vocab.content_hash}


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, as a model's configuration is")
    return text, values
