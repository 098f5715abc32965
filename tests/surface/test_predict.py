from dataclasses import replace

import numpy as np
import pytest

from bench.acceptance import Intervals
from bench.surface.choice import BreakEven, lossless_size, planned_decodes
from bench.surface.latency import RoundLatency
from bench.surface.predict import predict
from bench.variant import Variant
from tests.surface.test_latency import probe

FULL = 64


def intervals(lowest, num_tokens, longest=2, high=FULL + 1):
    shape = (num_tokens - 1, longest)
    return Intervals(np.full(shape, lowest), np.full(shape, high))


def surface_of(found, heads=((8, 1.0), (FULL, 6.0)), gammas=(1, 2), noise=None):
    noise = noise or {}
    probes = [
        probe(p, size, gamma, ms + noise.get(p, 0.0)) for p in found for size, ms in heads for gamma in gammas
    ]
    return predict(found, RoundLatency.from_probes(probes), FULL, [20], 400, 0)


def test_speed_by_hand():
    surface = surface_of({"a": intervals(10, 9)})
    assert surface.sizes.tolist() == [1, 8, 10, 20, FULL]
    assert surface.best == (10, 2)
    # Eight tokens in rounds of 3, 3 and 2: prefill 4; three rounds of two heads, layer, verify 22, other 0.5;
    # two extensions of 3.
    head = 1.25 + 2 / 56 * 5
    assert surface.at(10, 2) == pytest.approx(8 / (4 + 3 * (2 * head + 2 + 22 + 0.5) + 2 * 3) * 1e3)
    assert surface.mean_acceptance_length[1].tolist() == [1, 1, 3, 3, 3]
    assert surface.acceptance_rate[1].tolist() == [0, 0, 1, 1, 1]
    assert surface.best_draft_length(FULL) == 2
    assert surface.is_confident[1].tolist() == [False, False, True, False, False]


def test_no_size_below_the_must_keep_set_is_advised():
    found = {"a": intervals(1, 9)}
    probes = [probe("a", size, gamma, ms) for size, ms in ((8, 1.0), (FULL, 6.0)) for gamma in (1, 2)]
    free = predict(found, RoundLatency.from_probes(probes), FULL, [20], 400, 0)
    assert free.best[0] == 1
    bound = predict(found, RoundLatency.from_probes(probes), FULL, [20], 400, 0, least_size=17)
    assert bound.sizes.tolist() == [17, 20, FULL] and bound.best == (17, free.best[1])


def test_what_costs_less_than_a_hundredth_more_is_as_good():
    # The head adds 0.4% of the time at 20 tokens and 2% at all 64, in every resample.
    surface = surface_of({"a": intervals(10, 9)}, heads=((8, 1.0), (FULL, 1.3)))
    assert surface.best == (10, 2)
    assert surface.is_confident[1].tolist() == [False, False, True, True, False]


def test_a_better_small_vocabulary_is_in_doubt_while_prompts_disagree():
    # One prompt needs 10 tokens, the other 40: which is faster depends on the prompts drawn.
    surface = surface_of({"a": intervals(10, 30), "b": intervals(40, 30)})
    confident = set(surface.sizes[surface.is_confident[1]].tolist())
    assert {10, 40} <= confident
    assert FULL not in confident
    # Whether the first prompt's text is fast at 10 is not known, so its interval there is wide.
    at = surface.column(10)
    assert surface.ci_low[1, at] < 0.7 * surface.tokens_per_s[1, at] < surface.ci_high[1, at]


def test_uncertain_latency_widens_the_interval():
    found = {p: intervals(10, 30) for p in "abcd"}
    sure = surface_of(found)
    unsure = surface_of(found, noise={"a": 2.0, "b": 1.0})
    at = sure.column(10)
    assert sure.ci_high[1, at] - sure.ci_low[1, at] == pytest.approx(0, abs=1e-3)
    assert unsure.ci_high[1, at] - unsure.ci_low[1, at] > 0.5


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Prompts differ in how often the draft is right: a half on average over all that there could be."""
    num_prompts, num_tokens, draws = 16, 41, 100
    probes = [probe(f"p{i}", size, 1, 1.0) for i in range(num_prompts) for size in (8, FULL)]
    latency = RoundLatency.from_probes(probes)
    rng = np.random.default_rng(0)

    def draw():
        right = rng.random((num_tokens - 1, 1)) < rng.uniform(0.2, 0.8)
        return Intervals(np.where(right, 1, FULL + 1), np.full((num_tokens - 1, 1), FULL + 1))

    rounds = np.mean([len(draw().accepted_by_round(1, 1)) for _ in range(4000)])
    truth = (num_tokens - 1) / (4 + rounds * (1.25 + 3 + 21 + 0.5) - 3) * 1e3
    hits = 0
    for _ in range(draws):
        surface = predict({p: draw() for p in latency.prompts}, latency, FULL, [], 300, 1)
        hits += surface.ci_low[0, -1] <= truth <= surface.ci_high[0, -1]
    # Percentile intervals of few prompts are a little short.
    assert 0.85 <= hits / draws <= 1.0


def test_what_is_decoded():
    surface = surface_of({"a": intervals(10, 9)})
    found = {p.variant.key: p.role for p in planned_decodes(surface, 20, [Variant(FULL, 1), Variant(10, 2)])}
    assert found == {
        (FULL, 0): "plain",
        (FULL, 2): "full",
        (10, 2): "optimum+lossless+extra",
        (20, 2): "paper",
        (10, 1): "extra",
        (FULL, 1): "extra",
    }
    assert lossless_size(surface, 2) == 10


def test_the_full_vocabulary_is_also_decoded_with_the_draft_length_of_the_optimum():
    surface = surface_of({"a": intervals(10, 9)})
    speeds = surface.tokens_per_s.copy()
    speeds[surface.draft_lengths.index(1), -1] = speeds[:, -1].max() + 0.1
    found = {p.variant.key: p.role for p in planned_decodes(replace(surface, tokens_per_s=speeds), 20, [])}
    assert (found[FULL, 1], found[FULL, 2], found[10, 2]) == ("full", "full", "optimum+lossless")


def test_break_even_by_hand():
    even = BreakEven(acceptance_ratio=0.9, head_ratio=0.25, head_share=0.5)
    assert even.gain == pytest.approx(0.9 * 1.5 / 1.125)
    assert even.least_acceptance_ratio == pytest.approx(0.75)
    assert BreakEven(0.75, 0.25, 0.5).gain == pytest.approx(1)


def test_the_interval_of_the_fastest_by_hand():
    # One prompt needs 10 tokens, the other 40; resamples draw the first alone, the second alone, or both.
    surface = surface_of({"a": intervals(10, 30), "b": intervals(40, 30)})
    assert set(surface.resampled_best[:, 0].tolist()) == {10, 40}
    assert set(surface.resampled_best[:, 1].tolist()) == {2}
    assert surface.best_intervals == ((10, 40), (2, 2))
    # The same prompt over and over leaves no doubt.
    assert surface_of({"a": intervals(10, 9)}).best_intervals == ((10, 10), (2, 2))
