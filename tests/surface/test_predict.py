import numpy as np
import pytest

from bench.acceptance import Intervals
from bench.config.run import AdviceRule
from bench.surface.choice import (
    advise,
    cross_fitted_gain,
    lossless_size,
    planned_decodes,
    shared_draft_length,
)
from bench.surface.latency import RoundLatency
from bench.surface.predict import Surface, predict
from bench.variant import Variant
from tests.surface.test_latency import plain, probe

FULL = 64


def intervals(lowest, num_tokens, longest=2, high=FULL + 1):
    shape = (num_tokens - 1, longest)
    return Intervals(np.full(shape, lowest), np.full(shape, high))


def latency_of(blocks, heads=((8, 1.0), (FULL, 6.0)), gammas=(1, 2), noise=None, plain_ms=20.0):
    """Block by block; `noise` is added to every head of a block, and to its plain steps."""
    noise = noise or {}
    probes = [probe(b, size, g, ms + noise.get(b, 0.0)) for b in blocks for size, ms in heads for g in gammas]
    return RoundLatency.from_probes([*probes, *(plain(b, plain_ms + noise.get(b, 0.0)) for b in blocks)])


def surface_of(found, **latency):
    return predict(found, latency_of(found, **latency), FULL, [16, 20, 32, 48])


def test_speed_by_hand():
    surface = surface_of({"a": intervals(10, 9)})
    assert surface.sizes.tolist() == [1, 8, 10, 16, 20, 32, 48, FULL]
    assert surface.fastest == Variant(10, 2)
    # Eight tokens in rounds of 3, 3 and 2: prefill 4; three rounds of two heads, layer, verify 22, other 0.5;
    # two extensions of 3.
    head = 1.25 + 2 / 56 * 5
    speed = 8 / (4 + 3 * (2 * head + 2 + 22 + 0.5) + 2 * 3) * 1e3
    assert surface.at(Variant(10, 2)) == pytest.approx(speed)
    assert surface.mean_acceptance_length[1].tolist() == [1, 1, 3, 3, 3, 3, 3, 3]
    assert surface.acceptance_rate[1].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert surface.full == Variant(FULL, 2)
    # Plain decoding takes 20 ms a token.
    over = surface.speed(Variant(10, 2)).over(surface.speed(Variant(FULL, 0)))
    assert over.value == pytest.approx(speed / 50)


def test_the_full_vocabulary_is_better_at_another_draft_length_only_where_that_is_sure():
    """Two tokens a round are faster where all is accepted; where half of it is, that may be chance."""
    sure = surface_of({"a": intervals(10, 9), "b": intervals(10, 17)})
    assert sure.is_full_better_at_another(1) and not sure.is_full_better_at_another(2)
    plan = planned_decodes(sure, Variant(10, 1), 20, [])
    assert {(FULL, 1): "full", (FULL, 2): "full_best"}.items() <= {
        p.variant.key: p.role for p in plan
    }.items()
    open_ = surface_of({"a": intervals(10, 9), "b": intervals(FULL + 1, 9), "c": intervals(10, 5)})
    assert not open_.is_full_better_at_another(1) and not open_.is_full_better_at_another(2)


def test_no_size_below_the_must_keep_set_is_advised():
    found = {"a": intervals(1, 9)}
    assert surface_of(found).fastest.vocab_size == 1
    bound = predict(found, latency_of("a"), FULL, [20], least_size=17)
    assert bound.sizes.tolist() == [17, 20, FULL] and bound.fastest.vocab_size == 17


def test_acceptance_comes_from_more_prompts_than_latency():
    found = {"a": intervals(10, 9), "b": intervals(40, 9), "c": intervals(10, 5)}
    surface = predict(found, latency_of(["b"]), FULL, [])
    # 3 + 8 + 2 rounds over all prompts at 10 tokens; the latency of the one block for all of them.
    head = 1.25 + 2 / 56 * 5
    total_ms = 13 * (2 * head + 2 + 22 + 0.5 + 3) + 3 * (4 - 3)
    assert surface.at(Variant(10, 2)) == pytest.approx(20 / total_ms * 1e3)
    assert surface.prompt_left_out.shape == (3, 2, len(surface.sizes))
    assert surface.block_left_out.shape == (1, 2, len(surface.sizes))


