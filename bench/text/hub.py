"""Rows of a data set on the Hugging Face hub, read with `datasets`."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.assets import sha256_of
from bench.config import HubConfig
from bench.errors import DomainError
from bench.text.rows import Row

_CONNECT_S = 10


def read_rows(hub: HubConfig) -> Iterator[Row]:
    """Rows of the data set, streamed.

    Raises:
        DomainError: the data set cannot be read; the message says what was tried.
    """
    try:
        from datasets import load_dataset  # type: ignore[import-untyped]

        if not _is_local(hub):
            # Without a connection the library would retry for minutes.
            _commit(hub)
        data = load_dataset(hub.id, hub.config, split=hub.split, revision=hub.revision, streaming=True)
        labels = {name: kind for name, kind in (data.features or {}).items() if _has_labels(kind)}
        for number, row in enumerate(data, start=1):
            named = {name: _named(kind, row.get(name)) for name, kind in labels.items()}
            yield Row(f"{hub.id}, {hub.split}, row {number}", number, {**row, **named})
    except DomainError:
        raise
    except Exception as error:  # the fix is the same for every error of the library
        raise _cannot_be_read(hub, error) from error


def content_id(hub: HubConfig) -> str:
    """Identity of the data: the current commit of the revision, or a hash of a local folder.

    Raises:
        DomainError: the hub cannot be reached, or has no such data set.
    """
    revision = _folder_hash(Path(hub.id or "")) if _is_local(hub) else _commit(hub)
    return f"hub:{hub.id}/{hub.config}/{hub.split}@{revision}"


def _is_local(hub: HubConfig) -> bool:
    return Path(hub.id or "").is_dir()


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\n{sha256_of(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _commit(hub: HubConfig) -> str:
    try:
        from huggingface_hub import HfApi

        found = HfApi().dataset_info(hub.id or "", revision=hub.revision, timeout=_CONNECT_S).sha
    except Exception as error:
        raise _cannot_be_read(hub, error) from error
    return found or hub.revision or "main"


def _has_labels(kind: Any) -> bool:
    if isinstance(kind, Mapping):
        return any(map(_has_labels, kind.values()))
    inner = getattr(kind, "feature", None)
    return bool(getattr(kind, "names", None)) if inner is None else _has_labels(inner)


def _named(kind: Any, value: Any) -> Any:
    """`value` with class labels replaced by their names, also inside lists and objects; -1 means no label."""
    if isinstance(kind, Mapping) and isinstance(value, Mapping):
        return {key: _named(kind.get(key), entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_named(kind.feature, entry) for entry in value]
    names = getattr(kind, "names", None)
    if not names or not isinstance(value, int):
        return value
    return names[value] if value >= 0 else None


def _cannot_be_read(hub: HubConfig, error: Exception) -> DomainError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    parts = [f"config {hub.config}"] if hub.config else []
    parts += [f"split {hub.split}", f"revision {hub.revision or 'main'}"]
    return DomainError(
        f"data set {hub.id} ({', '.join(parts)}) cannot be read from the hub: {reason} - check name, network "
        "and login, or download it elsewhere and use domain=jsonl domain.path=FILE (JSON, Parquet)"
    )
