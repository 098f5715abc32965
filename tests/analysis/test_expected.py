"""What decodes should come to: the replay's rounds as far as the texts are the same, then their own."""

from pathlib import Path

import numpy as np
import pytest

from bench.acceptance import Intervals
from bench.analysis.expected import expected_of
from bench.analysis.run import read_run
from bench.analysis.summary import summary_frame
from bench.analysis.surfaces import Surfaces
from bench.records import DecodeRecord, ReplayRecord
from bench.variant import Variant
from tests.surface.test_predict import latency_of

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5]
SMALL = Variant(8, 2)


class RunOf:
    """One prompt of one domain, replayed and decoded."""

    is_sampled = False

    def __init__(self, low: list[list[int]], text: list[int], accepted: list[int]):
        high = np.full((len(TEXT) - 1, 2), 65)
        replay = ReplayRecord("code", "a", "code", TEXT, np.array(low).tolist(), high.tolist(), 1.0)
        decode = DecodeRecord(
            "code", "a", *SMALL.key, order=1, num_prompt_tokens=1, token_ids=text, accepted=accepted,
            decode_ms=1.0, wall_ms=1.0, laps_ms={},
        )  # fmt: skip
        self.replays = {"code": {"code": {"a": replay}}}
        self.decodes, self.prompts = {"code": {SMALL: {"a": decode}}}, {"code": ["a"]}
        self.plans = {"code": type("Plan", (), {"source": "code"})}


# Drafted tokens are right, both of a round, but for the two that follow the fourth token.
LOW = [[1, 1], [1, 1], [1, 1], [65, 65], [1, 1], [1, 1], [1, 1], [1, 1]]
LATENCY = latency_of(["a", "b"])


def expected(text: list[int], accepted: list[int], low=LOW):
    return expected_of(RunOf(low, text, accepted), "code", LATENCY, SMALL)


def tokens_per_s(num_tokens: int, num_rounds: float) -> float:
    # Two heads of 1.25 ms, a layer, verification, the rest and extension; prefill, less one extension.
    return num_tokens / (num_rounds * (2 * 1.25 + 2 + 22 + 0.5 + 3) + 4 - 3) * 1e3


def test_the_replayed_text_takes_the_replays_rounds():
    assert Intervals(np.array(LOW), np.full((8, 2), 65)).accepted_by_round(SMALL) == [2, 0, 2, 2]
    found = expected(TEXT, [2, 0, 2, 0])
    assert (found.num_rounds, found.replayed_frac) == (4, 1)
    assert found.speed.estimate.value == pytest.approx(tokens_per_s(8, 4))
    assert found.as_replayed.estimate == found.speed.estimate
    assert found.mean_acceptance_length == pytest.approx(1 + 6 / 4)
    # However many rounds the decode took: the replay is what is tested.
    assert expected(TEXT, [0] * 8).speed.estimate == found.speed.estimate


def test_from_a_token_that_differs_rounds_are_those_of_the_decode():
    found = expected([*TEXT[:6], 7, 7, 7], [2, 0, 0, 0, 0, 0])
    # Three rounds end before the other token, with five tokens; the replay is then in its third round.
    assert found.num_rounds == pytest.approx(2 + 1 / 3 + 3)
    assert found.replayed_frac == 5 / 8
    assert found.speed.estimate.value == pytest.approx(tokens_per_s(8, 16 / 3))
    assert found.as_replayed.estimate.value == pytest.approx(tokens_per_s(8, 4))


def test_a_text_that_differs_from_its_second_token_on_has_rounds_of_its_own():
    found = expected([3, 8, 8, 8], [1, 0])
    assert (found.num_rounds, found.replayed_frac) == (2, 0)
    assert found.speed.estimate.value == pytest.approx(tokens_per_s(3, 2))


def test_the_replay_may_go_on_after_the_decode():
    found = expected(TEXT[:5], [2, 0])
    assert (found.num_rounds, found.replayed_frac) == (2, 1)
    assert found.speed.estimate.value == pytest.approx(tokens_per_s(4, 2))


def test_the_default_run_of_the_example_is_predicted_well():
    """Real decodes: most texts part from the replayed ones somewhere, as bfloat16 rounds."""
    surfaces = Surfaces(read_run(EXAMPLE))
    drafts = summary_frame(surfaces).query("draft_length > 0")
    assert drafts["prediction_error"].abs().mean() <= 0.03
    assert drafts["replayed_frac"].between(0.3, 1).all()
