"""Chains in one lap give the latency that laps of their parts would."""

from dataclasses import replace

import numpy as np
import pytest

from bench.records import ProbeRecord
from bench.surface.latency import RoundLatency

HEAD_MS = {10: 1.0, 40: 1.5, 97: 4.0}
ONCE_MS = {1: 2.0, 3: 5.0, 4: 6.0}
PAIRS = [(10, 1), (40, 1), (97, 3), (40, 4), (10, 3), (97, 4)]


def probe(prompt, k, gamma, extra_ms=0.0):
    chain_ms = ONCE_MS[gamma] + gamma * HEAD_MS[k] + extra_ms
    laps = {"draft_prefill": [0.5], "draft": [chain_ms, chain_ms], "verify": [10.0 + gamma] * 2}
    return ProbeRecord("d", prompt, k, gamma, False, 0, {**laps, "other": [0.25, 0.25]})


def test_every_round_is_predicted_from_the_chains_of_some():
    latency = RoundLatency.from_probes([probe("p", k, gamma) for k, gamma in PAIRS])
    assert not latency.times_heads and not latency.only([0]).times_heads
    sizes, weights = np.array(sorted(HEAD_MS)), np.ones((1, 1))
    for gamma, once_ms in ONCE_MS.items():
        expected = [once_ms + gamma * HEAD_MS[k] + 10.0 + gamma + 0.25 for k in sizes]
        assert latency.round_ms(gamma, sizes, weights)[0] == pytest.approx(expected)
        # The chain of the last round has what others begin with too.
        assert latency.once_ms(gamma, weights)[0] == pytest.approx(0.5)


def test_a_slow_prompt_moves_the_sizes_that_it_was_probed_with():
    probes = [
        probe(prompt, k, gamma, 3.0 * (prompt == "slow")) for prompt in ("fast", "slow") for k, gamma in PAIRS
    ]
    latency = RoundLatency.from_probes(probes)
    sizes = latency.sizes
    both, slow = (latency.round_ms(3, sizes, np.array([w]))[0] for w in ([1.0, 1.0], [0.0, 2.0]))
    assert (slow > both).all()


def eager(prompt, k, gamma, whole_ms):
    """Three rounds, the last without extension, of which only the whole time says anything."""
    laps = {
        "draft_prefill": [0.5],
        "lm_head": [0.125] * 3 * gamma,
        "select": [0.125] * 3 * gamma,
        "layer": [0.25] * 3 * (gamma - 1),
        "verify": [whole_ms - gamma * 0.25 - (gamma - 1) * 0.25 - 1.5] * 3,
        "other": [0.5] * 3,
        "extend": [1.0] * 2,
    }
    return ProbeRecord("d", prompt, k, gamma, False, 0, laps)


WHOLE_MS = {(10, 1): 20.0, (40, 1): 20.0, (97, 1): 19.0, (10, 3): 30.0, (40, 3): 31.0, (97, 3): 36.0}


def test_whole_rounds_are_what_is_known_where_laps_overlap():
    probes = [eager("p", *pair, ms) for pair, ms in WHOLE_MS.items()]
    latency = RoundLatency.from_probes(probes, laps_overlap=True)
    assert not latency.times_heads and RoundLatency.from_probes(probes).times_heads
    sizes, weights = np.array([10, 25, 40, 97]), np.ones((1, 1))
    # Launches hide the head at gamma = 1, where the whole one even takes a launch less; not at gamma = 3.
    assert latency.round_ms(1, sizes, weights)[0] == pytest.approx([59 / 3, 59 / 3, 59 / 3, 19])
    assert latency.round_ms(3, sizes, weights)[0] == pytest.approx([30, 30.5, 31, 36])
    assert latency.once_ms(3, weights)[0] == pytest.approx(0.5 - 1.0)
    assert latency.only([0]).round_ms(3, sizes, weights)[0] == pytest.approx([30, 30.5, 31, 36])


def test_a_head_costs_what_rounds_take_beyond_those_of_the_smallest_where_laps_overlap():
    added = {(k, gamma): 20 + gamma * (2 + ms) for k, ms in HEAD_MS.items() for gamma in (1, 3)}
    probes = [eager("p", *pair, ms) for pair, ms in added.items()]
    latency = RoundLatency.from_probes(probes, laps_overlap=True)
    assert latency.head_ms(np.array(sorted(HEAD_MS)), np.ones((1, 1)))[0] == pytest.approx([0, 0.5, 3])
    short = [replace(p, laps_ms={"draft_prefill": [0.5], "verify": [9.0]}) for p in probes[:1]]
    again = RoundLatency.from_probes([*probes, *short], laps_overlap=True)
    assert again.round_ms(3, latency.sizes, np.ones((1, 1)))[0] == pytest.approx([29, 30.5, 38])
