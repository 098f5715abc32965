"""This package's own engine at batch 1, timed on one device.

It decodes by the loops of `bench.decoding.decoder`, or by the rounds of `bench.decoding.static`, captured.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bench.acceptance import Intervals, Ratios
from bench.config.run import Execution
from bench.decoding.decoder import Answer, Decoder, Prefill
from bench.decoding.engine import Clock, Decoded, Part, PartKey, Replayed
from bench.decoding.parts import isolated_parts
from bench.decoding.replay import read_answer, replay, replay_sampled
from bench.decoding.rounds import Timeline
from bench.decoding.rules import GreedyRule, Rule, SampledRule, Sampler
from bench.decoding.static import Capture, StaticDecoder, needed_room
from bench.models.draft import CapturableDraft, Draft, DraftHead
from bench.models.layers import uses_flash
from bench.models.target import Target
from bench.variant import EXTEND, HEAD, LAYER, SELECT, VERIFY, Variant
from bench.vocab.draft_vocab import DraftVocab, IntArray

# Domains take turns, and each needs its own trimmed heads again. With more domains than this heads are made
# anew in every turn, which takes time and no memory.
_MOST_ORDERS = 4


@dataclass(eq=False)
class _Order:
    """An order of the draft's tokens, and the heads made of its first tokens so far, by size."""

    ids: IntArray
    heads: dict[int, DraftHead] = field(default_factory=dict)


