"""Reads and writes weight files; every problem becomes an error of one line. Replaces folders in one step."""

import io
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from bench.errors import OutputError
from bench.models.weights import StoredTensor, stored


def save_pickled(value: Any, path: Path) -> None:
    """Writes with `torch.save`. A full disk is an OSError (torch raises a RuntimeError)."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getvalue())


def save_tensors(tensors: Mapping[str, Tensor | StoredTensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes safetensors a few rows at a time, so that a tensor in a file is never in memory as a whole.

    Raises:
        OutputError: the file cannot be written.
    """
    entries = {name: stored(t) if isinstance(t, Tensor) else t for name, t in tensors.items()}
    fresh = path.with_name(f".{path.name}.part")
    try:
        with fresh.open("wb") as file:
            header, names = _header(entries, metadata)
            file.write(header)
            for name in names:
                for part in entries[name].parts():
                    file.write(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        fresh.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}; choose another folder") from error
    finally:
        fresh.unlink(missing_ok=True)


def _header(entries: Mapping[str, StoredTensor], metadata: dict[str, str]) -> tuple[bytes, list[str]]:
    """The header of a safetensors file, and the order of its tensors: widest types first, for alignment."""
    names = sorted(entries, key=lambda name: (-_BYTES[entries[name].dtype], name))
    said: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        entry = entries[name]
        start, end = end, end + _BYTES[entry.dtype] * prod(entry.shape)
        said[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, names


# Bytes of one element, for all types of safetensors that torch can read.
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 1),
}


def stated_hash(path: Path) -> str | None:
    """The `content_hash` in the header of a safetensors file; None if it has none."""
    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("content_hash")


# A folder that appears complete or not at all.


@contextmanager
def replace_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yields an empty sibling folder that replaces `target` when the block ends without an error.

    An earlier result is removed only after the new one is in place; after an error it is unchanged. If
    `target` is a link, the folder that it points to is replaced and the link stays.

    Args:
        target: the folder to create or to replace.
        marker: a file that only our own results contain.

    Raises:
        OutputError: `target` is another folder of the user, or cannot be written.
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
    """Raises an OutputError if `target` is a file or another folder of the user, or cannot be read."""
    try:
        is_free = not target.exists() or (target / marker).exists()
        is_foreign = not is_free and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise _cannot_write(target, error) from error
    if is_foreign:
        raise OutputError(
            f"{target} exists and has no {marker}, so it is not replaced; choose another folder"
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
