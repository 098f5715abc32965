import numpy as np
import pytest

from bench.cost.shape import DraftShape
from bench.errors import ConfigError
from bench.surface.lengths import of_profile, of_replay, spread
from tests.gpu_tables.synthetic import DENSE
from tests.surface.test_predict import intervals

DRAFT = DraftShape.from_config(DENSE, "here")
WHOLE = DENSE["vocab_size"]


def test_rates_by_position_add_up():
    found = of_profile({"rates": [0.8, 0.5, 0.2]}, DRAFT, "here")
    assert found.draft_lengths == (1, 2, 3) and found.sizes.tolist() == [WHOLE]
    assert found.mean[0, :, 0] == pytest.approx([1.8, 2.3, 2.5]) and not found.has_interval


def test_acceptance_changes_with_the_size_as_its_curve_does():
    # As keys of a JSON file, which are text.
    values = {
        "mean_acceptance_length": {"2": 2.2, "4": 2.6},
        "vocab_size": 4096,
        "acceptance_rate_by_size": {"1024": 0.3, "4096": 0.6},
    }
    found = of_profile(values, DRAFT, "here")
    assert (found.sizes[0], found.sizes[-1]) == (1024, 4096)
    assert found.mean[0, :, -1] == pytest.approx([2.2, 2.6])
    assert found.mean[0, :, 0] == pytest.approx([1.6, 1.8])
    # A straight line over the logarithm of the size.
    middle = int(np.searchsorted(found.sizes, 2048))
    assert found.mean[0, 0, middle] == pytest.approx(1 + 1.2 * 0.75, rel=1e-3)
    assert (np.diff(found.mean[0], axis=1) > 0).all()


def test_rounds_behind_the_rates_give_an_interval():
    found = of_profile({"rates": [0.8, 0.5], "num_drafts": 400}, DRAFT, "here")
    draws = found.mean[1:, :, 0]
    # Two standard errors of a share of 400.
    assert found.has_interval and draws[:, 0].std() == pytest.approx(np.sqrt(0.8 * 0.2 / 400), rel=0.25)
    assert draws.mean(axis=0) == pytest.approx([1.8, 2.3], abs=0.01)
    assert (np.diff(draws, axis=1) >= 0).all() and (draws <= [2, 3]).all()


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({}, "give either rates or mean_acceptance_length"),
        ({"rates": [0.5], "mean_acceptance_length": {1: 1.5}}, "give either"),
        ({"rates": [0.5, 0.6]}, "never rising"),
        ({"rates": [1.5]}, "between 0 and 1"),
        ({"rates": [float("nan"), 0.3]}, "between 0 and 1"),
        ({"mean_acceptance_length": {2: float("nan")}}, "between 1 and the draft length"),
        ({"rates": []}, "never rising"),
        ({"rates": ["many"]}, "a value is not a number"),
        ({"mean_acceptance_length": [2.1]}, "has the wrong form"),
        ({"mean_acceptance_length": {2: 3.5}}, "between 1 and the draft length"),
        ({"rates": [0.5], "vocab_size": 10**6}, "vocab_size 1,000,000"),
        ({"rates": [0.5], "acceptance_rate_by_size": {}}, "acceptance_rate_by_size"),
        ({"rates": [0.5], "acceptance_rate_by_size": {100: 0.0}}, "acceptance_rate_by_size"),
        ({"rates": [0.5], "temperature": 1}, "temperature is unknown; known are"),
    ],
)
def test_a_profile_that_says_nothing_or_nonsense_is_refused(values, part):
    with pytest.raises(ConfigError, match=f"^predict.profile=p.yaml: .*{part}"):
        of_profile(values, DRAFT, "predict.profile=p.yaml")


def test_a_replay_is_of_all_prompts_and_draws_are_of_whole_ones():
    # Nothing is accepted below 10 tokens, and all from there on; the other prompt needs 40.
    items = [intervals(10, 9), intervals(40, 9)]
    found = of_replay(items, 2, np.array([8, 20, 50]), 0, "here")
    assert found.draft_lengths == (1, 2) and found.has_interval
    # At 20 tokens: 8 tokens in 3 rounds of one prompt, in 8 of the other.
    assert found.mean[0, 1] == pytest.approx([1, 1 + (3 * 2) / (3 + 8), 3])
    assert set(np.unique(found.mean[1:, 1, 1].round(6))) == {1.0, round(17 / 11, 6), 3.0}


def test_sizes_are_close_and_suit_kernels():
    sizes = spread(100, 32_000)
    assert (sizes[0], sizes[-1]) == (256, 32_000) and len(sizes) > 80
    large = sizes[sizes > 2048]
    assert (large % 64 == 0).all() and (np.diff(sizes) > 0).all()
