from dataclasses import replace

import numpy as np
import pytest

from bench.records import ProbeRecord
from bench.surface import latency as module
from bench.surface.latency import RoundLatency
from bench.surface.pace import LEAST_STRETCHES, Pace


@pytest.fixture(autouse=True)
def few_stretches(monkeypatch):
    """Times by hand are of few prompts."""
    monkeypatch.setattr(module, "LEAST_STRETCHES", 1)


def probe(prompt, size, gamma, head_ms, verify_ms=20.0, rounds=2, select_ms=0.25, layer_ms=2.0):
    laps = {
        "draft_prefill": [4.0],
        "lm_head": [head_ms] * gamma * rounds,
        "select": [select_ms] * gamma * rounds,
        "layer": [layer_ms] * (gamma - 1) * rounds,
        "verify": [verify_ms + gamma] * rounds,
        "other": [0.5] * rounds,
        "extend": [3.0] * (rounds - 1),
    }
    return ProbeRecord("code", prompt, size, gamma, False, 1, laps)


def plain(prompt, step_ms, steps=3):
    return ProbeRecord("code", prompt, 64, 0, False, 1, {"verify": [step_ms] * steps})


def one(num_prompts):
    return np.ones((1, num_prompts))


def test_parts_by_hand():
    latency = RoundLatency.from_probes([probe("a", 8, 1, 1.0), probe("a", 64, 3, 5.0)])
    assert latency.sizes.tolist() == [8, 64] and latency.draft_lengths.tolist() == [1, 3]
    assert latency.prefill_ms.tolist() == [4.0]
    # Constant below the smallest size, a straight line between the two.
    assert latency.head_ms(np.array([1, 8, 36, 64]), one(1))[0] == pytest.approx([1.25, 1.25, 3.25, 5.25])
    assert latency.fixed_ms(1, one(1)) == pytest.approx([3 + 21 + 0.5])
    assert latency.fixed_ms(3, one(1)) == pytest.approx([3 + 23 + 0.5])
    assert latency.round_ms(1, np.array([8]), one(1))[0] == pytest.approx([1.25 + 24.5])
    assert latency.round_ms(3, np.array([36]), one(1))[0] == pytest.approx([3 * 3.25 + 2 * 2 + 26.5])
    assert latency.once_ms(3, one(1)) == pytest.approx([4 - 3.0])
    assert latency.plain_ms(one(1)) is None


def test_a_head_never_gets_cheaper_as_it_grows():
    probes = [probe("a", size, 2, ms) for size, ms in ((8, 1.0), (16, 3.0), (32, 2.0), (64, 4.0))]
    found = RoundLatency.from_probes(probes).head_ms(np.array([8, 16, 32, 64]), one(1))[0]
    assert found == pytest.approx([1.25, 2.75, 2.75, 4.25])


def test_the_layer_costs_more_among_larger_heads_and_never_less():
    layers = {8: 1.0, 16: 3.0, 32: 2.0, 64: 4.0}
    probes = [probe("a", size, 3, 1.0, layer_ms=ms) for size, ms in layers.items()]
    latency = RoundLatency.from_probes(probes)
    sizes = np.array([1, 8, 12, 16, 32, 48, 64])
    assert latency.layer_ms(sizes, one(1))[0] == pytest.approx([1, 1, 1.75, 2.5, 2.5, 3.25, 4])
    # Two layers a round of three; the rest is the same.
    rounds = latency.round_ms(3, np.array([8, 64]), one(1))[0]
    assert rounds[1] - rounds[0] == pytest.approx(2 * (4 - 1))


def test_as_measured_means_fall_where_they_did():
    sizes, heads = np.array([8, 12, 16, 32, 64]), {8: 1.0, 16: 3.0, 32: 2.0, 64: 4.0}
    latency = RoundLatency.from_probes([probe("a", k, 2, ms, layer_ms=ms) for k, ms in heads.items()])
    found = latency.head_ms(sizes, one(1), as_measured=True)[0]
    assert found == pytest.approx([1.25, 2.25, 3.25, 2.25, 4.25])
    assert latency.layer_ms(sizes, one(1), as_measured=True)[0] == pytest.approx([1, 2, 3, 2, 4])
    rounds = latency.round_ms(2, sizes, one(1), as_measured=True)[0]
    assert rounds[2:4] - rounds[0] == pytest.approx([2 * 2 + 2, 2 * 1 + 1])


def test_layers_of_sizes_with_more_samples_count_for_more():
    probes = [probe("a", 8, 4, 1.0, layer_ms=3.0), probe("a", 64, 2, 1.0, layer_ms=1.0)]
    # Six samples of 3 ms and two of 1 ms: not lower among the larger head, so one mean.
    latency = RoundLatency.from_probes(probes)
    assert latency.layer_ms(np.array([8, 64]), one(1))[0] == pytest.approx([2.5, 2.5])