def test_what_is_left_out_is_the_surface_without_it():
    found = {"a": intervals(10, 9), "b": intervals(40, 30), "c": intervals(10, 21)}
    noise = {"a": 0.0, "b": 1.0, "c": 3.0}
    surface = surface_of(found, noise=noise)
    rest = {name: item for name, item in found.items() if name != "b"}
    for without, left_out in (
        (
            predict(rest, latency_of("abc", noise=noise), FULL, surface.sizes.tolist()),
            surface.prompt_left_out,
        ),
        (predict(found, latency_of("ac", noise=noise), FULL, surface.sizes.tolist()), surface.block_left_out),
    ):
        change = np.log(without.tokens_per_s / surface.tokens_per_s)
        assert left_out[1] == pytest.approx(change, abs=1e-6)
    plain_change = np.log((20 + 4 / 3) / (20 + 1.5))
    assert surface.plain.left_out[1][1] == pytest.approx(plain_change)


def test_what_two_variants_share_cancels_in_their_ratio():
    """The state of the machine moves every part alike: absolute speed is unsure, the gain is not."""
    blocks = {b: intervals(10, 30) for b in "abcd"}
    probes = []
    for state, b in zip((1.0, 1.3, 0.9, 1.1), blocks, strict=True):
        for size, ms in ((8, 1.0), (FULL, 6.0)):
            laps = {k: [x * state for x in v] for k, v in probe(b, size, 2, ms).laps_ms.items()}
            probes.append(probe(b, size, 2, ms).__class__("code", b, size, 2, False, 1, laps))
    surface = predict(blocks, RoundLatency.from_probes(probes), FULL, [])
    assert surface.half_widths.max() > 0.1
    gain = surface.speed(Variant(10, 2)).over(surface.speed(Variant(FULL, 2)))
    assert gain.ci_high / gain.ci_low == pytest.approx(1, abs=1e-6)


def test_sizes_that_cost_less_than_a_hundredth_more_are_as_good():
    # The head adds 0.4% of the time at 20 tokens and 2% at all 64.
    found = {"a": intervals(10, 9), "b": intervals(10, 9)}
    surface = surface_of(found, heads=((8, 1.0), (FULL, 1.3)))
    assert surface.fastest == Variant(10, 2)
    equal = surface.sizes[surface.is_equal[1]]
    assert {10, 16, 20}.issubset(equal.tolist()) and FULL not in equal


def test_a_better_small_vocabulary_is_in_doubt_while_prompts_disagree():
    # Half of them are right from 10 to 39 tokens only, the others from 40 on.
    found = {f"p{i}": intervals(10, 30, high=40) if i % 2 else intervals(40, 30) for i in range(6)}
    surface = surface_of(found, heads=((8, 1.0), (FULL, 1.5)))
    assert {10, 40} <= set(surface.sizes[surface.is_equal[1]].tolist())


def test_one_prompt_leaves_everything_open():
    surface = surface_of({"a": intervals(10, 9)})
    assert surface.is_equal.all()


def test_rules_of_advice():
    found = {"a": intervals(10, 9), "b": intervals(10, 9)}
    surface = predict(found, latency_of(found, heads=((8, 1.0), (FULL, 1.3))), FULL, [], multiple=8)
    of = {rule: advise(surface, rule, 8) for rule in AdviceRule}
    # 10 is no multiple of 8; 16 to 32 cost less than a hundredth more than it and 40 to 64 do not; 24 costs
    # less than half a hundredth more than 16, and 32 does not.
    assert of[AdviceRule.fastest].variant == Variant(16, 2)
    assert of[AdviceRule.robust].variant == Variant(24, 2)
    assert of[AdviceRule.smallest].variant == Variant(16, 2)
    assert {(a.smallest, a.largest) for a in of.values()} == {(16, 32)}


