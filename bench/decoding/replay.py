"""Acceptance of every vocabulary size and draft length from one teacher-forced pass.

The draft is unrolled over the target's own answer with its whole LM head. As long as it is right, its
tokens are those of the answer, so one pass replaces the decodes of every size: see `bench.acceptance`. A
greedy answer gives every size; a sampled one gives the expected acceptance of a grid of sizes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.acceptance import Intervals, Ratios
from bench.decoding.decoder import Prefill
from bench.decoding.rules import GreedyRule, Rule, Sampler
from bench.models.draft import Chains, Draft, DraftHead
from bench.models.target import Target

# Chains that are unrolled together, and rows of logits at a time: they limit the memory in use.
CHAINS, LOGIT_ROWS = 256, 64

_GREEDY = GreedyRule()


@dataclass(frozen=True)
class AnswerText:
    """An answer of the target as the replay reads it.

    Attributes:
        token_ids: the answer, then the target's own continuation past its end, as the last round may
            draft beyond the answer `(num_tokens + longest draft - 1,)`.
        num_tokens: tokens of the answer.
        features: of the prompt and of the text `(1, n, width)`.
        target_probs: of every token of the text but the first, where it was sampled
            `(num_tokens + longest draft - 2,)`.
    """

    token_ids: Tensor
    num_tokens: int
    features: Tensor
    target_probs: Tensor | None = None


@torch.inference_mode()
def read_answer(
    target: Target,
    prefill: Prefill,
    answer: Sequence[int],
    longest_draft: int,
    rule: Rule = _GREEDY,
    probs_of: Callable[[Tensor], Tensor] | None = None,
) -> AnswerText:
    """Features of the target's answer, and the tokens that would follow it.

    Args:
        target: that wrote it.
        prefill: of the prompt.
        answer: token ids.
        longest_draft: gamma up to which rounds draft.
        rule: that chose its tokens.
        probs_of: from logits to the distribution that was sampled; None for greedy answers.
    """
    cache = prefill.restart()
    ids = torch.tensor(list(answer), device=target.device)
    output = target.forward(ids[None], cache)
    # Greedy answers need the last logits alone, to go on from.
    hidden = output.hidden if probs_of else output.hidden[:, -1:]
    features, tokens, seen = [prefill.features, output.features], [ids], [target.lm_head(hidden)[0]]
    for _ in range(longest_draft - 1):
        tokens.append(rule.next_id(seen[-1][-1:]))
        output = target.forward(tokens[-1][None], cache)
        features.append(output.features)
        seen.append(target.lm_head(output.hidden)[0])
    text = torch.cat(tokens)
    probs = None
    if probs_of is not None:
        # The last logits are of a token that nothing drafts.
        probs = torch.cat([probs_of(part) for part in seen])[:-1].gather(1, text[1:, None])[:, 0]
    return AnswerText(text, len(answer), torch.cat(features, dim=1), probs)


@torch.inference_mode()
def replay(
    draft: Draft,
    head: DraftHead,
    prompt_ids: Tensor,
    text: AnswerText,
    orders: dict[str, np.ndarray],
    longest_draft: int,
) -> dict[str, Intervals]:
    """For which sizes the draft is right, from every place of an answer at every depth.

    Args:
        draft: its cache is neither read nor written.
        head: the draft's whole LM head.
        prompt_ids: `(n,)`.
        text: the answer.
        orders: by name, the ids of `head` as they enter a vocabulary `(head.size,)`.
        longest_draft: gamma up to which depths are replayed.

    Returns:
        Intervals for the vocabularies of each order; an empty one is `(head.size + 1, 0)`.
    """
    ranks = _Ranks(head, orders, text.token_ids)
    first, num_starts = len(prompt_ids) - 1, text.num_tokens - 1
    unroll = _unroll(draft, prompt_ids, text)
    device = prompt_ids.device
    shape = (len(orders), num_starts, longest_draft)
    low = torch.full(shape, head.size + 1, device=device)
    high = torch.zeros(shape, dtype=torch.long, device=device)
    for begin in range(0, num_starts, CHAINS):
        end = min(begin + CHAINS, num_starts)
        block = _Bounds(low[:, begin:end], high[:, begin:end])
        for depth, hidden in enumerate(unroll.chains(first + begin, first + end, longest_draft)):
            rows = block.alive(depth)
            for part in rows.split(LOGIT_ROWS):
                logits = head.logits(draft.normed(hidden[0, part]))
                block.narrow(depth, part, *ranks.bounds(logits, begin + part + depth + 1))
    # Which empty interval it is says nothing; the same one everywhere takes little space in a file.
    is_empty = low >= high
    low, high = low.masked_fill(is_empty, head.size + 1), high.masked_fill(is_empty, 0)
    bounds = zip(low.cpu().numpy(), high.cpu().numpy(), strict=True)
    return {name: Intervals(*pair) for name, pair in zip(orders, bounds, strict=True)}


def _unroll(draft: Draft, prompt_ids: Tensor, text: AnswerText) -> Chains:
    token_ids = torch.cat([prompt_ids, text.token_ids])
    return draft.unroll(token_ids, text.features[:, : len(token_ids) - 1])


class _Bounds:
    """Intervals of one block of chains `(orders, chains, depths)`, narrowed depth by depth in place."""

    def __init__(self, low: Tensor, high: Tensor):
        self._low, self._high = low, high

    def alive(self, depth: int) -> Tensor:
        """Chains that some size of some order still has right; the others need no logits."""
        if not depth:
            return torch.arange(self._low.shape[1], device=self._low.device)
        held = self._low[..., depth - 1] < self._high[..., depth - 1]
        return held.any(dim=0).nonzero().flatten()

    def narrow(self, depth: int, chains: Tensor, low: Tensor, high: Tensor) -> None:
        """Intersects what held at the depth before with `low` and `high` `(orders, len(chains))`."""
        if depth:
            low = torch.maximum(low, self._low[:, chains, depth - 1])
            high = torch.minimum(high, self._high[:, chains, depth - 1])
        self._low[:, chains, depth], self._high[:, chains, depth] = low, high


class _Ranks:
    """Ranks of the head's rows in each order, and the rows of the text's tokens."""

    def __init__(self, head: DraftHead, orders: dict[str, np.ndarray], token_ids: Tensor):
        device = token_ids.device
        ids = torch.arange(head.size, device=device) if head.target_ids is None else head.target_ids
        # A token that the draft does not have gets the row of another one and the rank of none.
        self._rows = torch.searchsorted(ids, token_ids).clamp(max=head.size - 1)
        self._known = ids[self._rows] == token_ids
        self._size = head.size
        self._ranks = torch.empty(len(orders), head.size, dtype=torch.long, device=device)
        for index, order in enumerate(orders.values()):
            places = torch.searchsorted(ids, torch.from_numpy(order).to(device))
            self._ranks[index, places] = torch.arange(1, head.size + 1, device=device)

    def bounds(self, logits: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Interval of sizes that draft the token at each place of the text, `(orders, n)` each.

        A token is beaten by those of a higher logit, and of the same logit and a lower id: as `select` does.
        """
        rows, known = self._rows[places], self._known[places]
        own = logits.gather(1, rows[:, None])
        which, rivals = (logits >= own).nonzero(as_tuple=True)
        wins = (logits[which, rivals] > own[which, 0]) | (rivals < rows[which])
        which, rivals = which[wins], rivals[wins]
        low = torch.where(known, self._ranks[:, rows], self._size + 1)
        high = torch.full_like(low, self._size + 1)
        # One order after the other: a draft that is far off has nearly as many rivals as there are logits.
        for bound, ranks in zip(high, self._ranks, strict=True):
            bound.scatter_reduce_(0, which, ranks[rivals], "amin")
        return low, high


