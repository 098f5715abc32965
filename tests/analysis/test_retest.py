"""The same question twice, on real records: no false gain, and halves that agree as intervals promise."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bench.acceptance import Acceptance
from bench.analysis.run import read_run
from bench.analysis.surfaces import Surfaces
from bench.records import ProbeRecord
from bench.stats.jackknife import Spread
from bench.surface.choice import OPTIMUM, shared_draft_length
from bench.surface.latency import PER_ROUND, RoundLatency
from bench.surface.pace import Pace
from bench.surface.predict import predict
from bench.variant import HEAD, LAYER, SELECT, Variant

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
GAMMA, NUM_PAIRS = 3, 200
OF_A_SIZE = (HEAD, SELECT, LAYER)
DOMAINS = ["code", "function_calling", "writing"]


@pytest.fixture(scope="module")
def surfaces() -> Surfaces:
    return Surfaces(read_run(EXAMPLE))


def split(probes: list[ProbeRecord], full: int, rng: np.random.Generator) -> list[ProbeRecord]:
    """Measured times of the whole vocabulary, dealt out at random to it and to one of a token less."""
    found = []
    for probe in probes:
        if probe.draft_length == GAMMA:
            kept = {name: ms for name, ms in probe.laps_ms.items() if name not in OF_A_SIZE}
            found.append(replace(probe, vocab_size=full, laps_ms=kept))
        if probe.vocab_size != full or probe.draft_length < 2:
            continue
        of_first: dict[str, list[float]] = {}
        of_second: dict[str, list[float]] = {}
        for name in OF_A_SIZE:
            order, first = rng.permutation(probe.laps_ms[name]), int(rng.integers(2))
            of_first[name], of_second[name] = order[first::2].tolist(), order[1 - first :: 2].tolist()
        for size, laps in ((full, of_first), (full - 1, of_second)):
            found.append(replace(probe, vocab_size=size, draft_length=GAMMA, laps_ms=laps))
    return found


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(
    "pace", [None, (0.9, 1.03), (1.12, 0.97)], ids=["own pace", "faster memory", "slower"]
)
def test_a_draft_is_not_called_faster_than_itself(surfaces, domain, pace):
    run, rng = surfaces.run, np.random.default_rng(7)
    reference = pace and Pace.of(surfaces.latency[domain].paces.mean(axis=0) * pace)
    assert set(PER_ROUND).isdisjoint(OF_A_SIZE)
    replays = run.replays[domain][run.plans[domain].source]
    replayed = {prompt: replays[prompt].replayed() for prompt in run.prompts[domain]}
    false = []
    for _ in range(NUM_PAIRS):
        dealt = {name: split(probes, run.full_size, rng) for name, probes in run.probes.items()}
        latency = RoundLatency.from_probes(dealt.pop(domain), others=dealt.values(), reference=reference)
        surface = predict(replayed, latency, run.full_size, [run.full_size - 1], run.full_size - 1)
        gain = surface.speed(Variant(run.full_size - 1, GAMMA)).over(surface.speed(surface.full))
        assert gain.value == pytest.approx(1, abs=0.2)
        false.append(gain.ci_low > 1 or gain.ci_high < 1)
    assert np.mean(false) <= 0.05


@dataclass(frozen=True)
class Kept:
    """A replayed answer whose rounds are counted once."""

    num_tokens: int
    by_gamma: dict[int, Acceptance]

    def walk(self, draft_length: int) -> Acceptance:
        return self.by_gamma[draft_length]


@pytest.fixture(scope="module")
def kept(surfaces) -> dict[str, list[Kept]]:
    """The replayed answers of every domain."""
    found = {}
    for domain in DOMAINS:
        gammas = [int(gamma) for gamma in surfaces.latency[domain].draft_lengths]
        of_source = surfaces.run.replays[domain][surfaces.run.plans[domain].source]
        replays = [record.replayed() for _, record in sorted(of_source.items())]
        found[domain] = [Kept(r.num_tokens, {gamma: r.walk(gamma) for gamma in gammas}) for r in replays]
    return found


def agreement(surfaces: Surfaces, kept: dict[str, list[Kept]], num_splits: int) -> dict[str, float]:
    """Share of splits of the prompts whose halves choose variants within 1% of predicted speed, by domain."""
    run, rng = surfaces.run, np.random.default_rng(5)
    close = defaultdict(list)
    for _ in range(num_splits):
        orders = {domain: rng.permutation(len(kept[domain])).tolist() for domain in DOMAINS}
        speeds = defaultdict(list)
        for part in (0, 1):
            halves = {
                domain: predict(
                    {str(place): kept[domain][place] for place in orders[domain][part::2]},
                    surfaces.latency[domain],
                    run.full_size,
                    [],
                    run.rankings[run.plans[domain].source].num_must_keep,
                    run.multiple,
                )
                for domain in DOMAINS
            }
            shared = shared_draft_length(list(halves.values()))
            for domain, half in halves.items():
                speeds[domain].append(surfaces.of(domain).at(surfaces.advise(half, shared)))
        for domain, (one, other) in speeds.items():
            close[domain].append(abs(np.log(one / other)) <= np.log(1.01))
    return {domain: float(np.mean(hits)) for domain, hits in close.items()}


@pytest.mark.parametrize("num_splits", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_halves_of_the_prompts_choose_variants_of_about_the_same_speed(surfaces, kept, num_splits):
    assert all(share >= 0.95 for share in agreement(surfaces, kept, num_splits).values())


@pytest.mark.parametrize("domain", DOMAINS)
def test_halves_of_the_prompts_differ_as_much_as_the_interval_says(surfaces, domain):
    """Halves differ with twice the standard deviation of the whole, where the interval's is the true one."""
    run, surface, rng = surfaces.run, surfaces.of(domain), np.random.default_rng(3)
    best, full = run.variant_of(domain, OPTIMUM), surface.full
    latency, once = surfaces.latency[domain], np.ones((1, surfaces.latency[domain].num_blocks))
    replays = [r.replayed() for _, r in sorted(run.replays[domain][run.plans[domain].source].items())]
    tokens = np.array([item.num_tokens - 1 for item in replays])

    def times_ms(variant: Variant) -> np.ndarray:
        size, gamma = np.array([variant.vocab_size]), variant.draft_length
        rounds = np.array([item.walk(gamma).at(size)[0][0] for item in replays])
        return rounds * latency.round_ms(gamma, size, once)[0, 0] + latency.once_ms(gamma, once)[0]

    of_best, of_full = times_ms(best), times_ms(full)
    whole = surface.speed(best)
    assert np.log(tokens.sum() / of_best.sum() * 1e3) == pytest.approx(whole.log_tokens_per_s)
    of_gain = whole.left_out[0] - surface.speed(full).left_out[0]
    apart: dict[str, list[float]] = {"speed": [], "gain": []}
    for _ in range(NUM_PAIRS):
        order = rng.permutation(len(tokens))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        speeds, gains = ([float(np.log(f(half))) for half in halves] for f in (
            lambda half: tokens[half].sum() / of_best[half].sum(),
            lambda half: of_full[half].sum() / of_best[half].sum(),
        ))  # fmt: skip
        apart["speed"].append(speeds[0] - speeds[1])
        apart["gain"].append(gains[0] - gains[1])
    for name, left_out in (("speed", whole.left_out[0]), ("gain", of_gain)):
        expected = 2 * float(np.sqrt(Spread.of([left_out]).variance))
        assert np.sqrt(np.mean(np.square(apart[name]))) == pytest.approx(expected, rel=0.15)
