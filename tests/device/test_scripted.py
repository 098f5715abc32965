import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.device import ScriptedDevice
from bench.errors import DeviceError


def test_a_mark_is_reached_when_the_queue_gets_there():
    device = ScriptedDevice()
    start = device.mark()
    device.work(5.0, host_ms=1.0)
    middle = device.mark()
    device.work(2.0, host_ms=1.0)
    end = device.mark()
    assert device.clock_ns() == 2_000_000
    device.synchronize()
    # Queued at 1 ms and busy to 6 ms; the second follows without a gap although queued at 2 ms.
    assert device.elapsed_ms(start, middle) == 6.0
    assert device.elapsed_ms(middle, end) == 2.0
    assert device.clock_ns() == 8_000_000


def test_a_device_that_is_faster_than_its_host_waits():
    device = ScriptedDevice()
    marks = [device.mark()]
    for _ in range(2):
        device.work(1.0, host_ms=4.0)
        marks.append(device.mark())
    device.synchronize()
    assert [device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False)] == [5.0, 4.0]


def test_a_mark_that_is_not_reached_cannot_be_read():
    device = ScriptedDevice()
    start = device.mark()
    device.work(1.0)
    end = device.mark()
    with pytest.raises(DeviceError, match="synchronise first"):
        device.elapsed_ms(start, end)


def test_a_synchronous_device_is_done_when_the_call_returns():
    device = ScriptedDevice(asynchronous=False)
    start = device.mark()
    device.work(5.0, host_ms=1.0)
    assert device.elapsed_ms(start, device.mark()) == 6.0
    assert device.clock_ns() == 6_000_000


def test_only_the_first_work_after_an_eviction_is_cold():
    device = ScriptedDevice(evict_ms=3.0)
    device.evict_cache()
    marks = [device.mark()]
    for _ in range(2):
        device.work(1.0, cold_ms=0.5)
        marks.append(device.mark())
    device.synchronize()
    assert [device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False)] == [1.5, 1.0]
    assert device.clock_ns() == 5_500_000
    assert device.num_evictions == 1


def test_a_cache_of_unknown_size_cannot_be_evicted():
    with pytest.raises(DeviceError, match="how large"):
        ScriptedDevice(cache_bytes=None).evict_cache()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20), st.booleans())
def test_laps_add_up_to_the_whole(works, asynchronous):
    device = ScriptedDevice(asynchronous=asynchronous)
    marks = [device.mark()]
    for device_ms, host_ms in works:
        device.work(device_ms, host_ms)
        marks.append(device.mark())
    device.synchronize()
    laps = [device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False)]
    assert sum(laps) == device.elapsed_ms(marks[0], marks[-1]) >= sum(d for d, _ in works)
