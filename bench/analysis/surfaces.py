"""Predicted speed of a run: every (k, gamma), against what was decoded, and across domains."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bench.acceptance import Intervals
from bench.analysis.expected import Expected, expected_of, replayed_prompts
from bench.analysis.run import Run, decode_series
from bench.config import POOLED, AdviceRule
from bench.records import ProbeRecord
from bench.stats.estimates import Estimate
from bench.surface.choice import (
    FULL,
    OPTIMUM,
    PAPER,
    BreakEven,
    advise,
    lossless_size,
    shared_draft_length,
)
from bench.surface.latency import RoundLatency
from bench.surface.pace import Pace
from bench.surface.predict import Speed, Surface, plain_speed, predict
from bench.variant import VERIFY, Variant
from bench.vocab.draft_vocab import Floats, IntArray
from bench.vocab.ranking import BY_ID, PUBLISHED, id_prefix_size

SURFACE_COLUMNS = [
    "pair", "domain", "source", "vocab_size", "draft_length", "acceptance_rate", "mean_acceptance_length",
    "predicted_tokens_per_s", "predicted_ci_low", "predicted_ci_high", "in_confidence_set", "tokens_per_s",
]  # fmt: skip

_ROUNDING = 1e-6  # of the single precision that intervals are made in

_LEAST_TO_SPLIT = 4  # prompts, and blocks of latencies: two halves must have a spread each


class Surfaces:
    """Surfaces of a run, made when they are asked for and kept."""

    def __init__(self, run: Run):
        self.run = run
        self.reference: dict[str, Any] | None = run.environment.get("reference")
        self.latency = {domain: self._latency(domain) for domain in run.probes}
        self._made: dict[tuple[str, str], Surface] = {}
        self._expected: dict[tuple[str, Variant], Expected] = {}

    def of(self, domain: str, source: str | None = None) -> Surface:
        """Surface of a domain's prompts under its own ranking, or under that of another source."""
        source = source or self.run.plans[domain].source
        if (domain, source) not in self._made:
            self._made[domain, source] = self._predict(
                domain, source, self.latency[domain], _replayed(self.run, domain, source)
            )
        return self._made[domain, source]

    def expected(self, domain: str, variant: Variant) -> Expected:
        """What a planned draft's decodes should come to, by the probes among them."""
        if (domain, variant) not in self._expected:
            self._expected[domain, variant] = expected_of(
                self.run, domain, self._latency_among_decodes(domain), variant
            )
        return self._expected[domain, variant]

    def expected_speed(self, domain: str, variant: Variant) -> Speed | None:
        """The same, of plain decoding too; None where no plain step was timed."""
        if not variant.is_plain:
            return self.expected(domain, variant).speed
        num_prompts = len(replayed_prompts(self.run, domain))
        return plain_speed(self._latency_among_decodes(domain), num_prompts)

    def _latency_among_decodes(self, domain: str) -> RoundLatency:
        """Runs of earlier versions have no probes of their own for it; all are among the decodes there."""
        checks = self.run.checks
        if not checks.get(domain):
            return self.latency_as_met(domain)
        others = [found for other, found in checks.items() if other != domain]
        return RoundLatency.from_probes(checks[domain], laps_overlap=self.run.laps_overlap, others=others)

    def pace(self, domain: str) -> Pace | None:
        """At which a domain's figures hold; None where heads have no time."""
        latency = self.latency[domain]
        if latency.reference is not None or not len(latency.paces):
            return latency.reference
        return Pace.of(latency.paces.mean(axis=0))

    def halves(self, domain: str) -> "list[Half]":
        """Two disjoint halves of the prompts and of the blocks; empty where there are too few."""
        found = self._all_halves.get(domain, [])
        shared = [
            shared_draft_length([halves[part] for halves in self._all_halves.values()])
            for part, _ in enumerate(found)
        ]
        return [
            Half(surface, self.advise(surface, length)) for surface, length in zip(found, shared, strict=True)
        ]

    @cached_property
    def _all_halves(self) -> dict[str, list[Surface]]:
        """Of every domain that was decoded and has enough prompts."""
        found = {}
        for domain in self.run.decodes:
            plan = self.run.plans[domain]
            latency = self._latency(domain, by_prompt=True)
            prompts = _replayed(self.run, domain, plan.source)
            if min(len(prompts), latency.num_blocks) >= _LEAST_TO_SPLIT:
                found[domain] = [
                    self._predict(
                        domain,
                        plan.source,
                        latency.only(range(half, latency.num_blocks, 2)),
                        prompts[half::2],
                    )
                    for half in (0, 1)
                ]
        return found

    def latency_as_met(self, domain: str) -> RoundLatency:
        """At the pace of this run itself, which is that of every other time in it."""
        return self._latency(domain, at_reference=False) if self.reference else self.latency[domain]

    def _latency(self, domain: str, by_prompt: bool = False, at_reference: bool = True) -> RoundLatency:
        probes = [*self.run.probes[domain], *plain_steps(self.run, domain)]
        others = [found for other, found in self.run.probes.items() if other != domain]
        reference = Pace.read(self.reference) if self.reference and at_reference else None
        return RoundLatency.from_probes(probes, by_prompt, self.run.laps_overlap, others, reference)

    def _predict(self, domain: str, source: str, latency: RoundLatency, prompts: list[str]) -> Surface:
        replays, plan = self.run.replays[domain][source], self.run.plans[domain]
        # What must be kept is the same under every ranking.
        ranking = self.run.rankings[plan.source]
        sizes = {BY_ID: self.id_prefix_size(domain), PUBLISHED: self.run.environment.get("published_size")}
        own_size = sizes.get(source)
        return predict(
            {prompt: replays[prompt].replayed() for prompt in prompts},
            latency,
            self.run.full_size,
            [*(item.variant.vocab_size for item in plan.planned), *([own_size] if own_size else [])],
            ranking.num_must_keep,
            self.run.multiple,
        )

    def beside(self, domain: str, source: str) -> tuple[Surface, Surface]:
        """Under the domain's own ranking and under another one, of the prompts that both were replayed on."""
        own, replays = self.run.plans[domain].source, self.run.replays[domain]
        if replays[own].keys() == replays[source].keys():
            return self.of(domain), self.of(domain, source)
        latency = self.latency[domain]
        both = [prompt for prompt in _replayed(self.run, domain, own) if prompt in replays[source]]
        first, second = (self._predict(domain, ranking, latency, both) for ranking in (own, source))
        return first, second

    def id_prefix_size(self, domain: str) -> int | None:
        """Size of the vocabulary that needs no text; None where it was not replayed."""
        if BY_ID not in self.run.replays[domain]:
            return None
        ranking = self.run.rankings[self.run.plans[domain].source]
        return id_prefix_size(ranking.order, ranking.num_must_keep, self.run.config["vocab"]["id_prefix"])

    def advise(self, surface: Surface, shared: int | None = None) -> Variant:
        """What the run's own rule would advise by another surface, and a draft length that domains share."""
        config = self.run.config
        rule = AdviceRule[config.get("advice", AdviceRule.fastest.name)]
        return advise(surface, rule, self.run.multiple or 1, shared).variant

    def keep(self, domain: str, surface: Surface) -> None:
        """Takes the surface of a domain under its own ranking, which another process made."""
        self._made[domain, self.run.plans[domain].source] = surface

    def advice(self, domain: str) -> "Advice":
        """What the surface of a domain says in numbers."""
        return Advice(self, domain)