def test_a_size_that_was_never_chained_takes_its_neighbours_layer():
    probes = [
        probe("a", 8, 3, 1.0, layer_ms=1.0),
        probe("a", 16, 1, 1.0),
        probe("a", 64, 3, 1.0, layer_ms=4.0),
    ]
    found = RoundLatency.from_probes(probes).layer_ms(np.array([8, 36, 64]), one(1))[0]
    assert found == pytest.approx([1, 2.5, 4])


def test_without_chained_steps_there_is_no_layer():
    latency = RoundLatency.from_probes([probe("a", 8, 1, 1.0), probe("a", 64, 1, 2.0)])
    assert latency.layer_ms(np.array([8, 64]), one(1)).tolist() == [[0, 0]]
    assert latency.round_ms(1, np.array([8]), one(1))[0] == pytest.approx([1.25 + 24.5])


def test_resamples_weigh_prompts():
    probes = [probe(p, size, 2, ms) for p, ms in (("a", 1.0), ("b", 3.0)) for size in (8, 64)]
    latency = RoundLatency.from_probes(probes)
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert latency.head_ms(np.array([8]), weights)[:, 0] == pytest.approx([2.25, 1.25, 3.25])


def test_what_a_resample_lacks_takes_the_mean_of_all():
    # The second prompt's answers ended in their first round: it never extends.
    probes = [probe("a", 8, 2, 1.0), probe("b", 8, 2, 1.0, rounds=1)]
    latency = RoundLatency.from_probes(probes)
    assert latency.once_ms(2, np.array([[0.0, 2.0]])) == pytest.approx([4 - 3.0])


def test_plain_steps_and_parts_of_some_blocks():
    probes = [probe("a", 8, 2, 1.0), probe("b", 8, 2, 3.0), plain("a", 20.0), plain("b", 26.0, steps=1)]
    latency = RoundLatency.from_probes(probes)
    assert latency.draft_lengths.tolist() == [2]
    weights = np.array([[1.0, 1.0], [0.0, 1.0]])
    assert latency.plain_ms(weights) == pytest.approx([(3 * 20 + 26) / 4, 26])
    second = latency.only([1])
    assert second.blocks == ["b"] and second.num_blocks == 1
    assert second.plain_ms(one(1)) == pytest.approx([26])
    assert second.head_ms(np.array([8]), one(1))[0] == pytest.approx([3.25])


def at(probe, order, process=0):
    return replace(probe, order=order, process=process)


def test_what_depends_on_k_is_of_all_domains_and_the_rest_of_one():
    own = [at(probe("b", k, 2, ms, verify_ms=20.0), 3) for k, ms in ((8, 1.0), (64, 5.0))]
    own += [at(probe("a", k, 2, ms, verify_ms=22.0), 9) for k, ms in ((8, 1.0), (64, 7.0))]
    other = [at(probe(p, k, 2, 3.0, verify_ms=90.0), i) for i, p in enumerate("xyzw") for k in (8, 64)]
    latency = RoundLatency.from_probes(own, others=[other])
    # Blocks are in the order of time, and take half of the other domain's prompts each.
    assert latency.blocks == ["b", "a"]
    weights = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    # One prompt of the domain's own and two of 3 ms, and 0.25 ms of selection.
    expected = [[(1 + 3 + 3) / 3, (6 + 3 + 3) / 3], [7 / 3, 11 / 3], [7 / 3, 13 / 3]]
    assert latency.head_ms(np.array([8, 64]), weights) == pytest.approx(np.array(expected) + 0.25)
    assert latency.fixed_ms(2, weights) == pytest.approx([3 + 0.5 + 23, 3 + 0.5 + 22, 3 + 0.5 + 24])
    assert latency.num_blocks == 2 and latency.plain_ms(one(2)) is None


def test_a_layer_is_that_of_all_domains_and_a_constant_of_its_own():
    own = [probe("a", k, 2, 1.0, layer_ms=ms) for k, ms in ((8, 3.0), (64, 4.0))]
    other = [probe("x", k, 2, 1.0, layer_ms=ms) for k, ms in ((8, 1.0), (64, 4.0))]
    # Of both (2, 4) and half a millisecond, so that the domain's own time is the same in all.
    found = RoundLatency.from_probes(own, others=[other]).layer_ms(np.array([8, 64]), one(1))[0]
    assert found == pytest.approx([2.5, 4.5])


