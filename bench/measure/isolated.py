"""The parts of a speculative round as callables that can be repeated, to be timed one at a time.

Each does what the lap of the same name in `bench.decoding.decoder` does, at a fixed place of a fixed text:
caches are rewound to the prompt before every call, so a call always does the same work on the same shapes
and addresses, and can be captured as a CUDA graph. No call waits for the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.decoding.decoder import EXTEND, HEAD, LAYER, SELECT, VERIFY, Prefill
from bench.models.eagle3 import DraftHead, Eagle3Draft
from bench.models.target import Target

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
    draft: Eagle3Draft,
    heads: dict[int, DraftHead],
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
    drafting = _Drafting(draft, prefill)
    parts: dict[PartKey, Part] = {PartKey(LAYER): drafting.layer()}
    for size, head in heads.items():
        parts[PartKey(HEAD, vocab_size=size)] = drafting.lm_head(head)
        parts[PartKey(SELECT, vocab_size=size)] = drafting.select(head)
    for num_tokens in range(1, longest + 1):
        parts[PartKey(EXTEND, num_tokens=num_tokens)] = drafting.extend(num_tokens)
    verifying = _Verifying(target, prefill)
    for num_tokens in sorted({1, *(gamma + 1 for gamma in draft_lengths)}):
        parts[PartKey(VERIFY, num_tokens=num_tokens)] = verifying.verify(num_tokens)
    return parts


class _Drafting:
    """The draft's parts, on a draft that has read the prompt."""

    @torch.inference_mode()
    def __init__(self, draft: Eagle3Draft, prefill: Prefill):
        self._draft = Eagle3Draft(draft.body, draft.embedding)
        self._next_id, self._features = prefill.first_id, prefill.features
        prompt = torch.cat([prefill.prompt_ids[1:], self._next_id])
        self._hidden = self._draft.extend(prompt, self._features)
        self._length = self._draft.length

    def layer(self) -> Part:
        draft, next_id, hidden, length = self._draft, self._next_id, self._hidden, self._length

        @torch.inference_mode()
        def call() -> Tensor:
            draft.rewind(length)
            return draft.step(next_id, hidden)

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
