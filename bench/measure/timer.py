"""What the device's clock can tell, and what asking it costs."""

from dataclasses import dataclass

import numpy as np

from bench.device import Device

_NUM_MARKS = 2001


@dataclass(frozen=True)
class TimerFacts:
    """A device's clock.

    Attributes:
        resolution_ms: the smallest distance seen between two marks that differ; None where none did.
        mark_ms: usual distance between two marks with nothing in between: what a mark adds to a lap.
    """

    resolution_ms: float | None
    mark_ms: float


def timer_facts(device: Device) -> TimerFacts:
    """Makes marks one after the other, in less than a tenth of a second."""
    marks = [device.mark() for _ in range(_NUM_MARKS)]
    device.synchronize()
    gaps = np.array([device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False)])
    moved = gaps[gaps > 0]
    return TimerFacts(float(moved.min()) if len(moved) else None, float(np.median(gaps)))
