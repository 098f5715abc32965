"""A folder that appears whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import OutputError


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
