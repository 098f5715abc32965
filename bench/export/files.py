"""Weight files read and written so that whatever is wrong with one is an error of one line."""

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


# A folder that appears whole or not at all.


@contextmanager
def replace_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yields an empty sibling folder that takes the place of `target` when the block ends well.

    An earlier result is only removed when the new one is in place; after an error it is untouched. Where
    `target` is a link, the folder that it leads to is replaced and the link stays.

    Args:
        target: the folder to make or to replace.
        marker: a file that tells an earlier result from a folder of the user's.

    Raises:
        OutputError: `target` is somebody else's folder, or cannot be written.
    """
    target = target.resolve()
    refuse_foreign(target, marker)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield fresh
        fresh.chmod(0o755)
        _swap(fresh, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def refuse_foreign(target: Path, marker: str) -> None:
    """Raises an OutputError when `target` is a file, a folder of somebody else's, or cannot be looked at."""
    try:
        is_free = not target.exists() or (target / marker).exists()
        is_foreign = not is_free and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise _cannot_write(target, error) from error
    if is_foreign:
        raise OutputError(
            f"{target} is there and holds no {marker}, so it is not replaced; choose another folder"
        )


def _cannot_write(target: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {target}: {error.strerror}; choose another folder")


def _swap(fresh: Path, target: Path) -> None:
    if not target.exists():
        fresh.replace(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    try:
        target.replace(old)
    except OSError:
        old.rmdir()
        raise
    try:
        fresh.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
