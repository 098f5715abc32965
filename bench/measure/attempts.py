"""A case that fails is recorded with its reason, and the next one is measured."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from bench.errors import DeviceError, LostDeviceError
from bench.records import FailureRecord
from bench.records.kinds import Case

T = TypeVar("T")

# After any of these a process cannot use its GPU again. Many other "CUDA error"s, such as a cuBLAS handle
# that found no memory or a launch that was refused, leave it as it was.
_FATAL = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ecc",
)


def attempt(case: Case, work: Callable[[], T]) -> T | FailureRecord:
    """What `work` returns, or why it did not.

    Only failures of the machine are caught: memory that ran out, errors that torch reports of a device, and
    what a device cannot do. A bug of this program keeps its traceback.

    Raises:
        LostDeviceError: the device cannot be used any more by this process.
    """
    try:
        return work()
    except DeviceError as error:
        failure = FailureRecord(list(case), type(error).__name__, _first_line(error))
    except (MemoryError, RuntimeError) as error:
        failure = FailureRecord(list(case), type(error).__name__, _first_line(error))
        if _is_lost(error):
            raise LostDeviceError(
                f"the device failed while measuring {' '.join(map(str, case))}: {failure.message}; the "
                "same command resumes the run in a new process"
            ) from error
    # Outside of the handler, because its traceback keeps tensors alive.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return failure


def _is_lost(error: Exception) -> bool:
    """Whether the device is lost: by the text of the error, or because the device no longer answers."""
    text = str(error).lower()
    if any(sign in text for sign in _FATAL):
        return True
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:  # an error that stays is raised again by every call
        return True
    return False


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
