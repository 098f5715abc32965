"""Chains in one lap give the latency that laps of their parts would."""

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
