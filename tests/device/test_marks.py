"""Marks are never used twice within one timeline; `torch.cuda` has a stand-in here."""

from types import SimpleNamespace

import pytest
import torch

from bench.device import CudaDevice, ScriptedDevice
from bench.device.base import MarkPool
from bench.errors import DeviceError


def counted(made):
    """A pool of numbers, which notes how many were made at a time."""

    def make(count):
        made.append(count)
        return list(range(sum(made) - count, sum(made)))

    return MarkPool(make, 4)


def test_a_pool_that_runs_out_grows_and_hands_out_nothing_twice():
    made = []
    pool = counted(made)
    marks = [pool.take() for _ in range(9)]
    assert [pool.event(mark) for mark in marks] == list(range(9))
    assert made == [4, 4, 8] and len(pool) == 16


def test_recycling_makes_room_beforehand():
    made = []
    pool = counted(made)
    pool.recycle(10)
    assert made == [4, 6]
    assert [pool.event(pool.take()) for _ in range(10)] == list(range(10))
    pool.recycle(3)
    assert pool.event(pool.take()) == 0 and made == [4, 6]


def test_a_mark_that_was_recycled_is_not_read():
    device = ScriptedDevice()
    start, end = device.mark(), device.mark()
    assert device.elapsed_ms(start, end) == 0.0
    device.recycle_marks()
    with pytest.raises(DeviceError, match="read a timeline before the next one starts"):
        device.elapsed_ms(start, end)


def test_a_timeline_longer_than_the_pool_is_told_right():
    device = ScriptedDevice(num_marks=4)
    marks = [device.mark()]
    for lap in range(50):
        device.work(float(lap))
        marks.append(device.mark())
    device.synchronize()
    laps = [device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False)]
    assert laps == [float(lap) for lap in range(50)]
    assert device.elapsed_ms(marks[0], marks[-1]) == 49 * 50 / 2


class FakeEvent:
    """As CUDA's: not there before it is recorded."""

    made: list["FakeEvent"] = []

    def __init__(self, enable_timing):
        assert enable_timing
        self.streams = []
        FakeEvent.made.append(self)

    def record(self, stream):
        self.streams.append(stream)

    def elapsed_time(self, end):
        return float(FakeEvent.made.index(end) - FakeEvent.made.index(self))


@pytest.fixture
def cuda(monkeypatch):
    """A device whose GPU is a stand-in; its synchronisations are counted."""
    synchronized = []
    FakeEvent.made = []
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda index: None,
        "get_device_name": lambda index: "stand-in",
        "get_device_properties": lambda index: SimpleNamespace(uuid="u", L2_cache_size=1 << 20),
        "current_stream": lambda index: "the stream",
        "synchronize": lambda device: synchronized.append(len(FakeEvent.made)),
        "Event": FakeEvent,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr("bench.device.cuda._POOL", 3)
    return CudaDevice(0), synchronized


def test_events_of_cuda_are_recorded_once_before_they_are_timed(cuda):
    device, synchronized = cuda
    # Made, recorded and waited for when the device is opened.
    assert [event.streams for event in FakeEvent.made] == [["the stream"]] * 3 and synchronized == [3]
    device.recycle_marks(5)
    assert [event.streams for event in FakeEvent.made] == [["the stream"]] * 5 and synchronized == [3, 5]
    marks = [device.mark() for _ in range(5)]
    assert [event.streams for event in FakeEvent.made] == [["the stream"] * 2] * 5 and synchronized == [3, 5]
    assert device.elapsed_ms(marks[0], marks[-1]) == 4.0


def test_events_of_cuda_are_not_recorded_twice_in_one_timeline(cuda):
    device, _ = cuda
    marks = [device.mark() for _ in range(20)]
    assert [device.elapsed_ms(marks[0], mark) for mark in marks] == list(range(20))
    assert all(len(event.streams) == 2 for event in FakeEvent.made[:20])
