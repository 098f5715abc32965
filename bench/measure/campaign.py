"""Everything measured on one domain: replays, probes, the choice made from them, and decodes that test it."""

import math
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

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
from bench.surface.choice import PAPER, advise, planned_decodes
from bench.surface.latency import RoundLatency
from bench.surface.predict import predict
from bench.variant import PlannedDecode, Variant
from bench.vocab.draft_vocab import IntArray

Replay = ReplayRecord | SampledReplayRecord

# Distinct variants that a plan can hold beside those that the user adds; see `planned_decodes`.
_MOST_PLANNED = 4

_GRID_SIZES = 24


class Campaign:
    """Measures workloads one after the other, without what earlier sessions of the run measured.

    Args:
        engine: decodes; a plan needs its probes and replays.
        sizes: vocabulary sizes at which latency is probed, ascending, the full one among them.
        measure: what to measure, and the seed of every random order.
        rule: how the advised variant is chosen.
        multiple: an advised size is a multiple of it.
        done: records of earlier sessions.
        is_reversed: measures variants in the reverse order, as every second process does.

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
    ):
        if not (engine.can_probe and engine.can_replay):
            raise ConfigError(
                f"the {engine.name} engine cannot time the parts of a round or replay answers, which a plan "
                "is made of; measure with the torch engine"
            )
        self._engine, self._measure, self._rule, self._multiple = engine, measure, rule, multiple
        self._probes = Probes(sizes, sorted(set(measure.draft_lengths)), measure.probe_rounds)
        self._done, self._is_reversed = done or Done(), is_reversed
        self._session = Session(engine, self._done.last_order)
        self._warm_domain: str | None = None
        self._planned: dict[str, list[PlannedDecode]] = {}
        self._shortest_s: dict[str, float] = defaultdict(lambda: math.inf)  # of a domain's decodes

    def num_steps(self, workload: Workload) -> int:
        """About how many records `run` yields, for a progress bar."""
        num_prompts, num_planned = len(workload.prompts), _MOST_PLANNED + len(self._measure.also_decode)
        num_probes = len(self._probes.steps(0))
        num_replayed = num_prompts + len(workload.answered)
        return num_replayed * len(workload.orders) + num_prompts * (num_probes + 2 * num_planned)

    def run(self, workload: Workload) -> Iterator[Record]:
        """Measures one domain; yields records as they are made, including those of failures.

        First everything that acceptance and latency need, then one plan, then decodes that test it.

        Raises:
            DomainError: the target's answers leave nothing to decode.
            LostDeviceError: this process cannot use the device any more.
        """
        self._engine.use_order(workload.order)
        replays: list[Replay] = []
        probes: list[ProbeRecord] = []
        for prompt in workload.prompts:
            found = yield from self._replay(workload, prompt)
            replays += found
            # An answer of one token leaves nothing to decode or probe.
            if found and len(found[0].token_ids) > 1:
                steps = self._probes.steps(self._measure.seed, workload.domain, prompt.prompt_id)
                probed = yield from self._measured(workload, prompt, steps)
                # A prompt that lacks a probe would make another round of what is there.
                probes += probed if len(probed) == len(steps) else []
        for answered in workload.answered:
            replays += yield from self._replay(workload, answered)
        plan = self._done.take(PlanRecord.case_of(workload.domain))
        if plan is None:
            plan = self._plan(workload, replays, probes)
            yield plan
        if isinstance(plan, FailureRecord):
            return
        self._planned[workload.domain] = plan.planned
        yield from self._decode_planned(workload)

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
        """What another engine decodes too: all that is planned, without the paper's choice."""
        return [item.variant for item in self._planned.get(domain, []) if item.role != PAPER]

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
            yield attempt(case, partial(compare_with_reference, self._engine, workload.domain, prompt))

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

    def _decode_planned(self, workload: Workload) -> Iterator[Record]:
        """Whole decodes of every planned variant among probes of the same variants, prompt by prompt.

        Decodes and probes take turns at random: the prediction is judged at the speed that the machine has
        during the decodes.
        """
        planned = self._planned[workload.domain]
        steps = [Step(kind, item.variant) for item in planned for kind in (DECODE, CHECK)]
        for prompt in workload.prompts:
            context = (self._measure.seed, workload.domain, prompt.prompt_id, DECODE)
            found = yield from self._measured(workload, prompt, shuffled(steps, *context))
            # An answer of one token takes no time, so there is nothing to compare.
            lasted_s = [r.wall_ms / 1e3 for r in found if isinstance(r, DecodeRecord) if len(r.token_ids) > 1]
            shortest_s = self._shortest_s[workload.domain]
            self._shortest_s[workload.domain] = min([shortest_s, *lasted_s])

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
        if self._warm_domain != workload.domain:
            self._warm_domain = workload.domain
            self._session.warm_up(workload.prompts[0], self._probes, self._measure.warmup_rounds)

    def _grid(self, workload: Workload) -> IntArray:
        """Sizes at which the acceptance of sampled answers is replayed; greedy answers need no grid."""
        sizes = self._probes.sizes
        spread = np.geomspace(1, sizes[-1], _GRID_SIZES).round().astype(np.int64)
        also = [variant.vocab_size for variant in self._measure.also()]
        also += [workload.id_prefix_size] if workload.id_prefix_size else []
        return np.unique(np.concatenate([spread, sizes, [workload.paper_size, *also]])).astype(np.int64)

    def _plan(
        self, workload: Workload, replays: list[Replay], probes: list[ProbeRecord]
    ) -> PlanRecord | FailureRecord:
        domain = workload.domain
        replayed = {r.prompt_id: r.replayed() for r in replays if r.source == workload.source}
        replayed = {prompt: item for prompt, item in replayed.items() if item.num_tokens > 1}
        if not replayed:
            raise DomainError(
                f"domain {domain}: the target ends every held-out answer with its first token, so there is "
                "nothing to decode; give other prompts"
            )
        if not probes:
            return FailureRecord(["plan", domain], "no probes", "every prompt that was probed failed")
        also = self._measure.also()
        surface = predict(
            replayed,
            RoundLatency.from_probes(probes),
            self._engine.full_size,
            [workload.paper_size, *(variant.vocab_size for variant in also)],
            workload.least_size,
            self._multiple,
        )
        advised = advise(surface, self._rule, self._multiple)
        planned = planned_decodes(surface, advised.variant, workload.paper_size, also)
        return PlanRecord.of(domain, workload.source, planned)


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


def compare_with_reference(engine: Engine, domain: str, prompt: EncodedPrompt) -> BaselineRecord:
    """The plain loop and `transformers.generate` on one prompt, interleaved; best of two each."""
    plain, reference, num_tokens = [], [], 0
    for _ in range(2):
        start = time.perf_counter()
        prepared = engine.prepare(prompt.token_ids)
        decoded = engine.decode(prepared, Variant(engine.full_size, 0), with_laps=False)
        plain.append(time.perf_counter() - start)
        num_tokens = len(decoded.token_ids)
        start = time.perf_counter()
        engine.reference(prompt.token_ids, num_tokens)
        engine.synchronize()
        reference.append(time.perf_counter() - start)
    return BaselineRecord(domain, prompt.prompt_id, num_tokens, min(plain) * 1e3, min(reference) * 1e3)
