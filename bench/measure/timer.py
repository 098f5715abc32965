"""What the device's clock can tell, and what asking it costs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bench.device import Device

_NUM_MARKS = 513
# Work that is queued before the marks, doubled until the device is busy for longer than they take to make.
_FIRST_WORKS, _MOST_WORKS = 64, 8192
_MATRIX = 2048
# Finer differences are what a float in ms cannot tell.
_DECIMALS = 7

Clock = Callable[[], int]


@dataclass(frozen=True)
class TimerFacts:
    """A device's clock.

    Attributes:
        resolution_ms: its step: the smallest difference seen between two distances of marks; None where they
            were all zero.
        mark_ms: usual distance between two marks with nothing in between: what a mark adds to a lap.
        is_device_pace: whether that is the device's time for a mark. On an asynchronous device that could
            not be kept busy it is the host's for making one, which laps of a busy device do not contain.
    """

    resolution_ms: float | None
    mark_ms: float
    is_device_pace: bool = True


def timer_facts(device: Device, clock_ns: Clock = time.perf_counter_ns) -> TimerFacts:
    """Makes marks one after the other, in less than a second.

    An idle device passes every mark as soon as the host has made it, so that their distances are the host's
    pace. An asynchronous device is therefore given work first, and gets to the marks when all are queued.

    Args:
        device: its marks are made.
        clock_ns: the host's clock.
    """
    if not device.asynchronous:
        device.recycle_marks(_NUM_MARKS)
        return _facts(device, [device.mark() for _ in range(_NUM_MARKS)], True)
    work, num_works = _work(device), _FIRST_WORKS
    work()
    while True:
        device.recycle_marks(_NUM_MARKS + 1)
        device.synchronize()
        begin_ns, begin = clock_ns(), device.mark()
        for _ in range(num_works):
            work()
        marks = [device.mark() for _ in range(_NUM_MARKS)]
        host_ms = (clock_ns() - begin_ns) / 1e6
        device.synchronize()
        # The device began no earlier than the host did, and reached the first mark after all of the work.
        was_busy = device.elapsed_ms(begin, marks[0]) >= host_ms
        if was_busy or num_works >= _MOST_WORKS:
            return _facts(device, marks, was_busy)
        num_works *= 2


def _work(device: Device) -> Callable[[], object]:
    """Something that takes the device much longer than it takes the host to queue."""
    if device.cache_bytes is not None:
        return device.evict_cache
    matrix = torch.ones(_MATRIX, _MATRIX, device=device.torch_device)
    product = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=product)


def _facts(device: Device, marks: list[object], is_device_pace: bool) -> TimerFacts:
    device.synchronize()
    gaps = np.array([device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False)])
    # Every distance is a number of steps, so their differences are too, and distances alone hide the step
    # where it is shorter than a mark.
    steps = np.diff(np.unique(np.round([0.0, *gaps], _DECIMALS)))
    return TimerFacts(float(steps.min()) if len(steps) else None, float(np.median(gaps)), is_device_pace)
