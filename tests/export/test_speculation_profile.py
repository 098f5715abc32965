"""`speculation_profile.json` on a histogram that is counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.export.speculation_profile import speculation_profile, synthetic_settings


def profile(accepted: list[list[int]], draft_length: int) -> dict:
    """Of answers whose rounds accepted so many tokens; the same rounds stand for every draft length."""
    depths = np.arange(draft_length)

    def walk(length: int):
        kept = [np.minimum(rounds, length) for rounds in accepted]
        at = [[int((rounds > depth).sum()) for depth in depths[:length]] for rounds in kept]
        return np.array([len(rounds) for rounds in kept], float), np.array(at, float)

    walks = {length: walk(length) for length in range(1, draft_length + 1)}
    return speculation_profile(walks, draft_length, "eagle3", {"id": "d"}, {"id": "t"}, {"dataset": "x"})


def test_rates_lengths_and_histogram_by_hand():
    # Eight rounds: 4 accept nothing, 2 one token, 1 two, 1 three.
    found = profile([[0, 0, 1, 3], [0, 0, 1, 2]], 3)
    assert found["marginal_accept_rates"] == [0.5, 0.25, 0.125]
    assert found["conditional_accept_rates"] == [0.5, 0.5, 0.5]
    assert found["mean_accept_length"] == 1.875
    assert found["mean_accept_length_per_request"] == (2 + 1.75) / 2
    assert found["acceptance_length_histogram"] == {"1": 4, "2": 2, "3": 1, "4": 1}
    assert found["accept_length_by_k"] == {"1": 1.5, "2": 1.75, "3": 1.875}
    assert found["validation"]["mean_consistency"]["passed"]
    assert found["validation"]["marginal_monotonicity"] == {"passed": True, "violations": []}
    assert synthetic_settings(found)["synthetic_acceptance_rates"] == [0.5, 0.25, 0.125]


def test_positions_that_were_never_reached_have_rate_0():
    found = profile([[0, 1, 0, 1]], 3)
    assert found["marginal_accept_rates"] == [0.5, 0, 0]
    assert found["conditional_accept_rates"] == [0.5, 0, 0]
    assert found["acceptance_length_histogram"] == {"1": 2, "2": 2}


@given(st.lists(st.lists(st.integers(0, 5), min_size=1), min_size=1), st.integers(1, 5))
def test_both_conventions_and_the_histogram_say_the_same(accepted, draft_length):
    found = profile([[min(a, draft_length) for a in rounds] for rounds in accepted], draft_length)
    product = np.cumprod(found["conditional_accept_rates"])
    assert product == pytest.approx(found["marginal_accept_rates"], abs=1e-5)
    lengths = found["acceptance_length_histogram"]
    num_rounds = sum(map(len, accepted))
    assert sum(lengths.values()) == num_rounds
    mean = sum(int(length) * count for length, count in lengths.items()) / num_rounds
    assert mean == pytest.approx(found["mean_accept_length"], abs=1e-5)
    assert found["validation"]["marginal_monotonicity"]["passed"]