def test_verification_is_that_of_all_domains_and_a_constant_of_its_own():
    own = [probe("a", 8, gamma, 1.0, verify_ms=ms) for gamma, ms in ((1, 22.0), (3, 23.0))]
    other = [probe("x", 8, gamma, 1.0, verify_ms=ms) for gamma, ms in ((1, 14.0), (3, 19.0))]
    latency = RoundLatency.from_probes(own, others=[other])
    # Of both (19, 24) and three milliseconds beyond; extension and the rest take 3.5 ms.
    found = [latency.fixed_ms(gamma, one(1))[0] for gamma in (1, 3)]
    assert found == pytest.approx([19 + 3 + 3.5, 24 + 3 + 3.5])


def test_processes_are_blocks_of_all_domains():
    own = [at(probe("a", 8, 2, ms), 1, process) for process, ms in enumerate((1.0, 2.0))]
    other = [at(probe(p, 8, 2, ms), 1, process) for process, ms in enumerate((3.0, 6.0, 9.0)) for p in "xy"]
    latency = RoundLatency.from_probes(own, others=[other])
    # The third process has not probed this domain yet.
    assert latency.blocks == ["0", "1"]
    found = latency.head_ms(np.array([8]), np.eye(2))[:, 0]
    assert found == pytest.approx([0.25 + (1 + 3 + 3) / 3, 0.25 + (2 + 6 + 6) / 3])
    assert RoundLatency.from_probes(own, True, others=[other]).blocks == ["a"]


def test_a_domain_with_fewer_prompts_than_others_has_blocks_of_several_of_theirs():
    own = [at(probe(p, 8, 2, 1.0), i) for i, p in enumerate("ab")]
    other = [at(probe(p, 8, 2, ms), i) for i, (p, ms) in enumerate(zip("vwxyz", range(5), strict=True))]
    found = RoundLatency.from_probes(own, others=[other]).head_ms(np.array([8]), np.eye(2))[:, 0]
    assert found == pytest.approx([0.25 + (1 + 0 + 1 + 2) / 4, 0.25 + (1 + 3 + 4) / 3])
    fewer = RoundLatency.from_probes(other, others=[own]).head_ms(np.array([8]), np.eye(5))[:, 0]
    assert fewer == pytest.approx([0.25 + ms for ms in (0.5, 1, 1.5, 3, 4)])


def at_paces(whole_ms, small_ms, domain="code", beyond=0.0):
    """A prompt for each time of the whole head and of the small one, on which every other part depends."""
    return [
        replace(found, domain=domain)
        for place, (w, s) in enumerate(zip(whole_ms, small_ms, strict=True))
        for found in (
            *(
                probe(
                    f"p{place}", k, g, w if k == 64 else s, verify_ms=beyond + 4 * w + 10 * s, layer_ms=w + s
                )
                for k in (8, 64)
                for g in (1, 2)
            ),
            plain(f"p{place}", beyond + 3 * w + 8 * s),
        )
    ]


def at_speeds(whole_ms, domain="code", beyond=0.0):
    """The small head always takes 1 ms."""
    return at_paces(whole_ms, [1.0] * len(whole_ms), domain, beyond)


@pytest.mark.parametrize("pace", [Pace(2.0, 1.0), Pace(2.5, 1.5), Pace(4.0, 0.9)])
def test_all_parts_are_had_at_the_pace_of_elsewhere(pace):
    probes = at_paces([2.0, 2.5, 4.0, 3.0], [1.0, 0.9, 1.2, 1.5])
    latency = RoundLatency.from_probes(probes, reference=pace)
    assert latency.reference == pace
    assert latency.paces == pytest.approx(np.array([[2.0, 1.0], [2.5, 0.9], [4.0, 1.2], [3.0, 1.5]]))
    # Whichever prompts there are, as long as there are three.
    whole, small = pace.times
    weights = np.array([[1.0, 1, 1, 1], [1, 1, 1, 0], [0, 1, 2, 5]])
    heads = latency.head_ms(np.array([8, 64]), weights)
    assert heads == pytest.approx(np.array([[small + 0.25, whole + 0.25]] * 3))
    assert latency.layer_ms(np.array([8, 64]), weights) == pytest.approx(np.full((3, 2), whole + small))
    assert latency.fixed_ms(2, weights) == pytest.approx([3 + 0.5 + 2 + 4 * whole + 10 * small] * 3)
    assert latency.plain_ms(weights) == pytest.approx([3 * whole + 8 * small] * 3)


