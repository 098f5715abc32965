"""Everything measured on domains: replays, probes, the choices made from them, and decodes that test them.

Domains take turns, prompt by prompt: a machine that changes its pace then does so in all of them alike, and
each is measured over the whole time.
"""

import math
import random
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from bench.acceptance import Intervals
from bench.config import AdviceRule, MeasureConfig, TimingConfig
from bench.decoding.engine import Engine
from bench.decoding.rounds import shuffled
from bench.device import Device
from bench.errors import ConfigError, DomainError
from bench.measure.attempts import attempt
from bench.measure.isolated import time_parts
from bench.measure.session import DECODE, Session, run_steadily
from bench.measure.workload import AnsweredPrompt, EncodedPrompt, Probes, Step, Workload
from bench.records import (
    BaselineRecord,
    DecodeRecord,
    FailureRecord,
    IsolatedRecord,
    PlanRecord,
    ProbeRecord,
    Record,
    ReplayRecord,
    SampledReplayRecord,
    SteadyRecord,
)
from bench.records.kinds import CHECK
from bench.records.store import Done
from bench.stats.estimates import Floats
from bench.surface.choice import FULL_BEST, PAPER, advise, planned_decodes, shared_draft_length
from bench.surface.latency import RoundLatency
from bench.surface.pace import Pace
from bench.surface.predict import Surface, predict
from bench.variant import PlannedDecode, Variant
from bench.vocab.draft_vocab import IntArray

Replay = ReplayRecord | SampledReplayRecord

Item = TypeVar("Item")

# Names of stages.
EXPLORING, PROVING = "measuring acceptance and latency", "decoding what is advised"

# Distinct variants that a plan can hold beside those that the user adds; see `planned_decodes`.
_MOST_PLANNED = 5

# What is measured of each: more probes know the machine's speed during the decodes better. Predictions of
# eight default runs were 2.2% off on average, and 3.2% with every second probe left out.
_PROOF = (DECODE, CHECK, CHECK)

_GRID_SIZES = 24


@dataclass(frozen=True)
class Stage:
    """A part of a campaign.

    Attributes:
        name: for a progress bar.
        num_records: about how many it yields.
        records: makes them, as they are iterated over.
    """

    name: str
    num_records: int
    records: Iterator[Record]


@dataclass
class _Found:
    """What a plan is made of."""

    replays: list[Replay] = field(default_factory=list)
    probes: list[ProbeRecord] = field(default_factory=list)