@dataclass(frozen=True)
class Half:
    """One of two halves of a domain's prompts and blocks.

    Attributes:
        surface: of this half.
        advised: what the run's rule makes of this half, and of the same half of other domains.
    """

    surface: Surface
    advised: Variant


@dataclass(frozen=True)
class Baseline:
    """Another choice of tokens than the advised one.

    Attributes:
        name: what it is, as a sentence begins with it.
        variant: of the advised size, the advised one; of another size, at its fastest draft length.
        over_full: its predicted speed over that of the full vocabulary.
        advised_over_it: the predicted speed of what is advised over its, with its interval.
    """

    name: str
    variant: Variant
    over_full: float
    advised_over_it: Estimate


@dataclass(frozen=True)
class Advice:
    """The chosen (k, gamma) of one domain, and how firmly."""

    surfaces: Surfaces
    domain: str

    @cached_property
    def surface(self) -> Surface:
        """Under the ranking that the domain's vocabularies follow."""
        return self.surfaces.of(self.domain)

    @property
    def best(self) -> Variant:
        """The advised variant: that of the run's plan, the only one."""
        return self.surfaces.run.variant_of(self.domain, OPTIMUM)

    @property
    def confident_sizes(self) -> tuple[int, int]:
        """Smallest and largest size that is as good at the advised draft length."""
        row, _ = self.surface.place(self.best)
        equal = self.surface.is_equal[row]
        sizes = np.append(self.surface.sizes[equal], self.best.vocab_size)
        return int(sizes.min()), int(sizes.max())

    @property
    def lossless(self) -> int:
        """Smallest size that needs no more target passes than the full vocabulary, at the best gamma."""
        return lossless_size(self.surface, self.best.draft_length)

    @property
    def paper(self) -> Variant:
        """The paper's k* at its fastest gamma."""
        size = self.surfaces.run.variant_of(self.domain, PAPER).vocab_size
        return Variant(size, self.surface.best_draft_length(size))

    @property
    def paper_regret(self) -> float:
        """Share of the predicted best speed that the paper's k* gives away."""
        return 1 - self.surface.at(self.paper) / self.surface.at(self.best)

    @cached_property
    def baselines(self) -> "list[Baseline]":
        """Other choices of tokens that were replayed.

        The lowest ids and the published list at their own size and its fastest draft length, which need no
        text; other rankings of the run at the advised size and draft length.
        """
        run, size = self.surfaces.run, self.best.vocab_size
        own, replayed = run.plans[self.domain].source, run.replays[self.domain]
        wanted = []
        if prefix_size := self.surfaces.id_prefix_size(self.domain):
            prefix = run.config["vocab"]["id_prefix"]
            wanted.append((f"The ids below {prefix:,}, which need no text", BY_ID, prefix_size))
        if published := run.environment.get("published_size"):
            path = run.config["vocab"]["published"]
            wanted.append((f"The tokens of {path}", PUBLISHED, published))
        wanted.append(("The tokens most frequent in all domains together", POOLED, size))
        wanted.append((f"The tokens most frequent in {self.domain} alone", self.domain, size))
        return [
            self._baseline(name, source, size)
            for name, source, size in wanted
            if source in replayed and source != own
        ]

    def _baseline(self, name: str, source: str, size: int) -> "Baseline":
        own, surface = self.surfaces.beside(self.domain, source)
        is_advised_size = size == self.best.vocab_size
        variant = self.best if is_advised_size else Variant(size, surface.best_draft_length(size))
        gain = own.speed(self.best).over(surface.speed(variant))
        return Baseline(name, variant, surface.at(variant) / self._full, gain)

    @property
    def _full(self) -> float:
        """Predicted tokens/s of the full vocabulary that the headline compares with."""
        return self.surface.at(self.surfaces.run.variant_of(self.domain, FULL))

    @property
    def break_even(self) -> BreakEven:
        """Of the best size against the full vocabulary, at the best gamma."""
        size, gamma = self.best.vocab_size, self.best.draft_length
        latency = self.surfaces.latency[self.domain]
        once = np.ones((1, latency.num_blocks))
        sizes = np.array([size, self.surface.sizes[-1]])
        row, column = self.surface.place(self.best)
        tau = self.surface.mean_acceptance_length[row]
        rounds, heads = latency.round_ms(gamma, sizes, once)[0], latency.head_ms(sizes, once)[0]
        head_ratio = float(heads[0] / heads[1]) if latency.times_heads else None
        return BreakEven(float(tau[column] / tau[-1]), float(rounds[0] / rounds[1]), head_ratio)


