from itertools import cycle

import pytest

from bench.device import CpuDevice, ScriptedDevice
from bench.measure.timing import TimerFacts, timer_facts


def facts(device):
    return timer_facts(device, clock_ns=device.clock_ns)


def test_a_device_that_stands_still_has_no_resolution():
    assert facts(ScriptedDevice(asynchronous=False)) == TimerFacts(None, 0.0)


def test_a_mark_costs_what_the_device_takes_for_it_not_the_host():
    # 513 marks take the host 2.6 ms; 64 evictions take the device 3.2 ms.
    device = ScriptedDevice(evict_ms=0.05, mark_ms=0.001, mark_host_ms=0.005)
    assert facts(device) == TimerFacts(0.001, 0.001, True)
    assert device.num_evictions == 1 + 64


def test_more_work_is_queued_where_the_host_was_not_ahead():
    # 2.57 ms of the host against 0.64, 1.28, 2.56 and 5.12 ms of the device.
    device = ScriptedDevice(evict_ms=0.01, mark_ms=0.001, mark_host_ms=0.005)
    assert facts(device) == TimerFacts(0.001, 0.001, True)
    assert device.num_evictions == 1 + 64 + 128 + 256 + 512


def test_a_device_that_cannot_be_kept_busy_is_said():
    device = ScriptedDevice(evict_ms=0.0, mark_ms=0.001, mark_host_ms=0.005)
    found = facts(device)
    assert not found.is_device_pace
    assert found.mark_ms == pytest.approx(0.005)


def test_the_step_of_a_clock_is_found_below_the_distance_of_marks(monkeypatch):
    device = ScriptedDevice(evict_ms=0.05)
    distances = cycle([0.00128, 0.00160, 0.00128, 0.00192])  # of a clock with steps of 320 ns
    monkeypatch.setattr(device, "elapsed_ms", lambda start, end: next(distances) if start != end else 0.0)
    found = timer_facts(device, clock_ns=lambda: 0)
    assert found.resolution_ms == pytest.approx(0.00032)


def test_the_clock_of_this_cpu_has_steps_no_longer_than_a_mark():
    found = timer_facts(CpuDevice())
    assert found.is_device_pace and found.resolution_ms is not None
    assert 0 < found.resolution_ms <= found.mark_ms
