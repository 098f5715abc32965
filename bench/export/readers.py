"""Reads every exported map, with all the checks that engines do not make."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from bench.errors import VocabError
from bench.export.files import stated_hash
from bench.models.weights import READ_ERRORS, as_integers, load_pickled
from bench.vocab.draft_vocab import DraftVocab


def read_map(path: Path, target_vocab_size: int) -> DraftVocab:
    """The vocabulary in a map of any exported format.

    Args:
        path: `.safetensors`, `.pt` with a list of ids or with d2t and t2d, `d2t.npy` next to `t2d.npy`, or a
            list of ids as `.txt`, `.json` or `.i32`.
        target_vocab_size: V.

    Raises:
        VocabError: the ids are out of order or range, mask and offsets contradict each other, or the content
            does not match the hash in the file.
    """
    try:
        if path.suffix == ".safetensors":
            return _from_safetensors(path, target_vocab_size)
        if path.suffix == ".npy":
            offsets, mask = (
                np.load(path.with_name(f"{name}.npy"), allow_pickle=False) for name in ("d2t", "t2d")
            )
            return _from_maps(offsets, mask, target_vocab_size)
        if path.suffix == ".i32":
            return _in_any_order(np.fromfile(path, dtype="<i4"), target_vocab_size)
        if path.suffix == ".json":
            return _in_any_order(json.loads(path.read_text("utf-8")), target_vocab_size)
        if path.suffix == ".txt":
            return _in_any_order([int(line) for line in path.read_text("utf-8").split()], target_vocab_size)
        loaded = load_pickled(path)
        if isinstance(loaded, dict):
            return _from_maps(loaded["d2t"], loaded["t2d"], target_vocab_size)
        return _in_any_order(loaded, target_vocab_size)
    except VocabError as error:
        raise VocabError(f"{path}: {error}") from error
    except (*READ_ERRORS, EOFError) as error:
        raise VocabError(f"{path}: not a readable vocabulary map ({error})") from error


def _in_any_order(ids: Any, target_vocab_size: int) -> DraftVocab:
    return DraftVocab(np.sort(as_integers(ids)), target_vocab_size)


def _from_safetensors(path: Path, target_vocab_size: int) -> DraftVocab:
    tensors, stated = load_file(path), stated_hash(path)
    vocab = _from_maps(tensors["d2t"], tensors["t2d"], target_vocab_size)
    if stated is not None and stated != vocab.content_hash:
        raise VocabError("the ids do not match the content_hash of the file; export it again")
    return vocab


def _from_maps(d2t: Any, t2d: Any, target_vocab_size: int) -> DraftVocab:
    vocab, mask = DraftVocab.from_d2t(as_integers(d2t), target_vocab_size), as_integers(t2d)
    if len(mask) != target_vocab_size or not np.array_equal(np.flatnonzero(mask), vocab.target_ids):
        raise VocabError("the mask t2d and the offsets d2t are of different tokens")
    return vocab