class Campaign:
    """Measures workloads in turns, without what earlier sessions of the run measured.

    Args:
        engine: decodes; a plan needs its probes and replays.
        sizes: vocabulary sizes at which latency is probed, ascending, the full one among them.
        measure: what to measure, and the seed of every random order.
        rule: how the advised variant is chosen.
        multiple: an advised size is a multiple of it.
        done: records of earlier sessions.
        is_reversed: measures variants in the reverse order, as every second process does.
        reference: pace at which plans are made; None: as it is.

    Raises:
        ConfigError: the engine cannot probe or cannot replay.
    """

    def __init__(
        self,
        engine: Engine,
        sizes: list[int],
        measure: MeasureConfig,
        rule: AdviceRule = AdviceRule.robust,
        multiple: int = 1,
        done: Done | None = None,
        is_reversed: bool = False,
        reference: Pace | None = None,
    ):
        if not (engine.can_probe and engine.can_replay):
            raise ConfigError(
                f"the {engine.name} engine cannot time the parts of a round or replay answers, which a plan "
                "is made of; measure with the torch engine"
            )
        self._engine, self._measure, self._rule, self._multiple = engine, measure, rule, multiple
        self._probes = Probes(sizes, sorted(set(measure.draft_lengths)), measure.probe_rounds)
        self._done, self._is_reversed, self._reference = done or Done(), is_reversed, reference
        self._session = Session(engine, self._done.last_order)
        self._warm: set[str] = set()  # domains
        self._planned: dict[str, list[PlannedDecode]] = {}
        self._shortest_s: dict[str, float] = defaultdict(lambda: math.inf)  # of a domain's decodes

    def run(self, workloads: Sequence[Workload]) -> Iterator[Record]:
        """All stages, one after the other."""
        for stage in self.stages(workloads):
            yield from stage.records

    def stages(self, workloads: Sequence[Workload]) -> list[Stage]:
        """What is measured of some domains; their records are yielded as they are made, including failures.

        First everything that acceptance and latency need, with one plan for each domain at the end, then
        decodes that test the plans. The stages must be run in this order.

        Raises, as the records are made:
            DomainError: the target's answers leave nothing to decode in any domain.
            LostDeviceError: this process cannot use the device any more.
        """
        num_planned = _MOST_PLANNED + len(self._measure.also_decode)
        num_probes = len(self._probes.steps(0))
        num_prompts = sum(len(workload.prompts) for workload in workloads)
        num_probed = num_prompts + sum(len(workload.probed) for workload in workloads)
        num_replays = sum(len(w.orders) * (len(w.prompts) + len(w.answered)) for w in workloads)
        return [
            Stage(EXPLORING, num_replays + num_probed * num_probes, self._explore(workloads)),
            Stage(PROVING, num_prompts * len(_PROOF) * num_planned, self._prove(workloads)),
        ]

    def _explore(self, workloads: Sequence[Workload]) -> Iterator[Record]:
        """Replays and probes in turns, then the plans."""
        found = {workload.domain: _Found() for workload in workloads}
        to_probe = {w.domain: [*w.prompts, *w.probed] for w in workloads}
        further = {w.domain: [item for item in w.answered if item not in w.probed] for w in workloads}
        for workload, turn in _turns(workloads, max(map(len, to_probe.values()), default=0)):
            self._engine.use_order(workload.order)
            of_domain = found[workload.domain]
            for prompt in turn.of(to_probe[workload.domain]):
                replays = yield from self._replay(workload, prompt)
                of_domain.replays += replays
                # An answer of one token leaves nothing to decode or probe.
                if replays and len(replays[0].token_ids) > 1:
                    steps = self._probes.steps(self._measure.seed, workload.domain, prompt.prompt_id)
                    probed = yield from self._measured(workload, prompt, steps)
                    # A prompt that lacks a probe would make another round of what is there.
                    of_domain.probes += probed if len(probed) == len(steps) else []
            for answered in turn.of(further[workload.domain]):
                of_domain.replays += yield from self._replay(workload, answered)
        yield from self._plans(workloads, found)

    def _plans(
        self, workloads: Sequence[Workload], found: Mapping[str, _Found]
    ) -> Iterator[PlanRecord | FailureRecord]:
        """One of each domain, made when all are measured: they may share a draft length."""
        known = {w.domain: self._done.take(PlanRecord.case_of(w.domain)) for w in workloads}
        plans = {domain: plan for domain, plan in known.items() if isinstance(plan, PlanRecord)}
        missing = [workload for workload in workloads if workload.domain not in plans]
        surfaces: dict[str, Surface] = {}
        for workload in workloads if missing else ():
            surface = self._surface(workload, found, len(workloads))
            if isinstance(surface, Surface):
                surfaces[workload.domain] = surface
            elif workload in missing:
                yield surface
        shared = shared_draft_length(list(surfaces.values()))
        for workload in missing:
            domain = workload.domain
            if domain in surfaces:
                advised = advise(surfaces[domain], self._rule, self._multiple, shared).variant
                planned = planned_decodes(
                    surfaces[domain], advised, workload.paper_size, self._measure.also()
                )
                plans[domain] = PlanRecord.of(domain, workload.source, planned)
                yield plans[domain]
        self._planned = {domain: plan.planned for domain, plan in plans.items()}

    def _prove(self, workloads: Sequence[Workload]) -> Iterator[Record]:
        """Whole decodes of every planned variant among probes of the same variants, in turns.

        Decodes and probes of a prompt come in random order: the prediction is judged at the speed that the
        machine has during the decodes.
        """
        planned = [workload for workload in workloads if workload.domain in self._planned]
        for workload, turn in _turns(planned, max((len(w.prompts) for w in planned), default=0)):
            self._engine.use_order(workload.order)
            domain = workload.domain
            steps = [Step(kind, item.variant) for item in self._planned[domain] for kind in _PROOF]
            for prompt in turn.of(workload.prompts):
                context = (self._measure.seed, domain, prompt.prompt_id, DECODE)
                found = yield from self._measured(workload, prompt, shuffled(steps, *context))
                # An answer of one token takes no time, so there is nothing to compare.
                decoded = [r for r in found if isinstance(r, DecodeRecord) and len(r.token_ids) > 1]
                lasted_s = [record.wall_ms / 1e3 for record in decoded]
                self._shortest_s[domain] = min([self._shortest_s[domain], *lasted_s])

    def run_steadily(
        self, workload: Workload, seconds: float, enough_s: float = math.inf
    ) -> Iterator[SteadyRecord | FailureRecord]:
        """Every planned variant of a measured domain on its own, twice, for its energy.

        Args:
            workload: the domain.
            seconds: how long each time, at least.
            enough_s: nothing is done if every decode lasted that long: those then show the energy.
        """
        domain = workload.domain
        if self._shortest_s[domain] < enough_s:
            self._engine.use_order(workload.order)
            variants = [item.variant for item in self._planned.get(domain, [])]
            seed = self._measure.seed
            yield from run_steadily(
                self._engine, domain, workload.prompts, variants, seconds, seed, self._done
            )

    def served_variants(self, domain: str) -> list[Variant]:
        """What another engine decodes too: without the paper's choice and the full head's own best."""
        planned = self._planned.get(domain, [])
        return [item.variant for item in planned if item.role not in (PAPER, FULL_BEST)]

    def isolate(
        self, workload: Workload, device: Device, timing: TimingConfig
    ) -> Iterator[IsolatedRecord | FailureRecord]:
        """Parts of rounds on their own, after the first prompt of a domain.

        Raises:
            DeviceError: this device cannot execute as asked.
        """
        self._engine.use_order(workload.order)

        def take_apart() -> Any:
            prepared = self._engine.prepare(workload.prompts[0].token_ids)
            return self._engine.parts(prepared, self._probes.sizes, self._probes.draft_lengths)

        parts = attempt(("isolated",), take_apart)
        if isinstance(parts, FailureRecord):
            yield parts
            return
        yield from time_parts(device, parts, timing, self._measure.seed, self._done)

    def compare_with_reference(self, workload: Workload) -> Iterator[BaselineRecord | FailureRecord]:
        """The plain loop against `transformers.generate`, on the first prompt of a domain."""
        case, prompt = BaselineRecord.case_of(workload.domain), workload.prompts[0]
        if not self._done.has(case):
            yield attempt(case, lambda: self._baseline(workload.domain, prompt))

    def _baseline(self, domain: str, prompt: EncodedPrompt) -> BaselineRecord:
        """Best of two each."""
        num_tokens, times = time_beside_reference(self._engine, prompt, 2, random.Random(self._measure.seed))
        reference_ms, plain_ms = times.min(axis=0).tolist()
        return BaselineRecord(domain, prompt.prompt_id, num_tokens, plain_ms, reference_ms)

    def _replay(
        self, workload: Workload, prompt: EncodedPrompt
    ) -> Generator[Replay | FailureRecord, None, list[Replay]]:
        """Replays of one prompt under every ranking; none where they failed."""
        domain = workload.domain
        cases = [ReplayRecord.case_of(domain, prompt.prompt_id, source) for source in workload.orders]
        if all(self._done.has(case) for case in cases):
            return [self._done.take(case) for case in cases]
        self._warm_up(workload)
        grid, longest = self._grid(workload), self._probes.draft_lengths[-1]
        found = attempt(
            ("replay", domain, prompt.prompt_id),
            lambda: replay_prompt(self._engine, domain, prompt, workload.orders, grid, longest),
        )
        if isinstance(found, FailureRecord):
            yield found
            return []
        # A killed session may have left some of them, for the same answer.
        for item, case in zip(found, cases, strict=True):
            if not self._done.take(case):
                yield item
        return found

    def _measured(
        self, workload: Workload, prompt: EncodedPrompt, steps: list[Step]
    ) -> Generator[DecodeRecord | ProbeRecord | FailureRecord, None, list[Any]]:
        """Measures what earlier sessions did not; returns the records of all steps."""
        found: list[Any] = []
        missing = []
        for step in reversed(steps) if self._is_reversed else steps:
            if known := self._done.take(step.case(workload.domain, prompt)):
                found.append(known)
            else:
                missing.append(step)
        if missing:
            self._warm_up(workload)
            for record in self._session.measure(workload.domain, prompt, missing, self._probes.rounds):
                found += [] if isinstance(record, FailureRecord) else [record]
                yield record
        return found

    def _warm_up(self, workload: Workload) -> None:
        """Runs once per domain, before its first measurement."""
        if workload.domain not in self._warm:
            self._warm.add(workload.domain)
            self._session.warm_up(workload.prompts[0], self._probes, self._measure.warmup_rounds)

    def _grid(self, workload: Workload) -> IntArray:
        """Sizes at which the acceptance of sampled answers is replayed; greedy answers need no grid."""
        sizes = self._probes.sizes
        spread = np.geomspace(1, sizes[-1], _GRID_SIZES).round().astype(np.int64)
        also = [variant.vocab_size for variant in self._measure.also()]
        also += [size for size in (workload.id_prefix_size, workload.published_size) if size]
        return np.unique(np.concatenate([spread, sizes, [workload.paper_size, *also]])).astype(np.int64)

    def _surface(
        self, workload: Workload, found: Mapping[str, _Found], num_domains: int
    ) -> Surface | FailureRecord:
        """Of a domain; why it has none."""
        domain = workload.domain
        of_source = [r for r in found[domain].replays if r.source == workload.source]
        replayed = {r.prompt_id: r.replayed() for r in of_source if len(r.token_ids) > 1}
        if not replayed:
            error = DomainError(
                f"domain {domain}: the target ends every held-out answer with its first token, so there is "
                "nothing to decode; give other prompts"
            )
            if num_domains == 1:
                raise error
            return FailureRecord(["plan", domain], type(error).__name__, str(error))
        if not found[domain].probes:
            return FailureRecord(["plan", domain], "no probes", "every prompt that was probed failed")
        also, others = self._measure.also(), [item.probes for name, item in found.items() if name != domain]
        return predict(
            replayed,
            RoundLatency.from_probes(
                found[domain].probes,
                laps_overlap=self._engine.laps_overlap,
                others=others,
                reference=self._reference,
            ),
            self._engine.full_size,
            [workload.paper_size, *(variant.vocab_size for variant in also)],
            workload.least_size,
            self._multiple,
        )


