"""How tokens are chosen: greedily, or by sampling. Both leave the output the target's own."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.models.draft import DraftHead

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


# Lossless speculative sampling with a trimmed draft (arXiv 2211.17192, arXiv 2302.01318).


@dataclass(frozen=True)
class Sampler:
    """How the target samples.

    Attributes:
        temperature: above 0.
        top_k: only the so many likeliest tokens; None for all.
        top_p: only the likeliest tokens that together reach this probability; None for all.
    """

    temperature: float
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} is not above 0; at 0 decoding is greedy")

    def target_probs(self, logits: Tensor) -> Tensor:
        """The distribution that is sampled, `(..., V)` in float32, from logits `(..., V)`.

        Temperature, then top-k, then top-p, then normalisation; of equal logits the lower ids stay.
        """
        probs = torch.softmax(logits.float() / self.temperature, dim=-1)
        if self.top_k is None and self.top_p is None:
            return probs
        ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ordered[..., self.top_k :] = 0
        if self.top_p is not None:
            share = ordered / ordered.sum(-1, keepdim=True)
            # A token stays when those before it do not reach top_p, so the likeliest always does.
            ordered = ordered.where(share.cumsum(-1) - share < self.top_p, 0)
        kept = torch.zeros_like(probs).scatter_(-1, ids, ordered)
        return kept / kept.sum(-1, keepdim=True)

    def draft_probs(self, logits: Tensor) -> Tensor:
        """The distribution that is proposed from, `(..., k)`: the draft's own, at the same temperature.

        Any proposal is lossless; cutting its tail as well would only propose from fewer tokens.
        """
        return torch.softmax(logits.float() / self.temperature, dim=-1)


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


def sample(probs: Tensor, generator: torch.Generator) -> Tensor:
    """One index per row `(n,)` of `probs` `(n, size)`, which need not be normalised."""
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def verify(
    target_probs: Tensor,
    drafted: Tensor,
    draft_probs: Tensor,
    target_ids: Tensor | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Accepts or replaces drafted tokens, for many independent rounds at once.

    Args:
        target_probs: the target's distribution at every drafted place and after the last
            `(rounds, gamma + 1, V)`.
        drafted: rows of the draft's head that were sampled `(rounds, gamma)`.
        draft_probs: the distributions that they were sampled from `(rounds, gamma, k)`.
        target_ids: target id of every row of the head `(k,)`; None when k is the whole vocabulary.
        generator: of the random numbers.

    Returns:
        Accepted tokens of each round `(rounds,)`, and the token that follows them `(rounds,)`: of the
        residual after a rejection, else of the target's last distribution.
    """
    rounds, gamma = drafted.shape
    ids = drafted if target_ids is None else target_ids[drafted]
    proposed = draft_probs.gather(-1, drafted[..., None])[..., 0]
    wanted = target_probs[:, :gamma].gather(-1, ids[..., None])[..., 0]
    draws = torch.rand(rounds, gamma, generator=generator, device=drafted.device)
    # Written as a product, so that a proposal of probability 0 needs no division.
    num_accepted = (draws * proposed < wanted).long().cumprod(-1).sum(-1)
    every = torch.arange(rounds, device=drafted.device)
    following = target_probs[every, num_accepted]
    rejected = num_accepted < gamma
    at = num_accepted.clamp(max=gamma - 1)
    minus = torch.zeros_like(following)
    if target_ids is None:
        minus += draft_probs[every, at]
    else:
        minus[:, target_ids] = draft_probs[every, at]
    residual = (following - minus).clamp(min=0)
    # Rounding can leave nothing of a residual that is almost zero; target and draft are then the same.
    usable = rejected & (residual.sum(-1) > 0)
    return num_accepted, sample(torch.where(usable[:, None], residual, following), generator)
