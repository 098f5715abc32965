"""Reads every exported map back, with all checks that an engine leaves out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from bench.errors import VocabError
from bench.vocab.draft_vocab import DraftVocab


def read_map(path: Path, target_vocab_size: int) -> DraftVocab:
    """The vocabulary in a map of any format that is exported.

    Args:
        path: `.safetensors`, `.pt` with a list of ids or with d2t and t2d, or `d2t.npy` beside `t2d.npy`.
        target_vocab_size: V.

    Raises:
        VocabError: the ids are out of order or range, mask and offsets disagree, or the content is not
            what the file says it is.
    """
    try:
        if path.suffix == ".safetensors":
            return _from_safetensors(path, target_vocab_size)
        if path.suffix == ".npy":
            offsets, mask = (
                np.load(path.with_name(f"{name}.npy"), allow_pickle=False) for name in ("d2t", "t2d")
            )
            return _from_maps(offsets, mask, target_vocab_size)
        loaded = torch.load(path, weights_only=True)
        if isinstance(loaded, dict):
            return _from_maps(loaded["d2t"].numpy(), loaded["t2d"].numpy(), target_vocab_size)
        return _from_ids(loaded, target_vocab_size)
    except VocabError as error:
        raise VocabError(f"{path}: {error}") from error
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise VocabError(f"{path}: not a vocabulary map that can be read ({error})") from error


def _from_safetensors(path: Path, target_vocab_size: int) -> DraftVocab:
    with safe_open(path, framework="numpy") as file:
        vocab = _from_maps(file.get_tensor("d2t"), file.get_tensor("t2d"), target_vocab_size)
        stated = (file.metadata() or {}).get("content_hash")
    if stated is not None and stated != vocab.content_hash:
        raise VocabError("the ids do not have the content_hash that the file states; export it again")
    return vocab


def _from_maps(d2t: np.ndarray, t2d: np.ndarray, target_vocab_size: int) -> DraftVocab:
    vocab = DraftVocab.from_d2t(d2t, target_vocab_size)
    if len(t2d) != target_vocab_size or not np.array_equal(np.flatnonzero(t2d), vocab.target_ids):
        raise VocabError("the mask t2d does not mark the tokens that the offsets d2t map to")
    return vocab


def _from_ids(ids: Sequence[int], target_vocab_size: int) -> DraftVocab:
    found = np.sort(np.asarray(ids, dtype=np.int64))
    return DraftVocab(found, target_vocab_size)
