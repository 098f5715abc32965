"""Measures one domain on one device: replays, probes of rounds, and decodes interleaved in random order."""

import gc
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from bench.decoding.decoder import VERIFY, Decoded, Decoder, Prefill
from bench.decoding.replay import read_answer, replay
from bench.decoding.replay_sampled import replay_sampled
from bench.decoding.rules import GreedyRule, Rule, SampledRule
from bench.decoding.sampling import Sampler
from bench.decoding.timeline import Timeline
from bench.device import Device
from bench.measure.disturbance import is_held_up
from bench.measure.variants import Variant, probes_of, shuffled
from bench.models.eagle3 import DraftHead, Eagle3Draft
from bench.models.target import Target
from bench.records import BaselineRecord, DecodeRecord, ProbeRecord, ReplayRecord, SampledReplayRecord
from bench.vocab.draft_vocab import IntArray

_MOST_REPEATS = 2


@dataclass(frozen=True)
class EncodedPrompt:
    """A held-out prompt as token ids."""

    prompt_id: str
    token_ids: list[int]


@dataclass(frozen=True)
class Probes:
    """What is probed on a prompt.

    Attributes:
        heads: LM heads by size.
        draft_lengths: gammas.
        rounds: of each probe.
    """

    heads: dict[int, DraftHead]
    draft_lengths: list[int]
    rounds: int

    def variants(self, seed: int, *context: object) -> list[Variant]:
        """In a seeded random order, another one for every `context`."""
        return probes_of(sorted(self.heads), self.draft_lengths, seed, *context)


@dataclass(frozen=True)
class _Timed:
    decoded: Decoded
    decode_ms: float
    wall_ms: float
    laps_ms: dict[str, list[float]]
    num_repeats: int = 0


