"""CPU cores of jobs that run at the same time on one machine: each gets a share of its own.

Decoding at batch 1 waits for its launches, so jobs that push each other off their cores slow each other down
although each has a GPU to itself.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def num_allowed() -> int | None:
    """How many logical CPUs this process may run on; None where the system does not tell."""
    return len(os.sched_getaffinity(0)) if _can_pin() else None


def share_of(place: int, num_shares: int, topology: Path = _TOPOLOGY) -> list[int] | None:
    """Logical CPUs of one of several jobs, of those that this process may run on.

    Shares are as equal as can be and have whole cores where there are enough of them: two threads of one core
    stay together.

    Args:
        place: of the job, from 0.
        num_shares: jobs at the same time.
        topology: where the kernel tells which CPUs are one core.

    Returns:
        None where the system cannot pin, or has fewer CPUs than jobs.
    """
    if not _can_pin():
        return None
    allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: (*_core_of(cpu, topology), cpu))
    return split(allowed, [_core_of(cpu, topology) for cpu in allowed], num_shares)[place]


def split(cpus: Sequence[int], cores: Sequence[tuple[int, int]], num_shares: int) -> list[list[int] | None]:
    """CPUs in equal parts, by whole cores where there are as many cores as parts.

    Args:
        cpus: ids, those of one core beside each other `(n,)`.
        cores: which core each is a thread of `(n,)`.
        num_shares: parts.

    Returns:
        One list of ids per part, ascending; None for every part where there are fewer CPUs than parts.
    """
    units: list[list[int]] = []
    for place, cpu in enumerate(cpus):
        if place and cores[place] == cores[place - 1]:
            units[-1].append(cpu)
        else:
            units.append([cpu])
    if len(units) < num_shares:
        units = [[cpu] for cpu in cpus]
    if len(units) < num_shares:
        return [None] * num_shares
    bounds = [len(units) * place // num_shares for place in range(num_shares + 1)]
    return [
        sorted(cpu for unit in units[first:last] for cpu in unit)
        for first, last in itertools.pairwise(bounds)
    ]


@contextmanager
def pinned(cpus: Sequence[int] | None) -> Iterator[None]:
    """Processes that are started inside run on these CPUs; None changes nothing."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _can_pin() -> bool:
    return hasattr(os, "sched_setaffinity")


def _core_of(cpu: int, topology: Path) -> tuple[int, int]:
    """(package, core) of a logical CPU; a core of its own where the kernel does not tell."""
    folder = topology / f"cpu{cpu}" / "topology"
    try:
        package, core = (int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return -1, cpu
    return package, core
