"""How tokens are chosen: greedily, or by sampling. Neither changes the output of the target.

Sampling follows arXiv 2211.17192 and arXiv 2302.01318, with a draft whose vocabulary is trimmed.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.models.draft import DraftHead
from bench.models.kernels import best_ids

# What a rule needs of one drafted token for its verification.
Proposal = Any


class Draws:
    """The random numbers of one round, which can be drawn again into the same memory.

    Args:
        generator: they come from.
        draft_length: gamma; 0 for a step of plain decoding.
        vocab_size: k.
        target_size: tokens of the target.

    Attributes:
        drafting: exponential, of every drafted token `(gamma, k)`.
        accepting: uniform in [0, 1) `(gamma,)`.
        following: exponential, of the token after those accepted `(1, V)`.
    """

    def __init__(self, generator: torch.Generator, draft_length: int, vocab_size: int, target_size: int):
        self._generator, device = generator, generator.device
        self.drafting = torch.empty(draft_length, vocab_size, device=device)
        self.accepting = torch.empty(draft_length, device=device)
        self.following = torch.empty(1, target_size, device=device)

    def redraw(self) -> "Draws":
        """New numbers; never waits for the device."""
        self.accepting.uniform_(generator=self._generator)
        for noise in (self.drafting, self.following):
            # Zero is possible though unlikely, and must not be divided by.
            noise.exponential_(generator=self._generator).clamp_(min=torch.finfo(noise.dtype).tiny)
        return self


class Rule(Protocol):
    """What differs between greedy and sampled decoding. No method waits for the device."""

    def reseed(self, seed: int) -> None:
        """Restarts the random numbers."""

    def next_id(self, logits: Tensor) -> Tensor:
        """The target's token `(1,)` from its logits `(1, V)`."""

    def draws(self, draft_length: int, vocab_size: int, target_size: int) -> Draws | None:
        """Memory for a round's random numbers, as of `Draws`; None where nothing is random."""

    def draft(
        self, head: DraftHead, logits: Tensor, draws: Draws | None, depth: int
    ) -> tuple[Tensor, Proposal]:
        """A drafted token's target id `(1,)` from the draft's logits `(1, k)`.

        Args:
            head: which gave the logits.
            logits: the draft's.
            draws: of this round.
            depth: tokens that were drafted before it in this round.
        """

    def verify(
        self,
        head: DraftHead | None,
        logits: Tensor,
        drafted: Tensor,
        proposals: list[Proposal],
        draws: Draws | None,
    ) -> tuple[Tensor, Tensor]:
        """How many drafted tokens are accepted, and how the answer continues.

        Args:
            head: that drafted; None where nothing was.
            logits: of the target, at every drafted place and after the last `(gamma + 1, V)`.
            drafted: target ids `(gamma,)`.
            proposals: what `draft` returned beside each.
            draws: of this round.

        Returns:
            The number `(1,)`, and ids `(gamma + 1,)`: the accepted ones and one more; the rest are undefined.
        """


class GreedyRule:
    """The likeliest token; a drafted token is accepted only if it is the target's argmax."""

    def reseed(self, seed: int) -> None:
        """Nothing is random."""

    def next_id(self, logits: Tensor) -> Tensor:
        """The argmax."""
        return best_ids(logits)

    def draws(self, draft_length: int, vocab_size: int, target_size: int) -> None:
        """Nothing is random."""

    def draft(
        self, head: DraftHead, logits: Tensor, draws: Draws | None, depth: int
    ) -> tuple[Tensor, Proposal]:
        """The argmax; among equals the lowest id, whatever k is."""
        return head.select(logits), None

    def verify(
        self,
        head: DraftHead | None,
        logits: Tensor,
        drafted: Tensor,
        proposals: list[Proposal],
        draws: Draws | None,
    ) -> tuple[Tensor, Tensor]:
        """Drafted tokens up to the first that is not the target's argmax, then that argmax."""
        best = best_ids(logits)
        # An accepted token is the argmax.
        return (best[:-1] == drafted).long().cumprod(0).sum(0, keepdim=True), best


