"""Lossless speculative sampling with a trimmed draft (arXiv 2211.17192, arXiv 2302.01318).

A drafted token x is accepted with probability min(1, target(x) / draft(x)); the first rejected one is
replaced by a sample of the residual max(0, target - draft), normalised. What comes out follows the target's
distribution whatever the draft proposes from. A trimmed draft gives the tokens that it lacks probability 0:
they enter through the residual, which therefore spans the target's whole vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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
