"""All that is measured of one domain: replays, a pilot, the choice of what to prove, and the proof."""

import math
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from bench.config import MeasureConfig, TimingConfig
from bench.decoding.replay import read_answer, replay, replay_sampled
from bench.decoding.rounds import shuffled
from bench.errors import DomainError
from bench.measure.attempts import attempt
from bench.measure.parts import compare_with_generate, isolate
from bench.measure.session import DECODE, PILOT, PROBE, Session, case_of, run_steadily
from bench.measure.workload import EncodedPrompt, Probes, Rig, Workload
from bench.models.draft import DraftHead
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
from bench.records.kinds import Done
from bench.surface.choice import planned_decodes
from bench.surface.latency import RoundLatency
from bench.surface.predict import predict
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab, IntArray

Replay = ReplayRecord | SampledReplayRecord

# Whether to choose is all that the pilot's surface is for, so its intervals may be rough.
_PILOT_RESAMPLES = 100

# Distinct variants that a plan can hold beside those that the user adds; see `planned_decodes`.
_MOST_PLANNED = 7

_GRID_SIZES = 24


class Campaign:
    """Measures workloads one after the other, and nothing that earlier sessions of a run measured."""

    def __init__(self, rig: Rig, measure: MeasureConfig, done: Done | None = None):
        self._rig, self._draft, self._full_head, self._measure = rig, rig.draft, rig.full_head, measure
        self._done = done or Done()
        self._session = Session(rig, self._done.last_order)
        self._warm_domain: str | None = None
        self._planned: dict[str, list[Variant]] = {}
        self._shortest_s: dict[str, float] = defaultdict(lambda: math.inf)  # of a domain's decodes

    def num_steps(self, workload: Workload, sizes: list[int]) -> int:
        """About how many records `run` yields, for a progress bar."""
        measure, num_prompts = self._measure, len(workload.prompts)
        num_probes = 2 * max(len(sizes), len(set(measure.draft_lengths)))
        per_prompt = len(workload.orders) + num_probes + _MOST_PLANNED + len(measure.also_decode)
        return num_prompts * per_prompt + min(measure.pilot_prompts, num_prompts) * num_probes

    def run(self, workload: Workload, sizes: list[int]) -> Iterator[Record]:
        """Measures one domain; yields records as they come, those of failures among them.

        Args:
            workload: the domain.
            sizes: at which latency is probed, the full vocabulary among them.

        Raises:
            DomainError: the target's answers leave nothing to decode.
            LostDeviceError: the device is of no more use to this process.
        """
        order = workload.orders[workload.source]
        probes = self._probes(order, sizes)
        replays: list[Replay] = []
        pilot: list[ProbeRecord] = []
        num_piloted = 0
        for prompt in workload.prompts:
            found = yield from self._replay(workload, prompt, sizes)
            replays += [item for item in found if item.source == workload.source]
            # Answers of one token leave nothing to decode, and so nothing to probe.
            if num_piloted < self._measure.pilot_prompts and found and len(found[0].token_ids) > 1:
                num_piloted += 1
                variants = probes.variants(self._rig.seed, workload.domain, prompt.prompt_id)
                cases = [(PILOT, variant) for variant in variants]
                piloted = yield from self._measured(workload, prompt, cases, probes, probes.heads)
                # A prompt that lacks a probe would make another round of what is there.
                pilot += piloted if len(piloted) == len(cases) else []
        plan = self._done.take(PlanRecord.case_of(workload.domain))
        if plan is None:
            if not pilot:
                yield FailureRecord(["plan", workload.domain], "no pilot", "every prompt of the pilot failed")
                return
            plan = self._plan(workload, replays, pilot)
            yield plan
        self._planned[workload.domain] = [item.variant for item in plan.planned]
        yield from self._prove(workload, plan, probes)

    def run_steadily(
        self, workload: Workload, seconds: float, enough_s: float = math.inf
    ) -> Iterator[SteadyRecord | FailureRecord]:
        """Every planned variant of a measured domain on its own, twice, for its energy.

        Args:
            workload: the domain.
            seconds: how long each time, at least.
            enough_s: where all of its decodes lasted that long, they tell energy too, and nothing is done.
        """
        domain, order = workload.domain, workload.orders[workload.source]
        if self._shortest_s[domain] < enough_s:
            variants = self._planned.get(domain, [])
            yield from run_steadily(
                self._rig, domain, workload.prompts, variants, lambda size: self._head(order, size), seconds,
                self._done,
            )  # fmt: skip

    def isolate(
        self, workload: Workload, sizes: list[int], timing: TimingConfig
    ) -> Iterator[IsolatedRecord | FailureRecord]:
        """Parts of rounds on their own, after the first prompt of a domain."""
        probes = self._probes(workload.orders[workload.source], sizes)
        yield from isolate(self._rig, workload.prompts[0], probes, timing, self._done)

    def compare_with_generate(self, workload: Workload) -> Iterator[BaselineRecord | FailureRecord]:
        """The plain loop against `transformers.generate`, on the first prompt of a domain."""
        case, prompt = BaselineRecord.case_of(workload.domain), workload.prompts[0]
        if not self._done.has(case):
            yield attempt(case, lambda: compare_with_generate(self._rig, workload.domain, prompt))

    def _replay(
        self, workload: Workload, prompt: EncodedPrompt, sizes: list[int]
    ) -> Generator[Replay | FailureRecord, None, list[Replay]]:
        """Replays of one prompt under every ranking; none where they failed."""
        domain, longest = workload.domain, max(self._measure.draft_lengths)
        cases = [ReplayRecord.case_of(domain, prompt.prompt_id, source) for source in workload.orders]
        if all(self._done.has(case) for case in cases):
            return [self._done.take(case) for case in cases]
        self._warm_up(workload, self._probes(workload.orders[workload.source], sizes))
        grid = self._grid(workload, sizes)
        found = attempt(
            cases[0][:3],
            lambda: replay_prompt(self._rig, domain, prompt, workload.orders, grid, longest),
        )
        if isinstance(found, FailureRecord):
            yield found
            return []
        # A killed session may have left some of them, of the same answer.
        replays: list[Replay] = list(found)
        for item, case in zip(replays, cases, strict=True):
            if not self._done.take(case):
                yield item
        return replays

    def _prove(self, workload: Workload, plan: PlanRecord, probes: Probes) -> Iterator[Record]:
        """Whole decodes of every planned variant among probes, prompt by prompt.

        Decodes and probes take turns at random, so that a prediction made of the probes is not judged at
        another speed of the machine.
        """
        seed, order = self._rig.seed, workload.orders[workload.source]
        heads = dict(probes.heads)
        variants = [item.variant for item in plan.planned]
        for variant in variants:
            heads.setdefault(variant.vocab_size, self._head(order, variant.vocab_size))
        for prompt in workload.prompts:
            context = (seed, workload.domain, prompt.prompt_id)
            cases = [(PROBE, variant) for variant in probes.variants(*context)]
            cases += [(DECODE, variant) for variant in variants]
            found = yield from self._measured(workload, prompt, shuffled(cases, *context), probes, heads)
            # An answer of one token takes no time, and is compared with none.
            lasted_s = [r.wall_ms / 1e3 for r in found if isinstance(r, DecodeRecord) if len(r.token_ids) > 1]
            shortest_s = self._shortest_s[workload.domain]
            self._shortest_s[workload.domain] = min([shortest_s, *lasted_s])

    def _measured(
        self,
        workload: Workload,
        prompt: EncodedPrompt,
        cases: list[tuple[str, Variant]],
        probes: Probes,
        heads: dict[int, DraftHead],
    ) -> Generator[DecodeRecord | ProbeRecord | FailureRecord, None, list[Any]]:
        """Measures what earlier sessions have not; returns what there is of all cases."""
        found: list[Any] = []
        missing = []
        for kind, variant in cases:
            if known := self._done.take(case_of(kind, workload.domain, prompt, variant)):
                found.append(known)
            else:
                missing.append((kind, variant))
        if missing:
            self._warm_up(workload, probes)
            for record in self._session.measure(workload.domain, prompt, missing, heads, probes.rounds):
                found += [] if isinstance(record, FailureRecord) else [record]
                yield record
        return found

    def _warm_up(self, workload: Workload, probes: Probes) -> None:
        """Once a domain, before its first measurement."""
        if self._warm_domain != workload.domain:
            self._warm_domain = workload.domain
            self._session.warm_up(workload.prompts[0], probes, self._measure.warmup_rounds)

    def _probes(self, order: IntArray, sizes: list[int]) -> Probes:
        heads = {size: self._head(order, size) for size in sizes}
        return Probes(heads, sorted(set(self._measure.draft_lengths)), self._measure.probe_rounds)

    def _grid(self, workload: Workload, sizes: list[int]) -> IntArray:
        """Sizes at which the acceptance of sampled answers is replayed; of greedy ones all are."""
        spread = np.geomspace(1, sizes[-1], _GRID_SIZES).round().astype(np.int64)
        also = [variant.vocab_size for variant in self._measure.also()]
        return np.unique(np.concatenate([spread, sizes, [workload.paper_size, *also]])).astype(np.int64)

    def _plan(self, workload: Workload, replays: list[Replay], pilot: list[ProbeRecord]) -> PlanRecord:
        replays = [item for item in replays if len(item.token_ids) > 1]
        if not replays:
            raise DomainError(
                f"domain {workload.domain}: the target ends every held-out answer with its first token, so "
                "there is nothing to decode; give other prompts"
            )
        latency = RoundLatency.from_probes(pilot)
        # Acceptance is known on every prompt, latency on the pilot's: the others are given its mean.
        surface = predict(
            {item.prompt_id: item.replayed() for item in replays},
            latency.spread_to([item.prompt_id for item in replays]),
            self._full_head.size,
            [workload.paper_size, *(variant.vocab_size for variant in self._measure.also())],
            _PILOT_RESAMPLES,
            self._measure.seed,
            workload.least_size,
        )
        planned = planned_decodes(surface, workload.paper_size, self._measure.also())
        return PlanRecord.of(workload.domain, workload.source, planned)

    def _head(self, order: IntArray, size: int) -> DraftHead:
        if size == self._full_head.size:
            return self._full_head
        ids = np.sort(order[:size])
        return self._draft.head(DraftVocab(ids, self._draft.vocab.target_vocab_size))