@pytest.mark.parametrize(("of_longer", "size"), [((99.7, 99.6, 99.4), 32), ((99.7, 99.4, 99.3), 16)])
def test_draft_length_and_size_together_lose_at_most_half_of_a_hundredth(of_longer, size):
    """The second of three draft lengths is in the middle; its sizes are held against the fastest of all."""
    sizes, nothing = np.array([16, 32, FULL]), np.zeros((2, 3, 3), np.float32)
    speeds = np.array([[100.0, 100.0, 100.0], of_longer, [99.2, 99.2, 99.2]])
    once = np.ones((3, 3))
    surface = Surface(sizes, [1, 2, 3], speeds, once, once, 9, nothing, nothing, None)
    assert advise(surface, AdviceRule.robust, 1).variant == Variant(size, 2)


def test_advice_keeps_to_the_least_size_and_may_be_the_whole_vocabulary():
    found = {"a": intervals(10, 9), "b": intervals(10, 9)}
    bound = predict(found, latency_of(found), FULL, [], least_size=20, multiple=1)
    assert bound.sizes.tolist() == list(range(20, FULL + 1))
    assert advise(bound, AdviceRule.smallest, 1).variant == Variant(20, 2)
    whole = surface_of({"a": intervals(FULL, 9), "b": intervals(FULL, 9)})
    assert advise(whole, AdviceRule.robust, 8).variant == Variant(FULL, 2)


def test_a_draft_length_near_the_fastest_is_advised_with_the_sizes_that_are_good_for_it():
    # gamma = 1 is half a hundredth slower at its best, and as good over all sizes; gamma = 2 at one.
    found = {p: intervals(1, 9) for p in "ab"}
    surface = surface_of(found)
    speeds = surface.tokens_per_s.copy()
    speeds[0], speeds[1] = 99.5, 50.0
    speeds[1, surface.column(16)] = 100.0
    flat = type(surface)(**{**vars(surface), "tokens_per_s": speeds})
    assert advise(flat, AdviceRule.robust, 1).variant == Variant(FULL, 1)
    assert advise(flat, AdviceRule.fastest, 1).variant == Variant(16, 2)
    # More than half a hundredth slower at its best, it is no longer advised.
    speeds[0] = 99.4
    assert advise(flat, AdviceRule.robust, 1).variant == Variant(16, 2)


def test_a_chance_winner_loses_its_lead_when_others_judge():
    """Sizes are all equal; each half of the prompts prefers one of them by chance."""
    a = {f"a{i}": intervals(10, 30, high=40) for i in range(3)}
    b = {f"b{i}": intervals(40, 30) for i in range(3)}
    first, second = surface_of(a, heads=((8, 1.0), (FULL, 1.0))), surface_of(b, heads=((8, 1.0), (FULL, 1.0)))

    full = Variant(FULL, 2)
    naive = surface_of(a, heads=((8, 1.0), (FULL, 1.0)))
    assert naive.speed(Variant(10, 2)).over(naive.speed(Variant(FULL, 2))).value > 1.5
    fitted = cross_fitted_gain([((first.fastest, full), second), ((second.fastest, full), first)])
    assert fitted.value < 1


