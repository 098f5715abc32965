import numpy as np
import pytest

from bench.records import ProbeRecord
from bench.surface.latency import RoundLatency


def probe(prompt, size, gamma, head_ms, verify_ms=20.0, rounds=2, select_ms=0.25):
    laps = {
        "draft_prefill": [4.0],
        "lm_head": [head_ms] * gamma * rounds,
        "select": [select_ms] * gamma * rounds,
        "layer": [2.0] * (gamma - 1) * rounds,
        "verify": [verify_ms + gamma] * rounds,
        "other": [0.5] * rounds,
        "extend": [3.0] * (rounds - 1),
    }
    return ProbeRecord("code", prompt, size, gamma, False, 1, laps)


def one(num_prompts):
    return np.ones((1, num_prompts))


def test_parts_by_hand():
    latency = RoundLatency.from_probes([probe("a", 8, 1, 1.0), probe("a", 64, 3, 5.0)])
    assert latency.sizes.tolist() == [8, 64] and latency.draft_lengths.tolist() == [1, 3]
    assert latency.prefill_ms.tolist() == [4.0]
    # Constant below the smallest size, a straight line between the two.
    assert latency.head_ms(np.array([1, 8, 36, 64]), one(1))[0] == pytest.approx([1.25, 1.25, 3.25, 5.25])
    assert latency.fixed_ms(1, one(1)) == pytest.approx([3 + 21 + 0.5])
    assert latency.fixed_ms(3, one(1)) == pytest.approx([2 * 2 + 3 + 23 + 0.5])
    assert latency.extend_ms(3, one(1)) == pytest.approx([3.0])


def test_a_head_never_gets_cheaper_as_it_grows():
    probes = [probe("a", size, 2, ms) for size, ms in ((8, 1.0), (16, 3.0), (32, 2.0), (64, 4.0))]
    found = RoundLatency.from_probes(probes).head_ms(np.array([8, 16, 32, 64]), one(1))[0]
    assert found == pytest.approx([1.25, 2.75, 2.75, 4.25])


def test_resamples_weigh_prompts():
    probes = [probe(p, size, 2, ms) for p, ms in (("a", 1.0), ("b", 3.0)) for size in (8, 64)]
    latency = RoundLatency.from_probes(probes)
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert latency.head_ms(np.array([8]), weights)[:, 0] == pytest.approx([2.25, 1.25, 3.25])


def test_what_a_resample_lacks_takes_the_mean_of_all():
    # The second prompt's answers ended in their first round: it never extends.
    probes = [probe("a", 8, 2, 1.0), probe("b", 8, 2, 1.0, rounds=1)]
    latency = RoundLatency.from_probes(probes)
    assert latency.extend_ms(2, np.array([[0.0, 2.0]])) == pytest.approx([3.0])


def test_prompts_that_were_not_probed_take_the_mean():
    probes = [probe("a", 8, 2, 1.0), probe("b", 8, 2, 3.0)]
    latency = RoundLatency.from_probes(probes).spread_to(["c", "a"])
    assert latency.prompts == ["c", "a"]
    assert latency.head_ms(np.array([8]), np.array([[1.0, 0.0], [0.0, 1.0]]))[:, 0] == pytest.approx(
        [2.25, 1.25]
    )
