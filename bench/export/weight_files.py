"""Weight files read and written so that whatever is wrong with one is an error of one line."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.errors import OutputError
from bench.vocab.draft_vocab import IntArray

# What reading absent or damaged files raises, here and in safetensors.
READ_ERRORS = (OSError, SafetensorError, RuntimeError, KeyError, ValueError)


def load_pickled(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers, lists and dicts; never code.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged or holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise ValueError("damaged, or holds more than tensors, numbers, lists and dicts") from error


def save_pickled(value: Any, path: Path) -> None:
    """Writes with `torch.save`; a full disk is an OSError, where torch itself raises a RuntimeError."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getvalue())


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes safetensors; tensors that are views of one memory become copies of their own.

    Raises:
        OutputError: the file cannot be written.
    """
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        owned[name] = tensor.clone() if memory in seen else tensor
        owned[name] = owned[name].contiguous()
        seen.add(memory)
    try:
        save_file(owned, path, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {path}: {error}; choose another folder") from error


def stated_hash(path: Path) -> str | None:
    """The `content_hash` in the header of a safetensors file; None where it states none."""
    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("content_hash")


def as_integers(values: Any) -> IntArray:
    """A list, array or tensor of integers or booleans as int64 `(n,)`.

    Raises:
        ValueError: it is not a flat list of these: rounding would point ids at other tokens.
    """
    if isinstance(values, Tensor) and not values.is_floating_point():
        values = values.numpy()
    array = None if isinstance(values, Tensor) else np.asarray(values)
    if array is None or array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError("a vocabulary map must be a flat list of integers")
    return array.astype(np.int64)
