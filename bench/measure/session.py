"""Measures all variants of one domain prompt by prompt, interleaved in random order."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bench.decoding.greedy import Decoded, GreedyDecoder, Prefill
from bench.decoding.timeline import Timeline
from bench.device import Device
from bench.measure.variants import Variant, shuffled
from bench.models.eagle3 import DraftHead, Eagle3Draft
from bench.models.target import Target
from bench.records import BaselineRecord, DecodeRecord


@dataclass(frozen=True)
class EncodedPrompt:
    """A held-out prompt as token ids."""

    prompt_id: str
    token_ids: list[int]


@dataclass(frozen=True)
class Workload:
    """One domain, ready to be measured.

    Attributes:
        domain: its name.
        prompts: held-out prompts.
        heads: the draft's LM head of every vocabulary size.
    """

    domain: str
    prompts: list[EncodedPrompt]
    heads: dict[int, DraftHead]


class Session:
    """Decodes prompts with every variant, on one device."""

    def __init__(self, device: Device, target: Target, draft: Eagle3Draft, max_new_tokens: int, seed: int):
        self._device, self._target, self._draft = device, target, draft
        self._max_new_tokens, self._seed = max_new_tokens, seed
        self._order = 0

    def warm_up(self, workload: Workload, variants: list[Variant], num_tokens: int) -> None:
        """Decodes a little with every variant and keeps nothing."""
        decoder = GreedyDecoder(self._target, num_tokens)
        prefill = decoder.prefill(workload.prompts[0].token_ids)
        for variant in variants:
            self._decode(decoder, workload, prefill, variant)

    def measure(
        self, workload: Workload, variants: list[Variant], done: Callable[[], None]
    ) -> Iterator[DecodeRecord]:
        """One record per prompt and variant; calls `done` after each."""
        decoder = GreedyDecoder(self._target, self._max_new_tokens)
        for prompt in workload.prompts:
            prefill = decoder.prefill(prompt.token_ids)
            for variant in shuffled(variants, self._seed, workload.domain, prompt.prompt_id):
                yield self._measure_one(decoder, workload, prompt, prefill, variant)
                done()

    def compare_with_generate(self, workload: Workload, prompt: EncodedPrompt) -> BaselineRecord:
        """The plain loop and `transformers.generate` on one prompt, interleaved; best of two each."""
        decoder = GreedyDecoder(self._target, self._max_new_tokens)
        plain, generate, num_tokens = [], [], 0
        for _ in range(2):
            start = time.perf_counter()
            decoded = decoder.plain(decoder.prefill(prompt.token_ids), Timeline(self._device.mark))
            self._device.synchronize()
            plain.append(time.perf_counter() - start)
            num_tokens = len(decoded.token_ids)
            start = time.perf_counter()
            self._generate(prompt, num_tokens)
            self._device.synchronize()
            generate.append(time.perf_counter() - start)
        return BaselineRecord(
            workload.domain, prompt.prompt_id, num_tokens, min(plain) * 1e3, min(generate) * 1e3
        )

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

    def _measure_one(
        self,
        decoder: GreedyDecoder,
        workload: Workload,
        prompt: EncodedPrompt,
        prefill: Prefill,
        variant: Variant,
    ) -> DecodeRecord:
        # A collection in the middle of a round would be charged to that round.
        gc.collect()
        gc.disable()
        try:
            decoded, timeline, wall_ms = self._decode(decoder, workload, prefill, variant)
        finally:
            gc.enable()
        elapsed = self._device.elapsed_ms
        self._order += 1
        laps = {n: [round(ms, 5) for ms in v] for n, v in timeline.laps_ms(elapsed).items()}
        return DecodeRecord(
            domain=workload.domain,
            prompt_id=prompt.prompt_id,
            vocab_size=variant.vocab_size,
            draft_length=variant.draft_length,
            order=self._order,
            num_prompt_tokens=len(prompt.token_ids),
            token_ids=decoded.token_ids,
            accepted=decoded.accepted,
            decode_ms=timeline.total_ms(elapsed),
            wall_ms=wall_ms,
            laps_ms=laps,
        )

    def _decode(
        self, decoder: GreedyDecoder, workload: Workload, prefill: Prefill, variant: Variant
    ) -> tuple[Decoded, Timeline, float]:
        timeline = Timeline(self._device.mark)
        self._device.synchronize()
        start = time.perf_counter()
        if variant.draft_length == 0:
            decoded = decoder.plain(prefill, timeline)
        else:
            head = workload.heads[variant.vocab_size]
            decoded = decoder.speculative(prefill, self._draft, head, variant.draft_length, timeline)
        self._device.synchronize()
        return decoded, timeline, (time.perf_counter() - start) * 1e3
