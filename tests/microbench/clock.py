"""The clock of `make microbench`: the GPU's where there is one, else the host's. For `--benchmark-timer`."""

import time
from typing import Any

import torch


class GpuClock:
    """Seconds of a GPU's own clock, by an event at every reading."""

    def __init__(self) -> None:
        self._last, self._seconds = self._mark(), 0.0

    def __call__(self) -> float:
        """Waits until all work so far is done."""
        mark = self._mark()
        # From one reading to the next: a float of milliseconds since the start would soon be too coarse.
        self._seconds += self._last.elapsed_time(mark) / 1e3
        self._last = mark
        return self._seconds

    @staticmethod
    def _mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        return event


seconds = GpuClock() if torch.cuda.is_available() else time.perf_counter