def plain_steps(run: Run, domain: str) -> list[ProbeRecord]:
    """Plain decodes as probes of plain decoding, for runs of earlier versions, which had none."""
    if any(not probe.draft_length for probe in run.probes[domain]):
        return []
    return [
        ProbeRecord(
            domain,
            r.prompt_id,
            run.full_size,
            0,
            False,
            r.order,
            {VERIFY: r.laps_ms[VERIFY]},
            process=r.process,
        )
        for r in run.decodes_of(domain, run.plain)
    ]


def surface_frame(surfaces: Surfaces) -> pd.DataFrame:
    """One row per domain, vocabulary size and draft length, with `SURFACE_COLUMNS`."""
    return pd.concat([_domain_frame(surfaces, d) for d in surfaces.run.decodes], ignore_index=True)


def _domain_frame(surfaces: Surfaces, domain: str) -> pd.DataFrame:
    run, surface, source = surfaces.run, surfaces.of(domain), surfaces.run.plans[domain].source
    sizes = np.arange(run.rankings[source].num_must_keep, run.full_size + 1)
    steps = np.searchsorted(surface.sizes, sizes, side="right") - 1
    decoded = measured_tokens_per_s(run, domain)
    parts = []
    for row, gamma in enumerate(surface.draft_lengths):
        speed = _speed_at(surfaces, domain, sizes, steps, row)
        # Intervals are made at the sizes where acceptance changes; relative to the prediction they hold on.
        relative = speed / surface.tokens_per_s[row, steps]
        values = (
            run.environment["pair"], domain, source, sizes, gamma, surface.acceptance_rate[row, steps],
            surface.mean_acceptance_length[row, steps], speed, relative * surface.ci_low[row, steps],
            relative * surface.ci_high[row, steps],
            surface.equal_margin[row, steps] + np.log(relative) >= -_ROUNDING,
            [decoded.get(Variant(int(k), gamma)) for k in sizes],
        )  # fmt: skip
        parts.append(pd.DataFrame(dict(zip(SURFACE_COLUMNS, values, strict=True))))
    # Single precision halves the file and is finer than anything that is measured.
    floats = {name: "float32" for name in SURFACE_COLUMNS if "tokens_per_s" in name or "predicted" in name}
    frame = pd.concat(parts, ignore_index=True).astype(floats)
    return frame.astype({"acceptance_rate": "float32", "mean_acceptance_length": "float32"})


