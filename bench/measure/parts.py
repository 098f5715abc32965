"""The parts of a speculative round as callables that can be repeated, to be timed one at a time.

Each does what the lap of the same name in `bench.decoding.decoder` does, at a fixed place of a fixed text:
caches are rewound to the prompt before every call, so a call always does the same work on the same shapes
and addresses, and can be captured as a CUDA graph. No call waits for the device.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from bench.config import CacheState, TimingConfig
from bench.config.run import Execution
from bench.decoding.torch_engine import Prefill
from bench.device import Device
from bench.device.graphs import execute_as, executions
from bench.measure.attempts import attempt
from bench.measure.timing import TimedSeries, time_variants
from bench.measure.workload import EncodedPrompt, Probes, Rig
from bench.models.draft import Draft, DraftHead
from bench.models.target import Target
from bench.records import BaselineRecord, FailureRecord, IsolatedRecord
from bench.records.kinds import Case, Done
from bench.telemetry.samples import offset_s
from bench.variant import DRAFT_STEP, EXTEND, HEAD, LAYER, SELECT, VERIFY

Part = Callable[[], object]


@dataclass(frozen=True)
class PartKey:
    """Which part.

    Attributes:
        part: the lap's name: layer, lm_head, select, extend or verify.
        vocab_size: k, for parts whose cost depends on it.
        num_tokens: tokens taken in at once, for parts whose cost depends on that.
    """

    part: str
    vocab_size: int | None = None
    num_tokens: int | None = None

    @property
    def label(self) -> str:
        """The key as a name, one per key."""
        size = "" if self.vocab_size is None else f" k={self.vocab_size}"
        tokens = "" if self.num_tokens is None else f" n={self.num_tokens}"
        return self.part + size + tokens


def isolated_parts(
    target: Target,
    draft: Draft,
    heads: Mapping[int, DraftHead],
    draft_lengths: Sequence[int],
    prefill: Prefill,
) -> dict[PartKey, Part]:
    """All parts of rounds with these heads and draft lengths, after one prompt.

    They share weights with `target` and `draft` but have caches of their own: decodes in between neither
    disturb them nor are disturbed.

    Args:
        target: verifies.
        draft: drafts.
        heads: the draft's LM head of every vocabulary size.
        draft_lengths: gammas. Verification is built for gamma + 1 tokens, and for one: plain decoding;
            the draft takes in one to gamma + 1 verified tokens.
        prefill: the prompt.
    """
    longest = max(draft_lengths) + 1
    drafting = _Drafting(draft, prefill.prompt_ids, prefill.first_id, prefill.first_id, prefill.features)
    parts = drafting.parts(heads)
    for num_tokens in range(1, longest + 1):
        parts[PartKey(EXTEND, num_tokens=num_tokens)] = drafting.extend(num_tokens)
    verifying = _Verifying(target, prefill)
    for num_tokens in sorted({1, *(gamma + 1 for gamma in draft_lengths)}):
        parts[PartKey(VERIFY, num_tokens=num_tokens)] = verifying.verify(num_tokens)
    return parts


def draft_parts(
    draft: Draft, heads: Mapping[int, DraftHead], context_length: int, seed: int
) -> dict[PartKey, Part]:
    """The parts of one chained step of a draft that has no target, and for every size the whole step.

    A step is the token before it through the draft's layers, their output through the head, and the best
    token of that, as an id of the target. In a chain that id is the next step's input; here every call starts
    from the same token, which takes as long.

    Args:
        draft: a draft that reads no features.
        heads: its LM head of every size.
        context_length: positions held before the step.
        seed: of the context's tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    device = draft.head_weight.device
    ids = torch.randint(len(draft.vocab), (context_length + 1,), generator=generator).to(device)
    drafting = _Drafting(draft, ids[:-2], ids[-2:-1], ids[-1:], torch.empty(0, device=device))
    drafting.take_step()
    parts = drafting.parts(heads)
    for size, head in heads.items():
        parts[PartKey(DRAFT_STEP, vocab_size=size)] = drafting.whole(head)
    return parts


