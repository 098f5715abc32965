"""Any data set on the Hugging Face hub, row by row, through `datasets`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.config import HubConfig
from bench.domains.rows import Row
from bench.errors import DomainError

_CONNECT_S = 10


def read_rows(hub: HubConfig) -> Iterator[Row]:
    """Rows as they stream in.

    Raises:
        DomainError: the data set cannot be had; the message says what was tried.
    """
    try:
        from datasets import load_dataset

        _require_connection(hub)
        data = load_dataset(hub.id, hub.config, split=hub.split, revision=hub.revision, streaming=True)
        names = _label_names(data.features or {})
        for number, row in enumerate(data, start=1):
            yield Row(f"{hub.id}, {hub.split}, row {number}", number, _with_names(row, names))
    except DomainError:
        raise
    except Exception as error:  # whatever the library raises, the user needs the same help
        raise _cannot_be_had(hub, error) from error


def content_id(hub: HubConfig) -> str:
    """Identity of the data: the commit that the revision stands for now.

    Raises:
        DomainError: the hub cannot be reached or does not know the data set.
    """
    revision = hub.revision or "main"
    if not Path(hub.id or "").is_dir():
        try:
            from huggingface_hub import HfApi

            revision = (
                HfApi().dataset_info(hub.id or "", revision=hub.revision, timeout=_CONNECT_S).sha or revision
            )
        except Exception as error:
            raise _cannot_be_had(hub, error) from error
    return f"hub:{hub.id}/{hub.config}/{hub.split}@{revision}"


def _require_connection(hub: HubConfig) -> None:
    """Fails in seconds where the library would try again for minutes."""
    content_id(hub)


def _label_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of class labels by column, also inside lists."""
    found = {}
    for column, feature in features.items():
        inner = getattr(feature, "feature", feature)
        names = getattr(inner, "names", None)
        if names:
            found[column] = list(names)
    return found


def _with_names(row: dict, names: dict[str, list[str]]) -> dict:
    named = dict(row)
    for column, labels in names.items():
        value = row.get(column)
        if isinstance(value, list):
            named[column] = [labels[label] for label in value]
        elif isinstance(value, int):
            named[column] = labels[value]
    return named


def _cannot_be_had(hub: HubConfig, error: Exception) -> DomainError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    parts = [f"config {hub.config}"] if hub.config else []
    parts += [f"split {hub.split}", f"revision {hub.revision or 'main'}"]
    return DomainError(
        f"data set {hub.id} ({', '.join(parts)}) cannot be had from the hub: {reason} - check name, network "
        "and login, or download it elsewhere and use domain=jsonl domain.path=FILE (JSON, Parquet)"
    )