@dataclass(frozen=True)
class Sampler:
    """How the target samples.

    Attributes:
        temperature: above 0.
        top_k: how many of the likeliest tokens are kept; None for all.
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

        Any proposal is lossless. Top-k and top-p would only make the draft propose from fewer tokens.
        """
        return torch.softmax(logits.float() / self.temperature, dim=-1)


class SampledRule:
    """Lossless speculative sampling.

    Args:
        sampler: temperature, top-k and top-p.
        device: of the random numbers.
    """

    def __init__(self, sampler: Sampler, device: torch.device):
        self.sampler = sampler
        self._generator = torch.Generator(device=device)

    def reseed(self, seed: int) -> None:
        """Restarts the random numbers."""
        self._generator.manual_seed(seed)

    def next_id(self, logits: Tensor) -> Tensor:
        """A sample of the target's distribution."""
        draws = self.draws(0, 0, logits.shape[-1]).redraw()
        return sample(self.sampler.target_probs(logits), draws.following)

    def draws(self, draft_length: int, vocab_size: int, target_size: int) -> Draws:
        """As of `Rule`."""
        return Draws(self._generator, draft_length, vocab_size, target_size)

    def draft(
        self, head: DraftHead, logits: Tensor, draws: Draws | None, depth: int
    ) -> tuple[Tensor, Proposal]:
        """A sample of the draft's distribution."""
        assert draws is not None
        probs = self.sampler.draft_probs(logits)
        row = sample(probs, draws.drafting[depth])
        return row if head.target_ids is None else head.target_ids[row], (row, probs)

    def verify(
        self,
        head: DraftHead | None,
        logits: Tensor,
        drafted: Tensor,
        proposals: list[Proposal],
        draws: Draws | None,
    ) -> tuple[Tensor, Tensor]:
        """Drafted tokens up to the first rejected one, then a sample of the residual or of the target."""
        assert draws is not None
        target_probs = self.sampler.target_probs(logits)
        if head is None:
            return torch.zeros_like(drafted).sum(0, keepdim=True), sample(target_probs, draws.following)
        rows, probs = (torch.cat(part) for part in zip(*proposals, strict=True))
        noise = draws.accepting[None], draws.following
        count, following = verify(target_probs[None], rows[None], probs[None], head.target_ids, *noise)
        return count, torch.cat([drafted, following]).index_copy(0, count, following)


def sample(probs: Tensor, noise: Tensor) -> Tensor:
    """One index per row `(n,)` of `probs` `(n, size)`, which need not be normalised.

    The smallest of exponential variables with these rates is at each index with its probability.
    Unlike `torch.multinomial` it never waits for a GPU.

    Args:
        probs: not negative.
        noise: independent exponential numbers above 0, as `probs` or broadcast to it.
    """
    return (probs / noise).argmax(-1)


def verify(
    target_probs: Tensor,
    drafted: Tensor,
    draft_probs: Tensor,
    target_ids: Tensor | None,
    uniform: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Accepts or replaces drafted tokens, for many independent rounds at once.

    Args:
        target_probs: the target's distribution at every drafted place and after the last
            `(rounds, gamma + 1, V)`.
        drafted: rows of the draft's head that were sampled `(rounds, gamma)`.
        draft_probs: the distributions that they were sampled from `(rounds, gamma, k)`.
        target_ids: target id of every row of the head `(k,)`; None when k is the whole vocabulary.
        uniform: random numbers in [0, 1) `(rounds, gamma)`.
        noise: independent exponential numbers above 0 `(rounds, V)`.

    Returns:
        Accepted tokens of each round `(rounds,)`, and the token that follows them `(rounds,)`: of the
        residual after a rejection, else of the target's last distribution.
    """
    rounds, gamma = drafted.shape
    ids = drafted if target_ids is None else target_ids[drafted]
    proposed = draft_probs.gather(-1, drafted[..., None])[..., 0]
    wanted = target_probs[:, :gamma].gather(-1, ids[..., None])[..., 0]
    # Written as a product, so that a proposal of probability 0 needs no division.
    num_accepted = (uniform * proposed < wanted).long().cumprod(-1).sum(-1)
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
    return num_accepted, sample(torch.where(usable[:, None], residual, following), noise)