@dataclass(frozen=True)
class _Turn:
    """One of the turns that a domain has."""

    index: int
    num_turns: int

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The share of this turn, about equal in all of them."""
        begin, end = (len(items) * i // self.num_turns for i in (self.index, self.index + 1))
        return items[begin:end]


def _turns(workloads: Sequence[Workload], num_turns: int) -> Iterator[tuple[Workload, _Turn]]:
    """So many turns of each domain; every second time in the reverse order.

    A machine that becomes slower is then as slow, on average, in the first domain as in the last.
    """
    for index in range(num_turns):
        for workload in workloads if index % 2 == 0 else reversed(workloads):
            yield workload, _Turn(index, num_turns)


def replay_prompt(
    engine: Engine,
    domain: str,
    prompt: EncodedPrompt,
    orders: dict[str, IntArray],
    sizes: IntArray,
    longest: int,
) -> list[Replay]:
    """Which tokens of the target's answer drafts have accepted: one record for each order of tokens.

    Args:
        engine: replays.
        domain: of the prompt.
        prompt: the prompt.
        orders: by name, the draft's tokens as they enter a vocabulary.
        sizes: vocabulary sizes that sampled answers are replayed at, ascending; greedy ones are for all.
        longest: gamma up to which rounds draft.
    """
    engine.reseed(domain, prompt.prompt_id, "replay")
    answer = prompt.answer_ids if isinstance(prompt, AnsweredPrompt) else None
    found = engine.replay(engine.prepare(prompt.token_ids), orders, sizes, longest, answer)
    records: list[Replay] = []
    for source, item in found.by_order.items():
        what = (domain, prompt.prompt_id, source, found.token_ids)
        if isinstance(item, Intervals):
            records.append(ReplayRecord(*what, item.low.tolist(), item.high.tolist(), found.replay_ms))
        else:
            ratios = item.ratios.round(5).tolist()
            records.append(SampledReplayRecord(*what, sizes.tolist(), ratios, found.replay_ms))
    return records


def time_beside_reference(
    engine: Engine, prompt: EncodedPrompt, num_repeats: int, coin: random.Random
) -> tuple[int, Floats]:
    """Decodes an answer by `transformers.generate` and by the plain loop, each time in random order.

    Returns:
        Number of its tokens, and wall times of both with the prefill `(num_repeats, 2)`, in ms.
    """
    plain = Variant(engine.full_size, 0)
    engine.load(plain, [engine.prepare(prompt.token_ids)])

    def decode() -> int:
        return len(engine.decode(engine.prepare(prompt.token_ids), plain, with_laps=False).token_ids)

    num_tokens = decode()
    calls = (partial(engine.reference, prompt.token_ids, num_tokens), decode)
    times = np.empty((num_repeats, len(calls)))
    for row in times:
        for side in coin.sample(range(len(calls)), len(calls)):
            engine.synchronize()
            start = time.perf_counter()
            calls[side]()
            engine.synchronize()
            row[side] = (time.perf_counter() - start) * 1e3
    return num_tokens, times
