"""Keys that name files and folders: `~` is expanded in each of them, and none may be empty."""

from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any

from bench.errors import require

_PATH, _MAY_BE_EMPTY = "path", "path_or_empty"


def path_key(default: Any = MISSING, *, may_be_empty: bool = False, **options: Any) -> Any:
    """A field of a configuration class whose value names a file or a folder, or is a list of such names."""
    return field(default=default, metadata={"holds": _MAY_BE_EMPTY if may_be_empty else _PATH}, **options)


def expand_paths(config: Any, where: str = "") -> None:
    """Expands `~` in every field made by `path_key`.

    Args:
        config: an instance of a configuration class.
        where: its keys' common beginning, such as "predict.", for errors.

    Raises:
        ConfigError: a path is empty.
    """
    for item in fields(config):
        value, holds = getattr(config, item.name), item.metadata.get("holds")
        if holds is None or value is None:
            continue
        several = isinstance(value, list)
        paths = value if several else [value]
        is_given = all(paths) or holds == _MAY_BE_EMPTY
        require(is_given, f"{where}{item.name}", "''", "a path; leave the key out if there is none")
        expanded = [expand_home(path) for path in paths]
        setattr(config, item.name, expanded if several else expanded[0])


def expand_home(path: str) -> str:
    """The path with a home folder in place of a leading `~`."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        return path  # There is no such user: it is a name that begins with ~.
