import pytest

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
    ],
)
def test_a_lack_of_memory_is_recorded(error, kind, message):
    assert attempt(CASE, failing(error)) == FailureRecord(list(CASE), kind, message)


@pytest.mark.parametrize(
    "text",
    ["CUDA error: an illegal memory access was encountered", "CUDA error: device-side assert triggered"],
)
def test_a_device_that_is_lost_ends_the_run(text):
    with pytest.raises(LostDeviceError, match="the same command goes on in a new process") as caught:
        attempt(CASE, failing(RuntimeError(text)))
    assert caught.value.exit_code == 1
    assert "decode code p1 1024 3" in str(caught.value)


def test_what_a_device_cannot_do_is_recorded_and_the_device_lives_on():
    # A capture that fails is worded like a device that fails.
    error = DeviceError("this cannot run as a CUDA graph: CUDA error: operation not permitted; use eager")
    assert attempt(CASE, failing(error)) == FailureRecord(list(CASE), "DeviceError", str(error))


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError):
        attempt(CASE, failing(KeyError("x")))