def _speed_at(surfaces: Surfaces, domain: str, sizes: IntArray, steps: IntArray, row: int) -> Floats:
    """Predicted tokens/s at any sizes: acceptance of the step each lies on, latency of its own."""
    latency, surface = surfaces.latency[domain], surfaces.of(domain)
    gamma, once = surface.draft_lengths[row], np.ones((1, latency.num_blocks))
    round_ms = latency.round_ms(gamma, sizes, once)[0]
    ends = len(surface.prompt_left_out) * latency.once_ms(gamma, once)
    return surface.num_tokens / (surface.num_rounds[row, steps] * round_ms + ends) * 1e3


def measured_tokens_per_s(run: Run, domain: str) -> dict[Variant, float]:
    """What was decoded, by variant."""
    series = {variant: decode_series(by_prompt) for variant, by_prompt in run.decodes[domain].items()}
    return {variant: float(tokens.sum() / ms.sum() * 1e3) for variant, (tokens, ms) in series.items()}


def cross_frame(surfaces: Surfaces) -> pd.DataFrame:
    """Each domain's prompts drafted with the vocabulary chosen on each source.

    The size and draft length are those that suit the source itself; the pool takes the ones that are best
    over all domains together. Speed is over that of the full vocabulary as the headline has it.
    """
    run, rows = surfaces.run, []
    # A domain that an unfinished run has not decoded has no size of its own yet.
    unfinished = {domain for domain in run.rankings if domain in _domains(run)} - set(run.decodes)
    for source in (name for name in run.rankings if name not in unfinished):
        chosen = _chosen_on(surfaces, source)
        for domain in run.decodes:
            surface = surfaces.of(domain, source)
            row, column = surface.place(chosen)
            rows.append({
                "source": source,
                "domain": domain,
                **chosen.columns,
                "mean_acceptance_length": surface.mean_acceptance_length[row, column],
                "full_mean_acceptance_length": surface.mean_acceptance_length[row, -1],
                "predicted_speedup_vs_full_vocab": surface.tokens_per_s[row, column]
                / surface.at(run.variant_of(domain, FULL)),
                "num_prompts": len(surface.prompt_left_out),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _domains(run: Run) -> set[str]:
    """Names of the domains that the run was to measure."""
    return set((run.config.get("domain") or {}).get("members") or run.decodes)


def _relative(surface: Surface) -> Floats:
    """Speed over that of the full vocabulary at its best draft length."""
    return surface.tokens_per_s / surface.tokens_per_s[:, -1].max()


def _chosen_on(surfaces: Surfaces, source: str) -> Variant:
    if source in surfaces.run.decodes:
        return surfaces.run.variant_of(source, OPTIMUM)
    over = [surfaces.of(domain, source) for domain in surfaces.run.decodes]
    sizes = np.unique(np.concatenate([s.sizes for s in over]))
    steps = [np.searchsorted(s.sizes, sizes, side="right") - 1 for s in over]
    mean = np.mean([np.log(_relative(s)[:, at]) for s, at in zip(over, steps, strict=True)], axis=0)
    row, column = np.unravel_index(int(np.argmax(mean)), mean.shape)
    return Variant(int(sizes[column]), over[0].draft_lengths[row])


def acceptance_by_position(surfaces: Surfaces, domain: str, variant: Variant) -> Floats:
    """Share of rounds that accept the draft token at each position, unconditional `(draft length,)`.

    Over every replayed answer, as the surface is.
    """
    run = surfaces.run
    prompts = _replayed(run, domain, run.plans[domain].source)
    return replayed_by_position(run, domain, variant, prompts)


def _replayed(run: Run, domain: str, source: str) -> list[str]:
    """Prompts that were replayed, in order; an answer of one token leaves nothing to draft."""
    replays = run.replays[domain][source]
    return sorted(prompt for prompt, record in replays.items() if len(record.token_ids) > 1)


def replayed_by_position(run: Run, domain: str, variant: Variant, prompts: Iterable[str]) -> Floats:
    """As `acceptance_by_position`, of some prompts; answers must be longer than one token."""
    size = np.array([variant.vocab_size])
    replays = run.replays[domain][run.plans[domain].source]
    walks = [replays[prompt].replayed().walk(variant.draft_length).at(size) for prompt in prompts]
    num_rounds = sum(rounds[0] for rounds, _ in walks)
    return np.sum([at[:, 0] for _, at in walks], axis=0) / num_rounds


def replay_deviation(run: Run, domain: str, variant: Variant) -> int | None:
    """Rounds of a variant's decodes that accepted another number than the replay.

    None for plain decoding, and where texts are sampled: only what is expected of them is replayed.
    """
    if variant.is_plain:
        return None
    replays, differing = run.replays[domain][run.plans[domain].source], 0
    for prompt, record in run.decodes[domain][variant].items():
        replayed = replays[prompt].replayed()
        if not isinstance(replayed, Intervals):
            return None
        expected = replayed.accepted_by_round(variant)
        differing += sum(a != b for a, b in zip(expected, record.accepted, strict=False))
        differing += abs(len(expected) - len(record.accepted))
    return differing


def baselines(run: Run, domain: str) -> tuple[Variant, Variant, Variant]:
    """Plain decoding, the full vocabulary as the plan has it, and the predicted optimum."""
    return run.plain, run.variant_of(domain, FULL), run.variant_of(domain, OPTIMUM)


def position_frame(surfaces: Surfaces, domain: str) -> pd.DataFrame:
    """Acceptance at every draft position, with the full, the best and the paper's vocabulary."""
    advice, frames = surfaces.advice(domain), []
    longest = max(advice.surface.draft_lengths)
    for size, label in (
        (surfaces.run.full_size, "full vocabulary"),
        (advice.best.vocab_size, f"optimum, k = {advice.best.vocab_size:,}"),
        (advice.paper.vocab_size, f"paper's, k* = {advice.paper.vocab_size:,}"),
    ):
        accepted = acceptance_by_position(surfaces, domain, Variant(size, longest))
        values = {"domain": domain, "vocabulary": label, "position": np.arange(1, longest + 1)}
        frames.append(pd.DataFrame({**values, "accepted": accepted}))
    return pd.concat(frames, ignore_index=True)
