"""One clock for samples and measurements: the time of day, which two processes and two sessions share.

It advances with the monotonic clock, so that the time of day being set while a run measures moves nothing.
"""

import time

_OFFSET_S = time.time() - time.perf_counter()


def now_s(offset_s: float = _OFFSET_S) -> float:
    """Seconds since the epoch.

    Args:
        offset_s: of another process on this machine, to tell its time.
    """
    return offset_s + time.perf_counter()


def offset_s() -> float:
    """What this process adds to its monotonic clock."""
    return _OFFSET_S