@torch.inference_mode()
def replay_sampled(
    draft: Draft,
    head: DraftHead,
    prompt_ids: Tensor,
    text: AnswerText,
    orders: dict[str, np.ndarray],
    sizes: np.ndarray,
    sampler: Sampler,
    longest_draft: int,
) -> dict[str, Ratios]:
    """How likely each token of an answer is accepted from a draft of each size.

    Args:
        draft: its cache is neither read nor written.
        head: the draft's whole LM head.
        prompt_ids: `(n,)`.
        text: a sampled answer, read with `sampler`.
        orders: by name, the ids of `head` as they enter a vocabulary `(head.size,)`.
        sizes: vocabulary sizes, ascending `(num_sizes,)`.
        sampler: that wrote the answer.
        longest_draft: gamma up to which depths are replayed.

    Returns:
        Ratios for the vocabularies of each order.
    """
    if text.target_probs is None:
        raise ValueError("a greedy answer has no distribution that it was sampled from; use replay")
    first, num_starts = len(prompt_ids) - 1, text.num_tokens - 1
    unroll = _unroll(draft, prompt_ids, text)
    columns = [_Columns(head, order, text.token_ids, sizes) for order in orders.values()]
    ratios = np.zeros((len(orders), num_starts, longest_draft, len(sizes)))
    for begin in range(0, num_starts, CHAINS):
        end = min(begin + CHAINS, num_starts)
        for depth, hidden in enumerate(unroll.chains(first + begin, first + end, longest_draft)):
            for rows in torch.arange(end - begin, device=prompt_ids.device).split(LOGIT_ROWS):
                logits = head.logits(draft.normed(hidden[0, rows])).float() / sampler.temperature
                places = begin + rows + depth + 1
                wanted = text.target_probs[places - 1, None]
                for index, column in enumerate(columns):
                    found = (column.probs(logits, places) / wanted).clamp(max=1)
                    ratios[index, (begin + rows).cpu(), depth] = found.cpu().numpy()
    return {name: Ratios(ratios[index], sizes) for index, name in enumerate(orders)}


class _Columns:
    """The head's rows in the order in which they enter a vocabulary."""

    def __init__(self, head: DraftHead, order: np.ndarray, token_ids: Tensor, sizes: np.ndarray):
        device = token_ids.device
        ids = torch.arange(head.size, device=device) if head.target_ids is None else head.target_ids
        entering = torch.from_numpy(order).to(device)
        self._rows = torch.searchsorted(ids, entering)
        # Rank of every token of the text, past all sizes where the draft does not have it.
        is_same = token_ids[:, None] == entering
        self._ranks = torch.where(is_same.any(1), is_same.long().argmax(1), head.size)
        self._sizes = torch.from_numpy(sizes).to(device)

    def probs(self, scaled: Tensor, places: Tensor) -> Tensor:
        """Probability of the text's token under the draft of each size `(n, num_sizes)`."""
        entering = scaled[:, self._rows].double()
        weights = (entering - entering.max(-1, keepdim=True).values).exp()
        ranks = self._ranks[places]
        own = weights.gather(1, ranks.clamp(max=weights.shape[1] - 1)[:, None])
        of_all = weights.cumsum(-1)[:, self._sizes - 1]
        # In a small vocabulary all weights may round to 0, as they are relative to the largest of all.
        return torch.where(ranks[:, None] < self._sizes, own / of_all.clamp(min=1e-300), 0)
