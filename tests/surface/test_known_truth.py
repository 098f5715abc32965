"""Simulated runs of a machine whose every time is known: how often intervals contain the truth."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bench.acceptance import Acceptance
from bench.analysis.run import read_run
from bench.measure.workload import Probes
from bench.records import ProbeRecord
from bench.stats.estimates import Estimate, Floats
from bench.surface.latency import RoundLatency
from bench.surface.pace import Pace
from bench.surface.predict import predict
from bench.variant import EXTEND, HEAD, LAYER, OTHER, PREFILL, SELECT, VERIFY, Variant

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
FULL, SMALL = 49_152, 4096
SIZES = [256, 1024, SMALL, 16_384, FULL]
GAMMAS, ROUNDS = [1, 2, 3, 5], 5
DOMAINS, NUM_BLOCKS, NUM_PROMPTS, NUM_RUNS = ["code", "function_calling", "writing"], 24, 64, 300

PLAIN, BEST = Variant(FULL, 0), Variant(SMALL, 3)


def part_ms(part: str, size: int, gamma: int, memory: float = 1.0) -> float:
    """Mean time of a lap: the layer takes the same whatever the head, so that measured ones often fall.

    Reading a byte from memory takes `memory` times as long as it can.
    """
    return {
        PREFILL: 8.0,
        HEAD: 0.1 + 4e-5 * size * memory,
        SELECT: 0.05,
        LAYER: 0.4 + 0.8 * memory,
        VERIFY: 9.0 + 9.0 * memory + 1.5 * gamma,
        OTHER: 0.3,
        EXTEND: 1.5 + 0.2 * gamma,
    }[part]


def laps(gamma: int) -> dict[str, int]:
    """How often each part comes in a probe."""
    if not gamma:
        return {VERIFY: ROUNDS}
    drafted = {HEAD: gamma * ROUNDS, SELECT: gamma * ROUNDS, LAYER: (gamma - 1) * ROUNDS}
    return {PREFILL: 1, **drafted, VERIFY: ROUNDS, OTHER: ROUNDS, EXTEND: ROUNDS - 1}


def noise(rng: np.random.Generator, count: int) -> Floats:
    """Factors of one lap each, with heavy tails."""
    return np.exp(0.2 * rng.standard_t(5, count).clip(-9, 9))


def probes_of_run(
    rng: np.random.Generator, memory: float = 1.0, pace: float = 0.05, spread: float = 0.0
) -> dict[str, list[ProbeRecord]]:
    """Every lap with the pace of its turn, of its block in the turn, and noise of its own.

    So has memory, whose time is spread about that of the run.
    """
    found = defaultdict(list)
    for turn in range(NUM_BLOCKS):
        pace_then, memory_then = np.exp(rng.normal(0, pace)), memory + rng.normal(0, spread)
        for domain in DOMAINS:
            pace_here, seed = pace_then * np.exp(rng.normal(0, 0.6 * pace)), int(rng.integers(1 << 30))
            memory_here = memory_then + rng.normal(0, 0.8 * spread)
            for step in Probes(SIZES, GAMMAS, ROUNDS).steps(seed):
                size, gamma = step.variant.key
                times = {
                    part: (pace_here * part_ms(part, size, gamma, memory_here) * noise(rng, count)).tolist()
                    for part, count in laps(gamma).items()
                }
                found[domain].append(ProbeRecord(domain, str(turn), size, gamma, False, turn, times))
    return found


@dataclass(frozen=True)
class Rounds:
    """The rounds of one answer with the two sizes."""

    num_tokens: int
    by_gamma: dict[int, Floats]

    def walk(self, draft_length: int) -> Acceptance:
        return Acceptance(np.array([1, FULL]), self.by_gamma[draft_length], np.zeros((draft_length, 2)))


@pytest.fixture(scope="module")
def answers() -> list[Rounds]:
    """Those of the example, of which every simulated run draws some."""
    run, sizes = read_run(EXAMPLE), np.array([SMALL, FULL])
    replays = [r.replayed() for d in DOMAINS for r in run.replays[d][run.plans[d].source].values()]
    return [Rounds(r.num_tokens, {g: r.walk(g).at(sizes)[0] for g in GAMMAS}) for r in replays]


def true_speed(answers: list[Rounds], variant: Variant, memory: float = 1.0) -> float:
    size, gamma = variant.key
    if not gamma:
        return 1 / part_ms(VERIFY, FULL, 0, memory)
    ms = {part: part_ms(part, size, gamma, memory) for part in laps(gamma)}
    round_ms = gamma * (ms[HEAD] + ms[SELECT]) + (gamma - 1) * ms[LAYER] + ms[VERIFY] + ms[OTHER] + ms[EXTEND]
    rounds = np.array([item.by_gamma[gamma][int(size == FULL)] for item in answers])
    tokens = np.array([item.num_tokens - 1 for item in answers])
    return float(tokens.mean() / (rounds.mean() * round_ms + ms[PREFILL] - ms[EXTEND]))


WANTED = {
    "gain at one draft length": (BEST, Variant(FULL, 3)),
    "gain over another draft length": (BEST, Variant(FULL, 1)),
    "gain over plain decoding": (BEST, PLAIN),
    "one draft length over another": (BEST, Variant(SMALL, 2)),
}


def gains(
    answers: list[Rounds],
    rng: np.random.Generator,
    probes: dict[str, list[ProbeRecord]],
    reference: Pace | None = None,
) -> dict[str, Estimate]:
    own, *others = probes.values()
    drawn = {str(i): answers[at] for i, at in enumerate(rng.integers(0, len(answers), NUM_PROMPTS))}
    surface = predict(drawn, RoundLatency.from_probes(own, others=others, reference=reference), FULL, [])
    return {name: surface.speed(a).over(surface.speed(b)) for name, (a, b) in WANTED.items()}


def test_intervals_contain_the_truth_as_often_as_they_promise(answers):
    rng = np.random.default_rng(17)
    truth = {name: true_speed(answers, a) / true_speed(answers, b) for name, (a, b) in WANTED.items()}
    inside = defaultdict(list)
    for _ in range(NUM_RUNS):
        for name, gain in gains(answers, rng, probes_of_run(rng)).items():
            inside[name].append(gain.ci_low <= truth[name] <= gain.ci_high)
    for name, found in inside.items():
        assert 0.93 <= np.mean(found) <= 0.97, name


def test_runs_that_meet_another_memory_agree_at_the_speed_of_one(answers):
    """Each run has a memory of its own, and is asked for the gains at another one."""
    rng, memory = np.random.default_rng(11), 1.1
    truth = {
        name: true_speed(answers, a, memory) / true_speed(answers, b, memory)
        for name, (a, b) in WANTED.items()
    }
    mean_noise = float(noise(np.random.default_rng(0), 1_000_000).mean())
    whole, *small = (part_ms(HEAD, size, 1, memory) * mean_noise for size in (FULL, 256, 1024, SMALL))
    reference = Pace(whole, float(np.mean(small)))
    inside, found, as_it_was = (defaultdict(list) for _ in range(3))
    for _ in range(NUM_RUNS):
        probes = probes_of_run(rng, rng.uniform(0.95, 1.25), pace=0.02, spread=0.1)
        for name, gain in gains(answers, rng, probes, reference).items():
            inside[name].append(gain.ci_low <= truth[name] <= gain.ci_high)
            found[name].append(np.log(gain.value / truth[name]))
        of_trimming = gains(answers, rng, probes)["gain at one draft length"]
        as_it_was["gain at one draft length"].append(np.log(of_trimming.value))
    for name, hits in inside.items():
        # Leaving out one of eight blocks overstates the error of a slope a little.
        assert 0.93 <= np.mean(hits) <= 0.98, name
    for name, before in as_it_was.items():
        assert np.std(found[name]) < 0.7 * np.std(before)
        assert abs(np.mean(found[name])) < np.std(found[name]) / 3