class _Drafting:
    """The parts of a draft that has read a context and goes on with one token."""

    @torch.inference_mode()
    def __init__(self, draft: Draft, prompt_ids: Tensor, read_id: Tensor, next_id: Tensor, features: Tensor):
        self._draft, self._next_id, self._features = draft.fork(), next_id, features
        # What a step continues from, and what the head reads.
        self._before = self._hidden = self._draft.prefill(prompt_ids, read_id, features)
        self._length = self._draft.length

    def take_step(self) -> None:
        """Heads read the output of the step that is timed, as in a chain."""
        self._hidden = self.layer()()

    def parts(self, heads: Mapping[int, DraftHead]) -> dict[PartKey, Part]:
        """Layer, and head and selection of every size."""
        parts: dict[PartKey, Part] = {PartKey(LAYER): self.layer()}
        for size, head in heads.items():
            parts[PartKey(HEAD, vocab_size=size)] = self.lm_head(head)
            parts[PartKey(SELECT, vocab_size=size)] = self.select(head)
        return parts

    def layer(self) -> Callable[[], Tensor]:
        draft, next_id, before, length = self._draft, self._next_id, self._before, self._length

        @torch.inference_mode()
        def call() -> Tensor:
            draft.rewind(length)
            return draft.step(next_id, before)

        return call

    def lm_head(self, head: DraftHead) -> Part:
        draft, hidden = self._draft, self._hidden

        @torch.inference_mode()
        def call() -> Tensor:
            return head.logits(draft.normed(hidden))

        return call

    @torch.inference_mode()
    def select(self, head: DraftHead) -> Part:
        logits = head.logits(self._draft.normed(self._hidden))

        @torch.inference_mode()
        def call() -> Tensor:
            return head.select(logits)

        return call

    def whole(self, head: DraftHead) -> Part:
        draft, next_id, before, length = self._draft, self._next_id, self._before, self._length

        @torch.inference_mode()
        def call() -> Tensor:
            draft.rewind(length)
            return head.select(head.logits(draft.normed(draft.step(next_id, before))))

        return call

    @torch.inference_mode()
    def extend(self, num_tokens: int) -> Part:
        draft, length = self._draft, self._length
        next_ids = self._next_id.repeat(num_tokens)
        features = self._features[:, -1:].repeat(1, num_tokens, 1)

        @torch.inference_mode()
        def call() -> Tensor:
            draft.rewind(length)
            return draft.extend(next_ids, features)

        return call


class _Verifying:
    """The target's passes, on a cache that holds the prompt."""

    @torch.inference_mode()
    def __init__(self, target: Target, prefill: Prefill):
        self._target, self._next_id = target, prefill.first_id
        self._cache = target.new_cache()
        target.forward(prefill.prompt_ids[None], self._cache)
        self._length = self._cache.length

    @torch.inference_mode()
    def verify(self, num_tokens: int) -> Part:
        """One pass; with the counting of accepted tokens where some were drafted, but not the wait for it."""
        target, cache, length = self._target, self._cache, self._length
        ids = self._next_id.repeat(num_tokens)
        drafted = ids[1:]

        @torch.inference_mode()
        def call() -> Tensor:
            cache.rewind(length)
            best = target.lm_head(target.forward(ids[None], cache).hidden)[0].argmax(-1)
            return best if num_tokens == 1 else (best[:-1] == drafted).long().cumprod(0).sum()

        return call


# What is measured once a run and outside of rounds: parts on their own, and the baseline's own baseline.


@dataclass(frozen=True)
class _Way:
    """One part, executed in one way."""

    key: PartKey
    execution: Execution

    @property
    def label(self) -> str:
        return f"{self.key.label} {self.execution.value}"

    def case(self, cache: CacheState) -> Case:
        """Of its record."""
        key = self.key
        how = (cache.value, self.execution.value)
        return IsolatedRecord.case_of(key.part, key.vocab_size, key.num_tokens, *how)


