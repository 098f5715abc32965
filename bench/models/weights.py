"""Weight files of a checkpoint: one safetensors file, shards with an index, or pickled ones.

Tensors are known by name, type and shape before any is read, and are read in parts, so that a head of a
gigabyte can be cut without a second one in memory. Pickled files are loaded as data, never as code.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.cost.config_json import read_config
from bench.errors import AssetError, CheckpointError
from bench.vocab.draft_vocab import IntArray

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"

WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"

INDEXES = (f"{WEIGHTS}.index.json", f"{PICKLED}.index.json")

# Errors of reading absent or damaged files, here and in safetensors.
READ_ERRORS = (OSError, SafetensorError, RuntimeError, KeyError, ValueError)

# Tensors are read and written in parts of this size.
_PART_BYTES = 16 * 2**20

# What safetensors calls torch's types.
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read when it is asked for.

    Attributes:
        dtype: as safetensors names it.
        shape: of it.
        part: reads rows from a start up to a stop; a scalar counts as one row.
    """

    dtype: str
    shape: tuple[int, ...]
    part: Callable[[int, int], Tensor]

    @property
    def num_rows(self) -> int:
        """Length of the first dimension."""
        return self.shape[0] if self.shape else 1

    def tensor(self) -> Tensor:
        """All of it."""
        return self.part(0, self.num_rows).reshape(self.shape)

    def parts(self) -> Iterator[Tensor]:
        """All of it, a few rows at a time."""
        step = self._rows_per_part()
        for start in range(0, self.num_rows, step):
            yield self.part(start, min(start + step, self.num_rows))

    def take(self, rows: IntArray) -> "StoredTensor":
        """The same with these rows only, ascending."""
        return StoredTensor(self.dtype, (len(rows), *self.shape[1:]), lambda a, b: self._gather(rows[a:b]))

    def _gather(self, rows: IntArray) -> Tensor:
        """Reads the file from front to back, and leaves out what is not wanted."""
        found, step = [], self._rows_per_part()
        for start in range(int(rows[0]) // step * step, int(rows[-1]) + 1, step):
            stop = min(start + step, self.num_rows)
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)] - start
            if len(wanted):
                found.append(self.part(start, stop)[torch.from_numpy(wanted)])
        return torch.cat(found)

    def _rows_per_part(self) -> int:
        # No type is wider than eight bytes.
        return max(1, _PART_BYTES // (8 * max(1, prod(self.shape[1:]))))


def stored(tensor: Tensor) -> StoredTensor:
    """A tensor in memory, as if it were in a file.

    Raises:
        CheckpointError: safetensors has no such type.
    """
    name = _DTYPE_NAMES.get(tensor.dtype)
    if name is None:
        raise CheckpointError(f"tensors of type {tensor.dtype} cannot be written as safetensors")
    flat = tensor.reshape(1) if not tensor.shape else tensor
    return StoredTensor(name, tuple(tensor.shape), lambda start, stop: flat[start:stop])


def open_weights(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by name; nothing of safetensors is read yet.

    Raises:
        AssetError: there are no weights.
        CheckpointError: they cannot be read safely.
    """
    return {name: tensor for path in weight_files(folder) for name, tensor in open_file(path).items()}


def tensor_names(folder: Path) -> dict[str, Path]:
    """The names of a checkpoint's tensors and the files that hold them; of an index no shard is opened.

    Raises:
        AssetError: there are no weights.
        CheckpointError: they cannot be read safely.
    """
    files = weight_files(folder)
    index = next((folder / name for name in INDEXES if (folder / name).exists()), None)
    if index is not None and files[0].name not in (WEIGHTS, PICKLED):
        return {tensor: folder / shard for tensor, shard in _weight_map(index).items()}
    return {name: path for path in files for name in open_file(path)}


def without_prefix(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """An EAGLE draft's tensors without the `model.` that some trainers put before all but the head."""
    if "model.fc.weight" not in tensors:
        return dict(tensors)
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def open_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one weight file.

    Raises:
        CheckpointError: it is not a file of tensors that can be read safely.
    """
    try:
        if path.suffix == ".safetensors":
            return _open_safetensors(path)
        return {name: stored(tensor) for name, tensor in _pickled_tensors(path).items()}
    except READ_ERRORS as error:
        raise CheckpointError(f"{path}: the weights cannot be read ({error})") from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors.

    Raises:
        AssetError: there are none.
        CheckpointError: an index names none.
    """
    for name in (WEIGHTS, INDEXES[0], PICKLED, INDEXES[1]):
        path = folder / name
        if path.exists():
            return _indexed_files(path) if name in INDEXES else [path]
    raise AssetError(f"{folder} holds neither {WEIGHTS} nor {PICKLED}, whole or in shards with an index")


def indexed_names(index: Path) -> list[str]:
    """The shards that an index names.

    Raises:
        CheckpointError: it is not an index.
    """
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_config(index)[1].get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: expected a weight_map of tensors to files; fetch it again")
    return weight_map


def _indexed_files(index: Path) -> list[Path]:
    names = indexed_names(index)
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise CheckpointError(f"{index} names {missing[0]}, which is not there; fetch the checkpoint again")
    return [index.parent / name for name in names]


def load_pickled(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers, lists and dicts; never code. Tensors stay in the file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged or holds anything else.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # Files of torch 1.5 and older cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError("damaged, or holds more than tensors, numbers, lists and dicts") from error


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


def _pickled_tensors(path: Path) -> Mapping[str, Tensor]:
    tensors = load_pickled(path)
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path}: not a dict of tensors, as a checkpoint is")
    return tensors


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    file = safe_open(path, framework="pt")
    found = {}
    for name in file.keys():  # noqa: SIM118 - not a mapping
        view = file.get_slice(name)
        found[name] = StoredTensor(view.get_dtype(), tuple(view.get_shape()), _reader(file, name, view))
    return found


def _reader(file: Any, name: str, view: Any) -> Callable[[int, int], Tensor]:
    if not view.get_shape():
        return lambda _start, _stop: file.get_tensor(name).reshape(1)
    return lambda start, stop: view[start:stop]
