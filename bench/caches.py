"""Cached files. A damaged file is made again; without a writable cache, the run continues without it."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

_T = TypeVar("_T")

_said: set[str] = set()


def say_once(message: str) -> None:
    """Prints a line for the user on standard error, each line only once per process."""
    if message not in _said:
        _said.add(message)
        print(f"bench: {message}", file=sys.stderr)


def read_kept(path: Path, read: Callable[[Path], _T]) -> _T | None:
    """Reads a cached file with `read`; None if there is none or it is damaged.

    A damaged file is removed, if possible, and a line says so.
    """
    try:
        if not path.exists():
            return None
        return read(path)
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        say_once(f"the cached file {path} is damaged ({reason}); it is made again")
        remove(path)
        return None


def keep(path: Path, write: Callable[[BinaryIO], None]) -> bool:
    """Writes a file into the cache atomically; if that is not possible, a line says so.

    Two processes can write it at the same time: each one has its own temporary file.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            write(file)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        return True
    except OSError as error:
        if temporary:
            remove(Path(temporary))
        say_once(
            f"the cache {path.parent} cannot be written ({error.strerror or error}); continuing without it"
        )
        return False


def remove(path: Path) -> None:
    """Removes a file if possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