def test_small_heads_are_those_of_an_eighth_each_as_long_as_in_all_stretches():
    probes = [
        probe(place, k, 1, ms)
        for place, times in {"a": (1.0, 2.0, 6.0), "b": (1.5, 3.0, 7.0)}.items()
        for k, ms in zip((4, 8, 64), times, strict=True)
    ]
    probes += [probe("c", k, 1, ms) for k, ms in ((8, 4.0), (32, 9.0), (64, 8.0))]
    # The smallest takes 1.25 ms on average, the next one 3 ms: they took 3 of 4.25, 4.5 of 4.25, and 4 of 3.
    small = 4.25 / 2 * np.array([3 / 4.25, 4.5 / 4.25, 4 / 3])
    paces = RoundLatency.from_probes(probes).paces
    assert paces == pytest.approx(np.array([[6.0, small[0]], [7.0, small[1]], [8.0, small[2]]]))


def test_without_small_heads_the_whole_one_tells_the_pace():
    probes = [p for p in at_speeds([2.0, 2.5, 4.0]) if p.vocab_size == 64 or not p.draft_length]
    for wanted in (Pace(3.0, None), Pace(3.0, 1.0)):
        latency = RoundLatency.from_probes(probes, reference=wanted)
        assert latency.reference == Pace(3.0, None) and latency.plain_ms(one(3)) == pytest.approx(
            [8 + 3 * 3.0]
        )
    # A run of an earlier version named no small heads: those stay as they were.
    latency = RoundLatency.from_probes(at_paces([2.0, 2.5, 4.0], [1.0, 0.9, 1.4]), reference=Pace(3.0, None))
    assert latency.reference.small_heads_ms == pytest.approx(1.1)
    assert latency.plain_ms(one(3)) == pytest.approx([3 * 3.0 + 8 * 1.1])


def test_no_time_is_had_at_a_speed_that_was_not_met():
    for wanted, nearest in ((1.0, 2.0), (9.0, 3.0)):
        latency = RoundLatency.from_probes(at_speeds([2.0, 3.0]), reference=Pace(wanted, 1.0))
        assert latency.reference == Pace(nearest, 1.0)
        assert latency.plain_ms(one(2)) == pytest.approx([8 + 3 * nearest])


def test_without_a_reference_and_without_a_change_times_are_means():
    as_it_was = RoundLatency.from_probes(at_speeds([2.0, 3.0]))
    assert as_it_was.reference is None and as_it_was.plain_ms(one(2)) == pytest.approx([8 + 3 * 2.5])
    steady = RoundLatency.from_probes(at_speeds([2.0, 2.0]), reference=Pace(5.0, 2.0))
    assert steady.reference == Pace(2.0, 1.0) and steady.plain_ms(one(2)) == pytest.approx([14.0])


def test_other_domains_lend_their_slope_and_keep_their_constant():
    own, other = at_speeds([2.0, 2.0]), at_speeds([2.0, 4.0], "chat", beyond=7.0)
    latency = RoundLatency.from_probes(own, others=[other], reference=Pace(4.0, 1.0))
    assert latency.paces[:, 0].tolist() == [2, 2, 2, 4]
    assert latency.fixed_ms(2, one(2)) == pytest.approx([3 + 0.5 + 2 + 10 + 4 * 4])


def test_a_domain_with_few_prompts_keeps_its_own_pace(monkeypatch):
    monkeypatch.setattr(module, "LEAST_STRETCHES", LEAST_STRETCHES)
    paces, other = [2.0, 3.0, 4.0, 5.0, 6.0] * 3, at_speeds([2.0, 3.0] * 9, "chat")
    few, enough = (at_speeds([*paces, *more]) for more in ([], [4.0]))
    assert RoundLatency.from_probes(few, others=[other], reference=Pace(3.0, 1.0)).reference is None
    assert RoundLatency.from_probes(enough, reference=Pace(3.0, 1.0)).reference == Pace(3.0, 1.0)


def test_where_heads_have_no_time_there_is_no_reference():
    probes = [replace(p, laps_ms={**p.laps_ms, "draft": [1.0]}) for p in at_speeds([2.0, 3.0])]
    latency = RoundLatency.from_probes(probes, reference=Pace(2.0, 1.0))
    assert latency.reference is None and latency.paces.size == 0


def test_a_prompt_without_the_whole_head_counts_as_an_average_one():
    """A process that was cut off may have left one."""
    whole = at_speeds([2.0, 4.0])
    cut = [replace(p, prompt_id="p9") for p in at_speeds([3.0]) if p.vocab_size == 8 and p.draft_length]
    latency = RoundLatency.from_probes([*whole, *cut], reference=Pace(4.0, 1.0))
    assert latency.fixed_ms(2, one(3)) == pytest.approx([3 + 0.5 + 2 + 10 + 4 * 4])
