"""Decoding at batch 1: plain, and speculative with a chain of drafted tokens.

Both loops start from the same prefill and stop at the same token. Speculation is lossless (arXiv
2211.17192): the greedy rule's output is that of the plain loop up to floating-point ties between passes of
different length, the sampling rule's follows the plain loop's distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.decoding.rounds import Timeline
from bench.decoding.rules import Draws, GreedyRule, Proposal, Rule
from bench.models.draft import Draft, DraftHead
from bench.models.layers import KVCache
from bench.models.target import Target
from bench.variant import EXTEND, HEAD, LAYER, OTHER, PREFILL, SELECT, VERIFY


@dataclass(frozen=True)
class Answer:
    """One answer, decoded after the prefill.

    Attributes:
        token_ids: the answer from its first token, which the prefill gives, to its end token if it has one.
        accepted: number of accepted drafted tokens of each round; empty for plain decoding.
    """

    token_ids: list[int]
    accepted: list[int]


@dataclass(frozen=True)
class Prefill:
    """A prompt that the target has read, from which any number of decodes can start.

    Attributes:
        prompt_ids: `(n,)`.
        cache: keys and values; a decode rewinds it to the prompt before it begins.
        first_id: the answer's first token `(1,)`.
        features: of every prompt position `(1, n, width)`.
    """

    prompt_ids: Tensor
    cache: KVCache
    first_id: Tensor
    features: Tensor

    def restart(self) -> KVCache:
        """The cache, rewound to the end of the prompt."""
        self.cache.rewind(len(self.prompt_ids))
        return self.cache


_GREEDY = GreedyRule()


class Decoder:
    """Decodes prompts one at a time with one target.

    Args:
        target: the model whose output is wanted.
        max_new_tokens: longest answer.
        rule: how tokens are chosen.
    """

    def __init__(self, target: Target, max_new_tokens: int, rule: Rule = _GREEDY):
        self._target, self.rule = target, rule
        self._max_new_tokens = max_new_tokens
        self._stop = target.eos_token_ids()

    @torch.inference_mode()
    def prefill(self, prompt: Sequence[int]) -> Prefill:
        """Reads a prompt once; every variant decodes from there."""
        target, cache = self._target, self._target.new_cache()
        prompt_ids = torch.tensor(list(prompt), device=target.device)
        output = target.forward(prompt_ids[None], cache)
        first_id = self.rule.next_id(target.lm_head(output.hidden[:, -1]))
        return Prefill(prompt_ids, cache, first_id, output.features)

    @torch.inference_mode()
    def plain(self, prefill: Prefill, timeline: Timeline, max_steps: int | None = None) -> Answer:
        """One token per forward pass; with `max_steps` it may stop earlier."""
        target, cache = self._target, prefill.restart()
        next_id = prefill.first_id
        tokens = [int(next_id)]
        timeline.start()
        while not self._ended(tokens):
            next_id = self.rule.next_id(target.lm_head(target.forward(next_id[None], cache).hidden)[0])
            tokens.append(int(next_id))
            timeline.lap(VERIFY)
            if len(tokens) - 1 == max_steps:
                break
        return Answer(tokens, [])

    @torch.inference_mode()
    def speculative(
        self,
        prefill: Prefill,
        draft: Draft,
        head: DraftHead,
        draft_length: int,
        timeline: Timeline,
        max_rounds: int | None = None,
    ) -> Answer:
        """`draft_length` tokens drafted with `head`, then verified in one pass, until the answer ends.

        The draft's own prefill is in the timeline. With `max_rounds` it may stop earlier.
        """
        target, cache, pending = self._target, prefill.restart(), prefill.first_id
        tokens, accepted = [int(pending)], []
        timeline.start()
        hidden = draft.prefill(prefill.prompt_ids, pending, prefill.features)
        timeline.lap(PREFILL)
        while not self._ended(tokens):
            base_length, draft_base = cache.length, draft.length
            drafted, proposals, draws = self._draft_chain(draft, head, hidden, draft_length, timeline)
            output = target.forward(torch.cat([pending, drafted])[None], cache)
            logits = target.lm_head(output.hidden)[0]
            count, new_ids = self.rule.verify(head, logits, drafted, proposals, draws)
            timeline.lap(VERIFY)
            # The only place where the host waits for the device: one transfer for a whole round.
            num_accepted, *found = torch.cat([count, new_ids]).tolist()
            new_ids = new_ids[: num_accepted + 1]
            self._append(tokens, found[: num_accepted + 1])
            accepted.append(num_accepted)
            cache.rewind(base_length + num_accepted + 1)
            draft.rewind(draft_base)
            timeline.lap(OTHER)
            if self._ended(tokens) or len(accepted) == max_rounds:
                break
            hidden = draft.extend(new_ids, output.features[:, : num_accepted + 1])
            pending = new_ids[-1:]
            timeline.lap(EXTEND)
        return Answer(tokens, accepted)

    def _draft_chain(
        self, draft: Draft, head: DraftHead, hidden: Tensor, draft_length: int, timeline: Timeline
    ) -> tuple[Tensor, list[Proposal], Draws | None]:
        """Target ids of the drafted tokens `(draft_length,)`; never waits for the device."""
        drafted: list[Tensor] = []
        proposals: list[Proposal] = []
        draws: Draws | None = None
        for depth in range(draft_length):
            if depth:
                hidden = draft.step(drafted[-1], hidden)
                timeline.lap(LAYER)
            logits = head.logits(draft.normed(hidden))
            timeline.lap(HEAD)
            if not depth:
                draws = self.rule.draws(draft_length, head.size, self._target.vocab_size)
                draws = draws and draws.redraw()
            token, proposal = self.rule.draft(head, logits[0], draws, depth)
            drafted.append(token)
            proposals.append(proposal)
            timeline.lap(SELECT)
        return torch.cat(drafted), proposals, draws

    def _ended(self, tokens: list[int]) -> bool:
        return tokens[-1] in self._stop or len(tokens) >= self._max_new_tokens

    def _append(self, tokens: list[int], new_tokens: list[int]) -> None:
        for token in new_tokens:
            tokens.append(token)
            if self._ended(tokens):
                return