class Session:
    """Runs a pair on one device.

    Args:
        device: its clock is read.
        target: the target.
        draft: the draft's body.
        full_head: the draft's whole LM head.
        max_new_tokens: longest answer.
        seed: of every random order, and of sampling.
        sampler: how the target samples; None decodes greedily.
    """

    def __init__(
        self,
        device: Device,
        target: Target,
        draft: Eagle3Draft,
        full_head: DraftHead,
        max_new_tokens: int,
        seed: int,
        sampler: Sampler | None = None,
    ):
        self._device, self._target, self._draft, self._full_head = device, target, draft, full_head
        self._rule: Rule = SampledRule(sampler, target.device) if sampler else GreedyRule()
        self._decoder, self._seed, self._sampler = Decoder(target, max_new_tokens, self._rule), seed, sampler
        self._order = 0
        self._verify_ms: list[float] = []

    def warm_up(self, prompt: EncodedPrompt, probes: Probes, rounds: int) -> None:
        """A few rounds with every head, and keeps nothing."""
        prefill, longest = self._decoder.prefill(prompt.token_ids), max(probes.draft_lengths)
        for head in probes.heads.values():
            self._decoder.speculative(prefill, self._draft, head, longest, self._timeline(), rounds)
        self._device.synchronize()
        # What is loaded by now stays; leaving it out makes every later collection short.
        gc.collect()
        gc.freeze()

    def replay(
        self,
        domain: str,
        prompt: EncodedPrompt,
        orders: dict[str, IntArray],
        sizes: IntArray,
        longest: int,
    ) -> list[ReplayRecord] | list[SampledReplayRecord]:
        """The target's answer, and what a draft would have accepted of it, under each order.

        Greedy answers tell it for every size, sampled ones for `sizes`.
        """
        self._rule.reseed(self._seed_of(domain, prompt.prompt_id, "replay"))
        prefill = self._decoder.prefill(prompt.token_ids)
        answer = self._decoder.plain(prefill, self._timeline()).token_ids
        sampler, head, prompt_ids = self._sampler, self._full_head, prefill.prompt_ids
        probs_of = sampler.target_probs if sampler else None
        text = read_answer(self._target, prefill, answer, longest, self._rule, probs_of)
        self._device.synchronize()
        start, draft, case = time.perf_counter(), self._draft, (domain, prompt.prompt_id)

        def passed_ms() -> float:
            self._device.synchronize()
            return (time.perf_counter() - start) * 1e3

        if sampler is None:
            found = replay(draft, head, prompt_ids, text, orders, longest)
            took_ms = passed_ms()
            return [
                ReplayRecord(*case, source, answer, item.low.tolist(), item.high.tolist(), took_ms)
                for source, item in found.items()
            ]
        ratios = replay_sampled(draft, head, prompt_ids, text, orders, sizes, sampler, longest)
        took_ms = passed_ms()
        return [
            SampledReplayRecord(*case, source, answer, sizes.tolist(), item.ratios.round(5).tolist(), took_ms)
            for source, item in ratios.items()
        ]

    def probe(
        self, domain: str, prompt: EncodedPrompt, probes: Probes, is_pilot: bool = True
    ) -> Iterator[ProbeRecord]:
        """A few rounds with every size and every draft length."""
        self._rule.reseed(self._seed_of(domain, prompt.prompt_id, "pilot"))
        prefill = self._decoder.prefill(prompt.token_ids)
        for variant in probes.variants(self._seed, domain, prompt.prompt_id):
            yield self._probe_one(domain, prompt, prefill, probes, variant, is_pilot)

    def prove(
        self,
        domain: str,
        prompt: EncodedPrompt,
        variants: list[Variant],
        heads: dict[int, DraftHead],
        probes: Probes,
    ) -> Iterator[DecodeRecord | ProbeRecord]:
        """Whole decodes of one prompt with each variant, among probes as `probe` makes them.

        Decodes and probes take turns at random, so that a prediction made of the probes is not judged at
        another speed of the machine.
        """
        # With this seed a sampled answer begins with the token that its replay began with.
        self._rule.reseed(self._seed_of(domain, prompt.prompt_id, "replay"))
        prefill = self._decoder.prefill(prompt.token_ids)
        probed = probes.variants(self._seed, domain, prompt.prompt_id)
        cases = [(True, p) for p in probed] + [(False, v) for v in variants]
        for is_probe, variant in shuffled(cases, self._seed, domain, prompt.prompt_id):
            if is_probe:
                yield self._probe_one(domain, prompt, prefill, probes, variant, is_pilot=False)
            else:
                yield self._decode_one(domain, prompt, prefill, heads, variant)

    def compare_with_generate(self, domain: str, prompt: EncodedPrompt) -> BaselineRecord:
        """The plain loop and `transformers.generate` on one prompt, interleaved; best of two each."""
        plain, generate, num_tokens = [], [], 0
        for _ in range(2):
            start = time.perf_counter()
            decoded = self._decoder.plain(self._decoder.prefill(prompt.token_ids), self._timeline())
            self._device.synchronize()
            plain.append(time.perf_counter() - start)
            num_tokens = len(decoded.token_ids)
            start = time.perf_counter()
            self._generate(prompt, num_tokens)
            self._device.synchronize()
            generate.append(time.perf_counter() - start)
        return BaselineRecord(domain, prompt.prompt_id, num_tokens, min(plain) * 1e3, min(generate) * 1e3)

    @torch.inference_mode()
    def _generate(self, prompt: EncodedPrompt, num_tokens: int) -> None:
        ids = torch.tensor([prompt.token_ids], device=self._target.device)
        self._target.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
        )

    def _probe_one(
        self,
        domain: str,
        prompt: EncodedPrompt,
        prefill: Prefill,
        probes: Probes,
        variant: Variant,
        is_pilot: bool,
    ) -> ProbeRecord:
        head = probes.heads[variant.vocab_size]
        timed = self._timed(prefill, head, variant.draft_length, probes.rounds)
        return ProbeRecord(
            domain=domain,
            prompt_id=prompt.prompt_id,
            vocab_size=variant.vocab_size,
            draft_length=variant.draft_length,
            is_pilot=is_pilot,
            order=self._next_order(),
            laps_ms=timed.laps_ms,
            num_repeats=timed.num_repeats,
        )

    def _decode_one(
        self,
        domain: str,
        prompt: EncodedPrompt,
        prefill: Prefill,
        heads: dict[int, DraftHead],
        variant: Variant,
    ) -> DecodeRecord:
        head = heads[variant.vocab_size] if variant.draft_length else None
        timed = self._timed(prefill, head, variant.draft_length)
        return DecodeRecord(
            domain=domain,
            prompt_id=prompt.prompt_id,
            vocab_size=variant.vocab_size,
            draft_length=variant.draft_length,
            order=self._next_order(),
            num_prompt_tokens=len(prompt.token_ids),
            token_ids=timed.decoded.token_ids,
            accepted=timed.decoded.accepted,
            decode_ms=timed.decode_ms,
            wall_ms=timed.wall_ms,
            laps_ms=timed.laps_ms,
            num_repeats=timed.num_repeats,
        )

    def _timed(
        self, prefill: Prefill, head: DraftHead | None, draft_length: int, rounds: int | None = None
    ) -> _Timed:
        """One attempt, or the next where something else on the machine held it up."""
        for num_repeats in range(_MOST_REPEATS):
            timed = self._time_once(prefill, head, draft_length, rounds)
            # Of all steps only the target's take about the same time whatever is measured.
            usual_ms = {VERIFY: float(np.median(self._verify_ms))} if self._verify_ms else {}
            if not is_held_up(timed.laps_ms, usual_ms):
                self._verify_ms += timed.laps_ms.get(VERIFY, [])
                return replace(timed, num_repeats=num_repeats)
        return replace(self._time_once(prefill, head, draft_length, rounds), num_repeats=_MOST_REPEATS)

    def _time_once(
        self, prefill: Prefill, head: DraftHead | None, draft_length: int, rounds: int | None
    ) -> _Timed:
        timeline = self._timeline()
        # A collection in the middle of a round would be charged to that round.
        gc.collect()
        gc.disable()
        try:
            self._device.synchronize()
            start = time.perf_counter()
            if head is None:
                decoded = self._decoder.plain(prefill, timeline)
            else:
                decoded = self._decoder.speculative(
                    prefill, self._draft, head, draft_length, timeline, rounds
                )
            self._device.synchronize()
            wall_ms = (time.perf_counter() - start) * 1e3
        finally:
            gc.enable()
        total_ms = timeline.total_ms(self._device.elapsed_ms)
        return _Timed(decoded, total_ms, wall_ms, self._laps_ms(timeline))

    def _seed_of(self, *context: object) -> int:
        """Of the random numbers of one case: the same when it is measured again."""
        return random.Random(repr((self._seed, *context))).getrandbits(62)

    def _timeline(self) -> Timeline:
        return Timeline(self._device.mark)

    def _laps_ms(self, timeline: Timeline) -> dict[str, list[float]]:
        laps = timeline.laps_ms(self._device.elapsed_ms)
        return {name: [round(ms, 5) for ms in samples] for name, samples in laps.items()}

    def _next_order(self) -> int:
        self._order += 1
        return self._order
