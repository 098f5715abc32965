import pytest
import torch

from bench.errors import DeviceError, LostDeviceError
from bench.measure.attempts import attempt
from bench.records import FailureRecord

CASE = ("decode", "code", "p1", 1024, 3)


def failing(error):
    def work():
        raise error

    return work


def test_what_works_is_returned():
    assert attempt(CASE, lambda: 7) == 7


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), "MemoryError", "no reason given"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."),
            "RuntimeError",
            "CUDA out of memory. Tried to allocate 2 GiB.",
        ),
        # Some allocations outside of torch's own allocator say it this way; the device lives on.
        (RuntimeError("CUDA error: out of memory"), "RuntimeError", "CUDA error: out of memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "RuntimeError",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ),
        (
            RuntimeError("CUDA error: too many resources requested for launch"),
            "RuntimeError",
            "CUDA error: too many resources requested for launch",
        ),
    ],
)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_a_device_survives_is_recorded(error, kind, message, on_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert attempt(CASE, failing(error)) == FailureRecord(list(CASE), kind, message)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
    ],
)
def test_a_device_that_is_lost_ends_the_run(text):
    with pytest.raises(LostDeviceError, match="the same command resumes the run in a new process") as caught:
        attempt(CASE, failing(RuntimeError(text)))
    assert caught.value.exit_code == 1
    assert "decode code p1 1024 3" in str(caught.value)


def test_a_device_that_does_not_answer_any_more_ends_the_run(monkeypatch):
    """Whatever the first error said: one that stays comes back with every call."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", failing(RuntimeError("CUDA error: unknown error")))
    with pytest.raises(LostDeviceError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        attempt(CASE, failing(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")))


def test_what_a_device_cannot_do_is_recorded_and_the_device_lives_on():
    # A capture that fails is worded like a device that fails.
    error = DeviceError("this cannot run as a CUDA graph: CUDA error: operation not permitted; use eager")
    assert attempt(CASE, failing(error)) == FailureRecord(list(CASE), "DeviceError", str(error))


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError):
        attempt(CASE, failing(KeyError("x")))
