"""One step of a decoder-LM draft as callables that can be repeated, without a target.

All work at one fixed place: the cache is rewound to the same context before every call, so a call always does
the same work on the same shapes and addresses, and can be captured as a CUDA graph. No call waits for the
device. The context is of random tokens, which cost what any tokens cost.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.decoding.decoder import HEAD, LAYER, SELECT
from bench.measure.isolated import Part, PartKey
from bench.models.decoder_lm import DecoderLM
from bench.models.eagle3 import DraftHead

# Layers, head and selection in one; a round has no lap of its own for it.
DRAFT_STEP = "draft_step"


def draft_parts(
    draft: DecoderLM, heads: Mapping[int, DraftHead], context_length: int, seed: int
) -> dict[PartKey, Part]:
    """Decoder layers, and for every size LM head, selection and the whole step.

    A step is what a chained draft step is: the token before it through all decoder layers, their output
    through the head, and the best token of that, as an id of the target. In a chain that id is the next
    step's input; here every call starts from the same token, which takes as long.

    Args:
        draft: the draft.
        heads: its LM head of every size.
        context_length: positions held before the step.
        seed: of the context's tokens.
    """
    stepping = _Stepping(draft, context_length, seed)
    parts: dict[PartKey, Part] = {PartKey(LAYER): stepping.layer}
    for size, head in heads.items():
        parts[PartKey(HEAD, vocab_size=size)] = stepping.lm_head(head)
        parts[PartKey(SELECT, vocab_size=size)] = stepping.select(head)
        parts[PartKey(DRAFT_STEP, vocab_size=size)] = stepping.whole(head)
    # One kind after the other.
    return dict(sorted(parts.items(), key=lambda item: item[0].part))


class _Stepping:
    """A draft that holds a context."""

    @torch.inference_mode()
    def __init__(self, draft: DecoderLM, context_length: int, seed: int):
        self._draft, self._length = draft, context_length
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(draft.vocab_size, (1, context_length + 1), generator=generator).to(draft.device)
        self._next_id = ids[:, -1:].contiguous()
        self._cache = draft.new_cache()
        draft.step(ids[:, :-1], self._cache)
        self._hidden = self.layer()

    @torch.inference_mode()
    def layer(self) -> Tensor:
        """Embedding, all decoder layers and the last norm `(1, 1, H)`."""
        self._cache.rewind(self._length)
        return self._draft.step(self._next_id, self._cache)

    def lm_head(self, head: DraftHead) -> Part:
        hidden = self._hidden

        @torch.inference_mode()
        def call() -> Tensor:
            return head.logits(hidden)

        return call

    @torch.inference_mode()
    def select(self, head: DraftHead) -> Part:
        logits = head.logits(self._hidden)

        @torch.inference_mode()
        def call() -> Tensor:
            return head.select(logits)

        return call

    def whole(self, head: DraftHead) -> Part:
        @torch.inference_mode()
        def call() -> Tensor:
            return head.select(head.logits(self.layer()))

        return call
