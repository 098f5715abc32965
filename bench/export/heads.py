"""LM heads cut to some of their tokens, with unchanged bits, however a checkpoint stores them.

One matrix with a row for each token; the parts of a quantised one; or AWQ's and GPTQ's, where a column is a
token and an integer holds several.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.errors import CheckpointError
from bench.models.weights import HEAD, StoredTensor, stored
from bench.vocab.draft_vocab import IntArray

Tensors = Mapping[str, StoredTensor]

_SHAPE, _PACKED = "lm_head.weight_shape", "lm_head.weight_packed"

# GPTQ and AWQ store a head the other way round: a column is a token.
_SCALES, _QWEIGHT = "lm_head.scales", "lm_head.qweight"

# Which token each group of bits of a packed integer is: AWQ's kernels want them so, in 4 bits.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def head_tensors(tensors: Tensors) -> dict[str, StoredTensor]:
    """All tensors of the LM head: its matrix, or the parts of a quantised matrix, and its bias."""
    prefix = HEAD.removesuffix("weight")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def num_head_rows(head: Tensors, folder: Path) -> int:
    """Number of tokens of a head.

    Raises:
        CheckpointError: it is stored so that tokens cannot be selected.
    """
    for name in (HEAD, _PACKED):
        if name in head:
            return head[name].num_rows
    if _SCALES in head and _QWEIGHT in head:
        return head[_SCALES].shape[-1]
    raise CheckpointError(
        f"{folder}: the LM head is stored as {', '.join(sorted(head))}, whose rows cannot be selected; "
        "give a checkpoint whose head has one matrix with a row for each token"
    )


def cut_rows(head: Tensors, rows: IntArray, folder: Path) -> dict[str, StoredTensor]:
    """As `cut_head`, of a head that may be padded to more rows than its tokenizer has tokens.

    Raises:
        CheckpointError: it lacks a row, or cannot be cut.
    """
    num_rows = num_head_rows(head, folder)
    # Heads of one tokenizer can be padded to different sizes.
    if num_rows <= rows[-1]:
        raise CheckpointError(
            f"{folder}: the LM head has {num_rows} rows, none for id {rows[-1]} of the vocabulary; draft and "
            "target must have the same tokenizer"
        )
    return cut_head(head, num_rows, rows, folder)


def cut_head(head: Tensors, num_rows: int, rows: IntArray, folder: Path) -> dict[str, StoredTensor]:
    """Only these tokens of every tensor of a head, weights and scales, with unchanged bits.

    Args:
        head: its tensors, by name.
        num_rows: as of `num_head_rows`.
        rows: to keep, ascending.
        folder: of the checkpoint, for errors.

    Raises:
        CheckpointError: a tensor has not one row for each token.
    """
    if _QWEIGHT in head:
        return _cut_columns(head, num_rows, rows, folder)
    found = {}
    for name, tensor in head.items():
        if name == _SHAPE:
            found[name] = stored(torch.tensor([len(rows), *tensor.tensor().tolist()[1:]]))
        elif _is_packed_by_row(name, tensor, num_rows):
            order = range(-(-num_rows // tensor.num_rows))
            found[name] = stored(_repacked(rows, order, tensor.tensor().T).T.contiguous())
        elif tensor.shape[:1] == (num_rows,):
            found[name] = tensor.take(rows)
        elif tensor.shape in ((), (1,), (1, 1)):
            found[name] = tensor
        else:
            raise CheckpointError(
                f"{folder}: {name} of shape {tensor.shape} does not have one row for each of the {num_rows} "
                "tokens, so the head cannot be trimmed; give a head that is not quantised in blocks of rows"
            )
    return found


def _is_packed_by_row(name: str, tensor: StoredTensor, num_rows: int) -> bool:
    """Whether these are zero points of compressed-tensors, several tokens to an integer."""
    return name == "lm_head.weight_zero_point" and tensor.dtype == "I32" and tensor.num_rows < num_rows


def _cut_columns(head: Tensors, num_columns: int, columns: IntArray, folder: Path) -> dict[str, StoredTensor]:
    """Only these tokens of a head of GPTQ or AWQ, a few rows at a time."""
    is_awq = head[_QWEIGHT].shape[-1] < num_columns
    found = {}
    for name, tensor in head.items():
        if name == "lm_head.g_idx":  # the group of every input, whatever the token
            found[name] = tensor
        elif tensor.shape == (num_columns,):
            found[name] = tensor.take(columns)
        elif tensor.shape[-1:] == (num_columns,):
            found[name] = _columns(tensor, len(columns), lambda part: part[:, columns])
        else:
            order = _packing(name, tensor, num_columns, len(columns), is_awq, folder)
            found[name] = _columns(tensor, len(columns) // len(order), partial(_repacked, columns, order))
    return found


def _packing(
    name: str, tensor: StoredTensor, num_columns: int, size: int, is_awq: bool, folder: Path
) -> Sequence[int]:
    """The order of the tokens in an integer of a packed tensor, from which `size` tokens are wanted."""
    per_integer, rest = divmod(num_columns, max(1, tensor.shape[-1] if tensor.shape else 1))
    if tensor.dtype != "I32" or rest or per_integer not in (4, 8, 16):
        raise CheckpointError(
            f"{folder}: {name} of shape {tensor.shape} has no column for each of the {num_columns} tokens, "
            "so the head cannot be trimmed; give one of 2, 4 or 8 bits"
        )
    if size % per_integer:
        raise CheckpointError(
            f"{folder}: {name} packs {per_integer} tokens into an integer, so the size must be a multiple of "
            f"{per_integer}, and is {size}; set export.vocab_size or vocab.multiple"
        )
    return _AWQ_ORDER if is_awq and per_integer == len(_AWQ_ORDER) else range(per_integer)


def _columns(tensor: StoredTensor, num_columns: int, cut: Callable[[Tensor], Tensor]) -> StoredTensor:
    shape = (*tensor.shape[:-1], num_columns)
    return StoredTensor(tensor.dtype, shape, lambda start, stop: cut(tensor.part(start, stop)))


def _repacked(columns: IntArray, order: Sequence[int], integers: Tensor) -> Tensor:
    """Integers of these columns only, packed as before; what is missing at the end is zeros.

    Args:
        columns: those wanted, of the values in `integers`.
        order: which value of an integer each group of bits holds, lowest bits first.
        integers: int32 `(rows, n)`.
    """
    bits = 32 // len(order)
    place, group = torch.from_numpy(columns // len(order)), columns % len(order)
    shifts = torch.from_numpy(bits * np.argsort(order)[group]).to(torch.int32)
    values = (integers[:, place] >> shifts) & ((1 << bits) - 1)
    values = torch.nn.functional.pad(values, (0, -len(columns) % len(order)))
    grouped = values.reshape(len(values), -1, len(order))[..., list(order)]
    return (grouped << bits * torch.arange(len(order), dtype=torch.int32)).sum(-1, dtype=torch.int32)