# Replays of one prompt: the target's answer, and what a draft would have accepted of it.


def replay_prompt(
    rig: Rig,
    domain: str,
    prompt: EncodedPrompt,
    orders: dict[str, IntArray],
    sizes: IntArray,
    longest: int,
) -> list[ReplayRecord] | list[SampledReplayRecord]:
    """One record per order of tokens; greedy answers tell it for every size, sampled ones for `sizes`.

    Args:
        rig: the pair.
        domain: of the prompt.
        prompt: the prompt.
        orders: by name, the draft's tokens as they enter a vocabulary.
        sizes: vocabulary sizes, ascending.
        longest: gamma up to which rounds draft.
    """
    rig.reseed(domain, prompt.prompt_id, "replay")
    prefill = rig.decoder.prefill(prompt.token_ids)
    answer = rig.decoder.plain(prefill, rig.timeline()).token_ids
    probs_of = rig.sampler.target_probs if rig.sampler else None
    text = read_answer(rig.target, prefill, answer, longest, rig.rule, probs_of)
    what = (rig.draft, rig.full_head, prefill.prompt_ids, text, orders)
    rig.device.synchronize()
    start = time.perf_counter()

    def passed_ms() -> float:
        rig.device.synchronize()
        return (time.perf_counter() - start) * 1e3

    case = (domain, prompt.prompt_id)
    if rig.sampler is None:
        found = replay(*what, longest)
        took_ms = passed_ms()
        return [
            ReplayRecord(*case, source, answer, item.low.tolist(), item.high.tolist(), took_ms)
            for source, item in found.items()
        ]
    ratios = replay_sampled(*what, sizes, rig.sampler, longest)
    took_ms = passed_ms()
    return [
        SampledReplayRecord(*case, source, answer, sizes.tolist(), item.ratios.round(5).tolist(), took_ms)
        for source, item in ratios.items()
    ]
