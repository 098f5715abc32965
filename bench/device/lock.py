"""One measurement at a time on each physical device: a lock that the kernel releases when its holder dies.

Two runs on one device would slow each other down and report wrong times. The lock separates the runs of one
user on one machine; it does not stop the work of others.
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

# Not TMPDIR: schedulers and shells set it per job, and locks in different folders have no effect. Not the
# home folder either: machines often share it, and some network file systems cannot lock.
_TMP = Path("/tmp")

_POLL_S = 0.5


def physical_id(name: str) -> str:
    """The physical device behind `auto`, `cpu` or `cuda:<index>`, however this process numbers GPUs.

    Only reads properties: opening the device would disturb a measurement on it.

    Returns:
        `cpu`, or `gpu-<uuid>`. For a GPU that is missing, the name itself; opening it then raises the error.
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

    It cannot be nested: a process that requests a device it already holds would wait for itself.

    Args:
        device_id: from `physical_id`.
        on_wait: called with the holder of the device, once and whenever it changes.
        timeout_s: longest wait; None: no limit, 0: do not wait.
        folder: folder of the locks; None: that of this user on this machine.

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
        _note_holder(file)
        # Do not delete the file: a waiting process would then lock a file that no one else can see.
        # Closing it releases the lock; so does the kernel when this process is killed.
        yield


def lock_folder() -> Path:
    """This user's folder of locks, created on first use.

    Raises:
        DeviceError: the path belongs to another user.
    """
    folder = _TMP / f"vocabtrim-bench-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DeviceError(
            f"cannot create the folder {folder} for locks: {error.strerror}; remove what is there"
        ) from error
    # Anyone can write into /tmp, so there may be a link or another user's folder.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise DeviceError(f"{folder} is not a folder of this user, so it cannot hold locks; remove it")
    return folder


def _acquire(file: TextIO, device_id: str, on_wait: Callable[[str], None], timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    last_holder = None
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
        if holder != last_holder:
            on_wait(f"{holder}; waiting for it to end")
            last_holder = holder
        time.sleep(_POLL_S)


def _note_holder(file: TextIO) -> None:
    file.truncate(0)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    file.write(json.dumps({"pid": os.getpid(), "started_at": started, "command": " ".join(sys.argv[1:])}))
    file.flush()


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        noted = json.loads(file.read())
        return f"process {noted['pid']} (since {noted['started_at']}: {noted['command']})"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"
