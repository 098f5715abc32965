"""All that is measured of one domain: replays, a pilot, the choice of what to prove, and the proof."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.config import MeasureConfig, TimingConfig
from bench.errors import DomainError
from bench.measure.cases import EncodedPrompt, Probes
from bench.measure.replaying import replay_prompt
from bench.measure.rig import Rig
from bench.measure.session import Session
from bench.measure.standalone import isolate
from bench.measure.variants import Variant
from bench.models.checkpoint import DraftCheckpoint
from bench.models.eagle3 import DraftHead
from bench.records import IsolatedRecord, PlanRecord, ProbeRecord, Record, ReplayRecord, SampledReplayRecord
from bench.surface.choice import Proof, proofs
from bench.surface.latency import RoundLatency
from bench.surface.predict import predict
from bench.vocab.draft_vocab import DraftVocab, IntArray

# Whether to choose is all that the pilot's surface is for, so its intervals may be rough.
_PILOT_RESAMPLES = 100
# Distinct variants that a plan can hold beside those that the user adds; see `bench.surface.choice.proofs`.
_MOST_PROOFS = 6
_GRID_SIZES = 24


@dataclass(frozen=True)
class Workload:
    """One domain, ready to be measured.

    Attributes:
        domain: its name.
        prompts: held-out prompts.
        source: which ranking its vocabularies follow.
        orders: of every ranking, the draft's tokens as they enter a vocabulary.
        paper_size: k* of the paper's utility under `source`.
    """

    domain: str
    prompts: list[EncodedPrompt]
    source: str
    orders: dict[str, IntArray]
    paper_size: int


class Campaign:
    """Measures workloads one after the other."""

    def __init__(self, rig: Rig, draft: DraftCheckpoint, measure: MeasureConfig):
        self._rig, self._draft, self._full_head, self._measure = rig, draft, rig.full_head, measure
        self._session = Session(rig)

    def num_steps(self, workload: Workload, sizes: list[int]) -> int:
        """About how many records `run` yields, for a progress bar."""
        measure, num_prompts = self._measure, len(workload.prompts)
        num_probes = 2 * max(len(sizes), len(set(measure.draft_lengths)))
        per_prompt = len(workload.orders) + num_probes + _MOST_PROOFS + len(measure.also_decode)
        return num_prompts * per_prompt + min(measure.pilot_prompts, num_prompts) * num_probes

    def run(self, workload: Workload, sizes: list[int]) -> Iterator[Record]:
        """Measures one domain; yields records as they come.

        Args:
            workload: the domain.
            sizes: at which latency is probed, the full vocabulary among them.
        """
        session, measure, domain = self._session, self._measure, workload.domain
        order = workload.orders[workload.source]
        heads = {size: self._head(order, size) for size in sizes}
        probes = Probes(heads, sorted(set(measure.draft_lengths)), measure.probe_rounds)
        session.warm_up(workload.prompts[0], probes, measure.warmup_rounds)
        longest = max(measure.draft_lengths)
        replays: list[ReplayRecord | SampledReplayRecord] = []
        pilot: list[ProbeRecord] = []
        grid = self._grid(workload, sizes)
        num_piloted = 0
        for prompt in workload.prompts:
            found = replay_prompt(self._rig, domain, prompt, workload.orders, grid, longest)
            replays += [item for item in found if item.source == workload.source]
            yield from found
            # Answers of one token leave nothing to decode, and so nothing to probe.
            if num_piloted < measure.pilot_prompts and len(found[0].token_ids) > 1:
                num_piloted += 1
                for probe in session.probe(domain, prompt, probes):
                    pilot.append(probe)
                    yield probe
        plan = self._plan(workload, replays, pilot)
        yield PlanRecord(domain, workload.source, [(p.vocab_size, p.draft_length, p.role) for p in plan])
        proved = {p.vocab_size: heads.get(p.vocab_size) or self._head(order, p.vocab_size) for p in plan}
        variants = [Variant(p.vocab_size, p.draft_length) for p in plan]
        for prompt in workload.prompts:
            yield from session.prove(domain, prompt, variants, proved, probes)

    def isolate(self, workload: Workload, sizes: list[int], timing: TimingConfig) -> Iterator[IsolatedRecord]:
        """Parts of rounds on their own, after the first prompt of a domain."""
        heads = {size: self._head(workload.orders[workload.source], size) for size in sizes}
        probes = Probes(heads, sorted(set(self._measure.draft_lengths)), self._measure.probe_rounds)
        yield from isolate(self._rig, workload.prompts[0], probes, timing)

    def _grid(self, workload: Workload, sizes: list[int]) -> IntArray:
        """Sizes at which the acceptance of sampled answers is replayed; of greedy ones all are."""
        spread = np.geomspace(1, sizes[-1], _GRID_SIZES).round().astype(np.int64)
        also = [size for size, _ in self._measure.also()]
        return np.unique(np.concatenate([spread, sizes, [workload.paper_size, *also]])).astype(np.int64)

    def _plan(
        self,
        workload: Workload,
        replays: list[ReplayRecord | SampledReplayRecord],
        pilot: list[ProbeRecord],
    ) -> list[Proof]:
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
            [workload.paper_size, *(size for size, _ in self._measure.also())],
            _PILOT_RESAMPLES,
            self._measure.seed,
        )
        return proofs(surface, workload.paper_size, self._measure.also())

    def _head(self, order: IntArray, size: int) -> DraftHead:
        if size == self._full_head.size:
            return self._full_head
        ids = np.sort(order[:size])
        return self._draft.head(DraftVocab(ids, self._draft.vocab.target_vocab_size))