class TorchEngine:
    """A pair on one device; see `bench.decoding.engine.Engine`.

    Args:
        clock: of the device.
        target: the target.
        draft: the draft.
        max_new_tokens: longest answer.
        seed: of sampling.
        sampler: how the target samples; None decodes greedily.
        capture: captures rounds, which are then replayed; None runs the loops.
        compiled: whether the loops run fused layers, see `bench.models.fused`.

    Attributes:
        execution: of rounds.
    """

    name = "torch"
    can_probe = True
    can_replay = True

    def __init__(
        self,
        clock: Clock,
        target: Target,
        draft: Draft,
        max_new_tokens: int,
        seed: int,
        sampler: Sampler | None = None,
        capture: Capture | None = None,
        compiled: bool = False,
    ):
        self._capture = capture
        self.execution = Execution.compiled if compiled else Execution.graph if capture else Execution.eager
        target.fuse(compiled)
        draft.fuse(compiled)
        # By the room that texts need.
        self._static: dict[int, StaticDecoder] = {}
        self._clock, self._target, self._draft, self._sampler = clock, target, draft, sampler
        self._max_new_tokens, self._seed = max_new_tokens, seed
        self._rule: Rule = SampledRule(sampler, target.device) if sampler else GreedyRule()
        self._decoder = Decoder(target, max_new_tokens, self._rule)
        self._full_head = draft.full_head()
        # The newest last.
        self._orders = [_Order(draft.vocab.target_ids)]
        self.full_size = self._full_head.size
        # A graph is one launch, so that the host is ahead of the device in every part.
        self.laps_overlap = clock.asynchronous and capture is None

    def use_order(self, order: IntArray) -> None:
        """As of `Engine`; the heads of the orders before it are kept, of `_MOST_ORDERS` at most."""
        known = next((kept for kept in self._orders if np.array_equal(kept.ids, order)), None)
        self._orders = [kept for kept in self._orders if kept is not known]
        while len(self._orders) >= _MOST_ORDERS:
            oldest = self._orders.pop(0)
            for static in self._static.values():
                static.forget(oldest.heads.values())
        self._orders.append(known or _Order(order))

    @property
    def facts(self) -> dict[str, str]:
        """How it decodes, as results name it."""
        by_torch = "scaled_dot_product_attention"
        if self.execution is Execution.compiled:
            attention = f"compiled for few tokens and positions, else {by_torch}"
        elif self.execution is Execution.eager:
            attention = by_torch
        else:
            products = "matrix products over the whole cache"
            is_flash = uses_flash(self._target.embedding_weight)
            attention = f"flash for one token, {products} for several" if is_flash else products
        return {"execution": self.execution.value, "attention": attention}

    def reseed(self, *context: object) -> None:
        """As of `Engine`."""
        self._rule.reseed(random.Random(repr((self._seed, *context))).getrandbits(62))

    def prepare(self, prompt_ids: Sequence[int]) -> Prefill:
        """As of `Engine`."""
        return self._decoder.prefill(prompt_ids)

    def load(self, variant: Variant, prepared: Sequence[Prefill] = ()) -> None:
        """As of `Engine`."""
        head = None if variant.is_plain else self._head(variant.vocab_size)
        for prefill in prepared if self._capture else ():
            self._static_for(prefill, variant.draft_length).load(head, variant.draft_length)

    def decode(
        self, prepared: Prefill, variant: Variant, max_rounds: int | None = None, with_laps: bool = True
    ) -> Decoded:
        """As of `Engine`.

        Raises:
            ValueError: the variant has several sequences, which these loops cannot decode.
        """
        if variant.batch_size != 1:
            raise ValueError(f"the {self.name} engine decodes one sequence at a time: {variant}")
        clock = self._clock
        self.load(variant, [prepared])
        timeline = self._timeline(variant.draft_length, max_rounds, with_laps)
        clock.synchronize()
        start = time.perf_counter()
        answer = self._answer(prepared, variant, timeline, max_rounds)
        timeline.stop()
        clock.synchronize()
        wall_ms = (time.perf_counter() - start) * 1e3
        total_ms, laps_ms = timeline.total_ms(clock.elapsed_ms), timeline.laps_ms(clock.elapsed_ms)
        return Decoded(answer.token_ids, answer.accepted, total_ms, wall_ms, laps_ms)

    def replay(
        self,
        prepared: Prefill,
        orders: Mapping[str, IntArray],
        sizes: IntArray,
        longest_draft: int,
        answer: Sequence[int] | None = None,
    ) -> Replayed:
        """As of `Engine`."""
        sampler = self._sampler
        if answer is None:
            plain = Variant(self.full_size, 0)
            self.load(plain, [prepared])
            answer = self._answer(prepared, plain, Timeline(lambda: None)).token_ids
        answer = list(answer)
        probs_of = sampler.target_probs if sampler else None
        text = read_answer(self._target, prepared, answer, longest_draft, self._rule, probs_of)
        what = (self._draft, self._full_head, prepared.prompt_ids, text, dict(orders))
        self._clock.synchronize()
        start = time.perf_counter()
        found: Mapping[str, Intervals | Ratios]
        if sampler is None:
            found = replay(*what, longest_draft)
        else:
            found = replay_sampled(*what, sizes, sampler, longest_draft)
        self._clock.synchronize()
        return Replayed(answer, found, (time.perf_counter() - start) * 1e3)

    def queued_rounds_ms(
        self, prepared: Prefill, variant: Variant, hold: Callable[[], object], num_rounds: int
    ) -> float:
        """Device time of a speculative round whose kernels never wait for the host.

        Args:
            prepared: the prompt.
            variant: how to draft; it must be loaded.
            hold: keeps the device waiting until everything is queued.
            num_rounds: of which the mean is taken; of loops, which have many launches, one is queued.
        """
        clock, gamma, begin = self._clock, variant.draft_length, []
        clock.recycle_marks(2)
        clock.synchronize()

        def ready() -> None:
            hold()
            begin.append(clock.mark())

        if self._capture:
            num_rounds = max(1, min(num_rounds, self._max_new_tokens // (gamma + 1)))
            head = self._head(variant.vocab_size)
            self._static_for(prepared, gamma).queue(prepared, head, gamma, num_rounds, ready)
        else:
            num_rounds, calls = 1, self._loop_of_parts(prepared, variant)
            clock.synchronize()
            ready()
            for call in calls:
                call()
        end = clock.mark()
        clock.synchronize()
        return clock.elapsed_ms(begin[0], end) / num_rounds

    def _loop_of_parts(self, prepared: Prefill, variant: Variant) -> list[Part]:
        """What a round of the loops computes, part by part, with nothing accepted."""
        size, gamma = variant.vocab_size, variant.draft_length
        parts = self.parts(prepared, [size], [gamma])
        choice = [parts[PartKey(HEAD, vocab_size=size)], parts[PartKey(SELECT, vocab_size=size)]]
        chain = choice + (gamma - 1) * [parts[PartKey(LAYER)], *choice]
        verify = parts[PartKey(VERIFY, num_tokens=gamma + 1)]
        return [*chain, verify, parts[PartKey(EXTEND, num_tokens=1)]]

    def parts(
        self, prepared: Prefill, sizes: Sequence[int], draft_lengths: Sequence[int]
    ) -> dict[PartKey, Part]:
        """As of `Engine`."""
        heads = {size: self._head(size) for size in sizes}
        longest = max(draft_lengths)
        room = needed_room(len(prepared.prompt_ids), self._max_new_tokens, longest) if self._capture else None
        return isolated_parts(self._target, self._draft, heads, draft_lengths, prepared, room)

    @torch.inference_mode()
    def reference(self, prompt_ids: Sequence[int], num_tokens: int) -> None:
        """`transformers.generate`, greedily."""
        ids = torch.tensor([list(prompt_ids)], device=self._target.device)
        self._target.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
        )

    def synchronize(self) -> None:
        """As of `Engine`."""
        self._clock.synchronize()

    def _answer(
        self, prefill: Prefill, variant: Variant, timeline: Timeline, max_rounds: int | None = None
    ) -> Answer:
        gamma = variant.draft_length
        head = None if variant.is_plain else self._head(variant.vocab_size)
        if self._capture:
            return self._static_for(prefill, gamma).decode(prefill, head, gamma, timeline, max_rounds)
        if head is None:
            return self._decoder.plain(prefill, timeline, max_rounds)
        return self._decoder.speculative(prefill, self._draft, head, gamma, timeline, max_rounds)

    def _static_for(self, prefill: Prefill, draft_length: int) -> StaticDecoder:
        assert self._capture is not None and isinstance(self._draft, CapturableDraft)
        room = needed_room(len(prefill.prompt_ids), self._max_new_tokens, draft_length)
        if room not in self._static:
            width = prefill.features.shape[-1]
            self._static[room] = StaticDecoder(
                self._target, self._draft, self._rule, self._max_new_tokens, room, width, self._capture
            )
        return self._static[room]

    def _head(self, size: int) -> DraftHead:
        if size == self.full_size:
            return self._full_head
        order = self._orders[-1]
        if size not in order.heads:
            ids = np.sort(order.ids[:size])
            order.heads[size] = self._draft.head(DraftVocab(ids, self._draft.vocab.target_vocab_size))
        return order.heads[size]

    def _timeline(self, draft_length: int, max_rounds: int | None, with_laps: bool) -> Timeline:
        if not with_laps:
            self._clock.recycle_marks(2)
            return Timeline(self._clock.mark, with_laps=False)
        # Every round ends with a token at least. It has two laps a drafted token, one between each two, and
        # those of verification, rest and extension; one mark and the draft's prefill come first.
        num_rounds = self._max_new_tokens if max_rounds is None else min(max_rounds, self._max_new_tokens)
        self._clock.recycle_marks(num_rounds * (3 * draft_length + 2) + 2)
        return Timeline(self._clock.mark)
