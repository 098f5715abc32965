"""Independent work in several processes, where that is safe."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

T = TypeVar("T")

_calls: list[Callable[[], Any]] = []  # what forked processes find in the memory that they share


def in_parallel(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Results of calls, in their order; their first error is raised.

    They run in forked processes, one per CPU, unless the system cannot fork or this process has threads that
    a fork would cut off: those of torch, in a run that has just measured.
    """
    num_processes = min(len(calls), len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1
    if num_processes < 2 or "torch" in sys.modules or parent_process() is not None:
        return [call() for call in calls]
    _calls[:] = calls
    try:
        with ProcessPoolExecutor(num_processes, mp_context=get_context("fork")) as pool:
            return list(pool.map(_call, range(len(calls))))
    finally:
        _calls.clear()


def _call(place: int) -> Any:
    return _calls[place]()
