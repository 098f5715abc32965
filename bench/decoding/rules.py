"""How tokens are chosen: greedily, or by sampling. Both leave the output the target's own."""

from typing import Any, Protocol

import torch
from torch import Tensor

from bench.decoding.sampling import Sampler, sample, verify
from bench.models.eagle3 import DraftHead

# What a rule remembers of one drafted token until its verification.
Proposal = Any


class Rule(Protocol):
    """What differs between greedy and sampled decoding."""

    def reseed(self, seed: int) -> None:
        """Starts the random numbers again."""

    def next_id(self, logits: Tensor) -> Tensor:
        """The target's token `(1,)` from its logits `(1, V)`."""

    def draft(self, head: DraftHead, logits: Tensor) -> tuple[Tensor, Proposal]:
        """A drafted token's target id `(1,)` from the draft's logits `(1, k)`."""

    def verify(
        self, head: DraftHead, logits: Tensor, drafted: Tensor, proposals: list[Proposal]
    ) -> tuple[int, Tensor]:
        """Accepted tokens, and the ids that go into the answer: those and one more.

        Args:
            head: that drafted.
            logits: of the target, at every drafted place and after the last `(gamma + 1, V)`.
            drafted: target ids `(gamma,)`.
            proposals: what `draft` returned beside each.
        """


class GreedyRule:
    """The likeliest token; a drafted token survives only where the target's own argmax is that token."""

    def reseed(self, seed: int) -> None:
        """Nothing is random."""

    def next_id(self, logits: Tensor) -> Tensor:
        """The argmax."""
        return logits.argmax(-1)

    def draft(self, head: DraftHead, logits: Tensor) -> tuple[Tensor, Proposal]:
        """The argmax; among equals the lowest id, whatever k is."""
        return head.select(logits), None

    def verify(
        self, head: DraftHead, logits: Tensor, drafted: Tensor, proposals: list[Proposal]
    ) -> tuple[int, Tensor]:
        """Drafted tokens up to the first that is not the target's argmax, then that argmax."""
        best = logits.argmax(-1)
        num_accepted = int((best[:-1] == drafted).long().cumprod(0).sum())
        return num_accepted, best[: num_accepted + 1]


class SampledRule:
    """Lossless speculative sampling; see `bench.decoding.sampling`.

    Args:
        sampler: temperature, top-k and top-p.
        device: of the random numbers.
    """

    def __init__(self, sampler: Sampler, device: torch.device):
        self.sampler = sampler
        self._generator = torch.Generator(device=device)

    def reseed(self, seed: int) -> None:
        """Starts the random numbers again."""
        self._generator.manual_seed(seed)

    def next_id(self, logits: Tensor) -> Tensor:
        """A sample of the target's distribution."""
        return sample(self.sampler.target_probs(logits), self._generator)

    def draft(self, head: DraftHead, logits: Tensor) -> tuple[Tensor, Proposal]:
        """A sample of the draft's distribution."""
        probs = self.sampler.draft_probs(logits)
        row = sample(probs, self._generator)
        return row if head.target_ids is None else head.target_ids[row], (row, probs)

    def verify(
        self, head: DraftHead, logits: Tensor, drafted: Tensor, proposals: list[Proposal]
    ) -> tuple[int, Tensor]:
        """Drafted tokens up to the first rejected one, then a sample of the residual or of the target."""
        rows, probs = (torch.cat(part) for part in zip(*proposals, strict=True))
        target_probs = self.sampler.target_probs(logits)
        count, following = verify(
            target_probs[None], rows[None], probs[None], head.target_ids, self._generator
        )
        num_accepted = int(count)
        return num_accepted, torch.cat([drafted[:num_accepted], following])
