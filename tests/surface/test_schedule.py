"""Draft lengths by batch size: few changes, little lost, and a form that vLLM reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.surface.schedule import ALLOWED_LOSS, schedule_of


def lookup(ranges, largest, num_speculative_tokens):
    """Gamma by batch size, as vLLM 0.32 expands a schedule (`vllm/v1/spec_decode/dynamic/utils.py`)."""
    assert ranges and ranges[0][0] == 1
    assert all(0 < first <= last and gamma >= 0 for first, last, gamma in ranges)
    assert all(a[1] < b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    found, gamma = {}, None
    for size in range(1, largest + 1):
        gamma = next((g for first, last, g in ranges if first <= size <= last), gamma)
        found[size] = min(gamma, num_speculative_tokens)
    return found


def test_a_hand_computed_schedule():
    speeds = {1: {0: 10, 2: 18, 4: 20}, 4: {0: 30, 2: 33, 4: 32.5}, 16: {0: 80, 2: 60, 4: 40}}
    found = schedule_of(speeds)
    # At 4, gamma 4 is 1.5% slower than gamma 2, which saves a change; sqrt(4 * 16) = 8.
    assert found.ranges == [(1, 8, 4), (9, 16, 0)] and found.longest == 4
    assert found.losses == {1: 0.0, 4: pytest.approx(0.5 / 33), 16: 0.0}
    assert schedule_of(speeds, allowed_loss=0.0).ranges == [(1, 2, 4), (3, 8, 2), (9, 16, 0)]


def test_of_equally_few_changes_the_fastest():
    assert schedule_of({1: {1: 100, 2: 99, 3: 99.5}, 2: {1: 90, 2: 99.9, 3: 100}}).ranges == [(1, 2, 3)]


def test_one_size_is_one_range_from_one_on():
    assert schedule_of({8: {0: 1.0, 3: 2.0}}).ranges == [(1, 8, 3)]


@given(
    st.dictionaries(
        st.integers(1, 300),
        st.dictionaries(st.integers(0, 6), st.floats(0.1, 100.0), min_size=1),
        min_size=1, max_size=7,
    )
)  # fmt: skip
def test_never_slower_than_the_best_constant_gamma_by_more_than_is_allowed(speeds):
    found = schedule_of(speeds)
    gammas = lookup(found.ranges, max(speeds), max(found.longest, 1))
    for size, by_gamma in speeds.items():
        assert by_gamma[gammas[size]] >= (1 - ALLOWED_LOSS) * max(by_gamma.values()) * (1 - 1e-12)
        assert found.losses[size] == pytest.approx(1 - by_gamma[gammas[size]] / max(by_gamma.values()))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_the_fewest_changes_are_found(best):
    """Where only one gamma is good enough at each size, it changes exactly where these do."""
    speeds = {2**place: {g: 1.0 if g == gamma else 0.5 for g in range(4)} for place, gamma in enumerate(best)}
    changes = sum(a != b for a, b in zip(best, best[1:], strict=False))
    assert len(schedule_of(speeds).ranges) == changes + 1
