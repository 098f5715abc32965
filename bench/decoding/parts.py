"""The parts of a speculative round as callables that can be repeated, to be timed one at a time.

Each does what the lap of the same name in `bench.decoding.decoder` does, at a fixed place of a fixed text:
caches are rewound to the prompt before every call, so a call always does the same work on the same shapes
and addresses, and can be captured as a CUDA graph. No call waits for the device.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.decoding.decoder import Prefill
from bench.decoding.engine import Part, PartKey
from bench.models.draft import Draft, DraftHead
from bench.models.kernels import best_ids
from bench.models.target import Target
from bench.variant import DRAFT_STEP, EXTEND, HEAD, LAYER, SELECT, VERIFY


def isolated_parts(
    target: Target,
    draft: Draft,
    heads: Mapping[int, DraftHead],
    draft_lengths: Sequence[int],
    prefill: Prefill,
    room: int | None = None,
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
        room: positions of a cache of fixed room, on which the target verifies where rounds do; None for a
            cache that grows.
    """
    longest = max(draft_lengths) + 1
    drafting = _Drafting(draft, prefill.prompt_ids, prefill.first_id, prefill.first_id, prefill.features)
    parts = drafting.parts(heads)
    for num_tokens in range(1, longest + 1):
        parts[PartKey(EXTEND, num_tokens=num_tokens)] = drafting.extend(num_tokens)
    verifying = _Verifying(target, prefill, room)
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


def draft_step(draft: Draft, head: DraftHead, prefill: Prefill) -> Part:
    """One chained step after a prompt, from a token to the next drafted one."""
    ids = prefill.first_id
    return _Drafting(draft, prefill.prompt_ids, ids, ids, prefill.features).whole(head)


class _Drafting:
    """The parts of a draft step after a context."""

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
    def __init__(self, target: Target, prefill: Prefill, room: int | None):
        self._target, self._next_id = target, prefill.first_id
        cache = target.new_cache()
        target.forward(prefill.prompt_ids[None], cache)
        length = cache.length
        self._read = partial(target.forward, cache=cache)
        self._rewind: Callable[[], object] = partial(cache.rewind, length)
        if room is not None:
            fixed = target.static_cache(room)
            fixed.load(cache, length)
            # A pass does not change its length.
            self._read, self._rewind = partial(target.read, cache=fixed), lambda: None

    @torch.inference_mode()
    def verify(self, num_tokens: int) -> Part:
        """One pass; with the counting of accepted tokens where some were drafted, but not the wait for it."""
        target, read, rewind = self._target, self._read, self._rewind
        ids = self._next_id.repeat(num_tokens)
        drafted = ids[1:]

        @torch.inference_mode()
        def call() -> Tensor:
            rewind()
            best = best_ids(target.lm_head(read(ids[None]).hidden)[0])
            return best if num_tokens == 1 else (best[:-1] == drafted).long().cumprod(0).sum()

        return call
