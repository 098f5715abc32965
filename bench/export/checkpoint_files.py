"""Reads checkpoints: one weight file, several of them, or a pickled one."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor

from bench.errors import CheckpointError, VocabError
from bench.export.layouts import Layout, tensor_name
from bench.export.weight_files import READ_ERRORS, as_integers, load_pickled
from bench.model_config import read_config
from bench.vocab.draft_vocab import DraftVocab, IntArray

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
