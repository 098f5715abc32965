"""One measurement at a time on each physical device: a lock that the kernel frees when its holder dies.

Two of our runs on one device would slow each other down, and each would report the other's work as its own.
Other people's work is not ours to stop; this only keeps one user's runs apart on one machine.
"""

import fcntl
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import torch

from bench.errors import DeviceError

# Not TMPDIR: schedulers and shells set it per job, and locks in different folders exclude nobody. Not the
# home folder either: it is often shared between machines, and not every network file system can lock.
_TMP = Path("/tmp")

_POLL_S = 0.5


def physical_id(name: str) -> str:
    """What device `auto`, `cpu` or `cuda:<index>` is, however this process numbers its devices.

    Asks for properties only: opening the device would already disturb what is measured on it.

    Returns:
        `cpu`, or `gpu-<uuid>`; the name itself for a GPU that is not there, which opening it then explains.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    index = 0 if name == "auto" else int(name.removeprefix("cuda:"))
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return name.replace(":", "-")
    return f"gpu-{torch.cuda.get_device_properties(index).uuid}"


@contextmanager
def hold_device(
    device_id: str,
    on_wait: Callable[[str], None],
    timeout_s: float | None = None,
    folder: Path | None = None,
) -> Iterator[None]:
    """Waits until no other run of this user measures on the device, and holds it for the block's duration.

    It does not nest: a process that asks again for what it holds would wait for itself.

    Args:
        device_id: what `physical_id` returns.
        on_wait: told who holds the device, once and whenever that changes.
        timeout_s: longest wait; None waits as long as it takes, 0 does not wait.
        folder: of the locks; None is this user's on this machine.

    Raises:
        DeviceError: the wait was too long, or the folder cannot hold locks.
    """
    folder = folder or lock_folder()
    path = folder / f"{device_id}.lock"
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise DeviceError(f"cannot write the lock {path}: {error.strerror}; make it writable") from error
    with file:
        _acquire(file, device_id, on_wait, timeout_s)
        _sign(file)
        # The file stays: a process that waits for it would else lock a file that nobody sees any more.
        # Closing it frees the lock, and so does the kernel when this process is killed.
        yield


def lock_folder() -> Path:
    """This user's folder of locks, made on first use.

    Raises:
        DeviceError: the place is taken by somebody else.
    """
    folder = _TMP / f"vocabtrim-bench-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DeviceError(f"cannot make {folder} for locks: {error.strerror}; move it away") from error
    # Anybody can write into /tmp, so a link or another user's folder may wait there.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise DeviceError(f"{folder} is not a folder of this user, so it cannot hold locks; have it removed")
    return folder


def _acquire(file: TextIO, device_id: str, on_wait: Callable[[str], None], timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    told = None
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise DeviceError(f"{file.name} cannot be locked: {error.strerror}") from error
        holder = f"{device_id} is being measured by {_holder(file)}"
        if deadline is not None and time.monotonic() >= deadline:
            raise DeviceError(f"{holder}; wait until it ends, or choose another gpu=")
        if holder != told:
            on_wait(f"{holder}; waiting for it to end")
            told = holder
        time.sleep(_POLL_S)


def _sign(file: TextIO) -> None:
    file.truncate(0)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    file.write(json.dumps({"pid": os.getpid(), "started_at": started, "command": " ".join(sys.argv[1:])}))
    file.flush()


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        signed = json.loads(file.read())
        return f"process {signed['pid']} (since {signed['started_at']}: {signed['command']})"
    except (ValueError, KeyError, TypeError):
        return "a process that has not signed yet"
