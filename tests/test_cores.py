"""Which CPUs each of several jobs gets."""

import os

import pytest

from bench import sweep as cores

TWO_THREADS = [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("cpus", "core_of", "num_shares", "shares"),
    [
        # Threads 0 and 4 are one core, and so on: both go to the same job.
        ([0, 4, 1, 5, 2, 6, 3, 7], TWO_THREADS, 2, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ([0, 4, 1, 5, 2, 6, 3, 7], TWO_THREADS, 4, [[0, 4], [1, 5], [2, 6], [3, 7]]),
        # Four cores for three jobs: none is left over.
        ([0, 4, 1, 5, 2, 6, 3, 7], TWO_THREADS, 3, [[0, 4], [1, 5], [2, 3, 6, 7]]),
        # More jobs than cores: threads are divided up.
        ([0, 4, 1, 5], TWO_THREADS[:4], 3, [[0], [4], [1, 5]]),
        ([0, 1], [(0, 0), (0, 0)], 3, [None, None, None]),
        ([3, 7], [(-1, 3), (-1, 7)], 1, [[3, 7]]),
    ],
)
def test_shares_by_hand(cpus, core_of, num_shares, shares):
    assert cores.split(cpus, core_of, num_shares) == shares


def test_threads_of_a_core_are_found_where_the_kernel_tells_them(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text(f"{cpu % 2}\n")
    assert [cores.share_of(place, 2, tmp_path) for place in (0, 1)] == [[0, 2], [1, 3]]
    assert [cores.share_of(place, 2, tmp_path / "nothing") for place in (0, 1)] == [[0, 1], [2, 3]]
    assert cores.num_allowed() == 4


def test_a_system_that_cannot_pin_says_so(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert cores.share_of(0, 2) is None and cores.num_allowed() is None
    with cores.pinned(None):
        pass