def test_what_is_decoded():
    surface = surface_of({"a": intervals(10, 9)})
    plan = planned_decodes(surface, Variant(16, 2), 20, [Variant(FULL, 1), Variant(16, 2)])
    assert {p.variant.key: p.role for p in plan} == {
        (FULL, 0): "plain",
        (FULL, 2): "full",
        (16, 2): "optimum+extra",
        (20, 2): "paper",
        (FULL, 1): "extra",
    }
    assert lossless_size(surface, 2) == 10


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Prompts differ in how often the draft is right: a half on average over all that there could be."""
    num_prompts, num_tokens, draws = 16, 41, 200
    latency = latency_of(["a", "b"], heads=((8, 1.0), (FULL, 1.0)), gammas=(1,))
    rng = np.random.default_rng(0)

    def draw():
        right = rng.random((num_tokens - 1, 1)) < rng.uniform(0.2, 0.8)
        return Intervals(np.where(right, 1, FULL + 1), np.full((num_tokens - 1, 1), FULL + 1))

    rounds = np.mean([len(draw().accepted_by_round(Variant(1, 1))) for _ in range(4000)])
    truth = (num_tokens - 1) / (4 + rounds * (1.25 + 3 + 21 + 0.5) - 3) * 1e3
    hits = 0
    for _ in range(draws):
        surface = predict({f"p{i}": draw() for i in range(num_prompts)}, latency, FULL, [])
        off = abs(np.log(truth / surface.tokens_per_s[0, -1]))
        hits += off <= surface.half_widths[0, -1]
    assert 0.91 <= hits / draws <= 0.99


def changed(surface, speeds):
    return type(surface)(**{**vars(surface), "tokens_per_s": speeds})


@pytest.mark.parametrize(
    ("speeds", "draft_length"),
    [
        ((100.0, 99.8, 99.2, 90.0), 2),
        ((99.2, 99.8, 100.0, 90.0), 2),
        ((99.2, 100.0, 90.0, 90.0), 2),
        ((100.0, 99.6, 90.0, 90.0), 1),
        ((99.2, 99.2, 99.2, 100.0), 4),
    ],
)
def test_the_draft_length_in_the_middle_of_the_good_ones_is_advised(speeds, draft_length):
    """A hundredth slower than the fastest is as good; only half of it is near enough to be advised."""
    nothing, once = np.zeros((2, 4, 1), np.float32), np.ones((4, 1))
    surface = Surface(
        np.array([FULL]), [1, 2, 3, 4], np.array(speeds)[:, None], once, once, 9, nothing, nothing, None
    )
    assert advise(surface, AdviceRule.robust, 1).variant.draft_length == draft_length


def of_lengths(*speeds):
    """A surface of one size, whose speeds are certain."""
    nothing, once = np.zeros((2, len(speeds), 1), np.float32), np.ones((len(speeds), 1))
    lengths, column = list(range(1, len(speeds) + 1)), np.array(speeds)[:, None]
    return Surface(np.array([FULL]), lengths, column, once, once, 9, nothing, nothing, None)


@pytest.mark.parametrize(
    ("domains", "shared"),
    [
        # Good in two of three domains; in all of them; in each of its own, where the fastest over all wins.
        (((90.0, 99.2, 100.0), (100.0, 99.2, 90.0), (100.0, 90.0, 90.0)), 1),
        (((90.0, 99.2, 100.0), (100.0, 99.2, 90.0)), 2),
        (((90.0, 80.0, 100.0), (100.0, 80.0, 89.0)), 1),
        (((90.0, 99.0, 100.0),), None),
    ],
)
def test_domains_share_the_draft_length_that_is_good_in_most(domains, shared):
    assert shared_draft_length([of_lengths(*speeds) for speeds in domains]) == shared


def test_a_shared_draft_length_is_advised_wherever_it_is_as_good():
    surface = of_lengths(100.0, 99.2, 90.0)
    robust, smallest, fastest = AdviceRule.robust, AdviceRule.smallest, AdviceRule.fastest
    assert [advise(surface, robust, 1, shared).variant.draft_length for shared in (None, 1, 2, 3)] == [
        1,
        1,
        2,
        1,
    ]
    assert advise(surface, smallest, 1, 2).variant.draft_length == 2
    assert advise(surface, fastest, 1, 2).variant.draft_length == 1


def test_a_draft_length_that_nearly_keeps_up_brings_in_no_size_that_is_slow_for_it():
    """Between draft lengths little is certain here, within one the sizes are."""
    found = {"a": intervals(10, 9), "b": intervals(12, 9)}
    surface = surface_of(found, heads=((8, 1.0), (FULL, 30.0)))
    row = surface.draft_lengths.index(2)
    slow = surface.tokens_per_s[row] < 0.9 * surface.tokens_per_s[row].max()
    below = np.zeros_like(surface.tokens_per_s) - 0.04
    noisy = type(surface)(
        **{
            **vars(surface),
            # Every prompt shifts one draft length against the other, and all sizes of it alike.
            "prompt_left_out": np.stack([below * [[1], [-1]], below * [[-1], [1]]]).astype(np.float32),
            "block_left_out": np.zeros_like(surface.block_left_out),
        }
    )
    assert slow.any() and not noisy.is_equal[row][slow].any()
    assert noisy.is_equal[0].any() and noisy.is_equal[1].any()