def isolate(
    rig: Rig, prompt: EncodedPrompt, probes: Probes, timing: TimingConfig, done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Every part of a round on its own, with the cache cold and warm, unless it is done.

    Parts of one kind, heads of every size for example, take turns: those are what is compared. The next kind
    begins when they are done, so that little is lost with a process that is killed.

    Raises:
        DeviceError: this device cannot execute as asked.
    """
    parts = attempt(("isolated",), partial(_parts, rig, prompt, probes))
    if isinstance(parts, FailureRecord):
        yield parts
        return
    yield from time_parts(rig.device, parts, timing, rig.seed, done)


def time_parts(
    device: Device, parts: Mapping[PartKey, Part], timing: TimingConfig, seed: int, done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Times parts, those of one kind in turns, with the cache cold and warm, unless they are done.

    Where the device does not say how large its cache is, the warm times are all there are.

    Args:
        device: where they run.
        parts: what to time.
        timing: effort and execution; its cache state is not looked at.
        seed: of the order.
        done: records of earlier sessions.

    Raises:
        DeviceError: this device cannot execute as asked.
    """
    ways = executions(device, timing.execution)
    has_cold = device.cache_bytes is not None
    caches = [cache for cache in CacheState if has_cold or cache is not CacheState.cold]
    by_kind = sorted(parts, key=lambda key: key.part)
    for _, keys in groupby(by_kind, key=lambda key: key.part):
        missing = {
            way: [cache for cache in caches if not done.has(way.case(cache))]
            for way in (_Way(key, execution) for key in keys for execution in ways)
        }
        left = {way: states for way, states in missing.items() if states}
        yield from _time_kind(device, parts, left, timing, seed)


def _parts(rig: Rig, prompt: EncodedPrompt, probes: Probes) -> dict[PartKey, Part]:
    prefill = rig.decoder.prefill(prompt.token_ids)
    return isolated_parts(rig.target, rig.draft, probes.heads, probes.draft_lengths, prefill)


def _time_kind(
    device: Device,
    parts: Mapping[PartKey, Part],
    missing: dict[_Way, list[CacheState]],
    timing: TimingConfig,
    seed: int,
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Parts of one kind; a part that cannot be prepared or that fails does so alone."""
    ready: dict[_Way, Callable[[], object]] = {}
    for way in missing:
        case = ("isolated", way.key.part, way.key.vocab_size, way.key.num_tokens, way.execution.value)
        call = attempt(case, partial(execute_as, device, parts[way.key], way.execution))
        if isinstance(call, FailureRecord):
            yield replace(call, was_asked_for=timing.execution is not Execution.auto)
        else:
            ready[way] = call
    for cache in CacheState:
        calls = {way.label: call for way, call in ready.items() if cache in missing[way]}
        by_label = {way.label: way for way in ready}
        for found in time_variants(device, calls, replace(timing, cache=cache), seed) if calls else ():
            if isinstance(found, FailureRecord):
                yield replace(found, case=list(by_label[str(found.case[0])].case(cache)))
            else:
                yield _record(by_label[found.name], found)


def _record(way: _Way, series: TimedSeries) -> IsolatedRecord:
    return IsolatedRecord(
        part=way.key.part,
        vocab_size=way.key.vocab_size,
        num_tokens=way.key.num_tokens,
        cache=series.cache,
        device_ms=[round(ms, 5) for ms in series.device_ms],
        wall_ms=[round(ms, 5) for ms in series.wall_ms],
        calls_per_sample=series.calls_per_sample,
        stopped=str(series.stopped),
        relative_half_width=series.relative_half_width,
        execution=way.execution.value,
        num_warmup=series.num_warmup,
        warmup_stable=series.warmup_stable,
        block_start_s=[round(start / 1e9 + offset_s(), 4) for start, _ in series.blocks_ns],
    )


def compare_with_generate(rig: Rig, domain: str, prompt: EncodedPrompt) -> BaselineRecord:
    """The plain loop and `transformers.generate` on one prompt, interleaved; best of two each."""
    plain, generate, num_tokens = [], [], 0
    for _ in range(2):
        start = time.perf_counter()
        decoded = rig.decoder.plain(rig.decoder.prefill(prompt.token_ids), rig.timeline())
        rig.device.synchronize()
        plain.append(time.perf_counter() - start)
        num_tokens = len(decoded.token_ids)
        start = time.perf_counter()
        _generate(rig, prompt, num_tokens)
        rig.device.synchronize()
        generate.append(time.perf_counter() - start)
    return BaselineRecord(domain, prompt.prompt_id, num_tokens, min(plain) * 1e3, min(generate) * 1e3)


@torch.inference_mode()
def _generate(rig: Rig, prompt: EncodedPrompt, num_tokens: int) -> None:
    ids = torch.tensor([prompt.token_ids], device=rig.target.device)
    rig.target.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
    )
