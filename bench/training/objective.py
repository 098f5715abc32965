"""Training-time test (EAGLE-3, arXiv 2503.01840): the draft unrolled over its own outputs.

At depth 0 every position reads true features. At depth j it reads the draft's own output of depth
j - 1 one position earlier, and attends to true positions up to where its chain began plus the chain
itself - what a real draft of j + 1 tokens sees.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models.attention import apply_rotary, rotary_tables
from bench.models.eagle3 import Eagle3Body
from bench.training.collect import CONTEXT_TOKENS
from bench.training.data import Batch


@dataclass(frozen=True)
class DepthResult:
    """Mean loss and share of argmax agreement with the target at one depth."""

    loss: Tensor
    accuracy: Tensor


class Objective:
    """Loss of a draft body on a batch.

    Args:
        body: the draft being trained.
        embedding: the target's input embedding `(V, H)`, frozen.
        head: the target's LM head `(V, H)`, frozen.
        depths: how many drafted tokens the unroll covers.
    """

    def __init__(self, body: Eagle3Body, embedding: Tensor, head: Tensor, depths: int):
        self._body, self._embedding, self._head, self._depths = body, embedding, head, depths
        config = body.config
        self._groups = config.num_attention_heads // config.num_key_value_heads
        self._tables = rotary_tables(config.head_dim, config.rope_theta, 1024, embedding)

    def __call__(self, batch: Batch, candidates: Tensor) -> list[DepthResult]:
        """Loss by depth; the softmaxes run over the `candidates` tokens `(num_candidates,)` only."""
        body, first = self._body, CONTEXT_TOKENS - 1
        num_places = batch.tokens.shape[1] - 2
        embeds = F.embedding(batch.tokens[:, 1 : num_places + 1], self._embedding)
        hidden = body.fc(batch.features[:, :num_places])
        keys, values = body.keys_values(embeds, hidden)
        keys = self._rotate(keys, 0)
        mask = self._mask(batch, num_places)
        hidden, chain, results = hidden[:, first:], [], []
        head = self._head[candidates]
        truth = _Truth(batch, head)
        for depth in range(self._depths):
            start = first + depth
            q, k, v = body.queries_keys_values(embeds[:, start:], hidden)
            if depth:
                chain.append((self._rotate(k, start), v))
            attended = self._attend(self._rotate(q, start), keys, values, mask, chain)
            hidden = body.finish(attended, hidden)
            results.append(self._judge(truth, hidden, head, depth))
            hidden = hidden[:, :-1]
        return results

    def _mask(self, batch: Batch, num_places: int) -> Tensor:
        """Which true places each chain start sees `(batch, 1, 1, starts, places)`."""
        places = torch.arange(num_places)
        causal = places[None, :] <= places[CONTEXT_TOKENS - 1 :, None]
        real = places[None, :] >= batch.context_start[:, None]
        return (causal[None] & real[:, None])[:, None, None]

    def _rotate(self, x: Tensor, start: int) -> Tensor:
        cos, sin = self._tables
        return apply_rotary(x, cos[start : start + x.shape[2]], sin[start : start + x.shape[2]])

    def _attend(
        self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, chain: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        n = q.shape[2]
        q = q.unflatten(1, (-1, self._groups)) * q.shape[-1] ** -0.5
        scores = (q @ keys[:, :, None].transpose(-1, -2)).masked_fill(~mask[:, :, :, :n], float("-inf"))
        own = [(q * k[:, :, None, :n]).sum(-1, keepdim=True) for k, _ in chain]
        weights = torch.softmax(torch.cat([scores, *own], dim=-1), dim=-1)
        attended = weights[..., : keys.shape[2]] @ values[:, :, None]
        for index, (_, v) in enumerate(chain):
            column = keys.shape[2] + index
            attended = attended + weights[..., column : column + 1] * v[:, :, None, :n]
        return attended.flatten(1, 2)

    def _judge(self, truth: "_Truth", hidden: Tensor, head: Tensor, depth: int) -> DepthResult:
        said = truth.said[:, depth:]
        rows = truth.row_of[:, depth:][said]
        logits = self._body.norm(hidden)[said] @ head.T
        log_probs = torch.log_softmax(logits, dim=-1)
        soft = -(truth.probs[rows] * log_probs).sum(-1).mean()
        hard = F.nll_loss(log_probs, truth.best[rows])
        agree = (logits.argmax(-1) == truth.best[rows]).float().mean()
        return DepthResult((soft + hard) / 2, agree)


class _Truth:
    """What the target says at every answer place, computed once for all depths.

    Attributes:
        said: whether the place's next token is part of the answer `(batch, A - 1)`.
        row_of: where the place is in `probs` and `best` `(batch, A - 1)`.
        probs: the target's distribution over the candidates `(places, num_candidates)`.
        best: its argmax `(places,)`.
    """

    def __init__(self, batch: Batch, head: Tensor):
        hidden = batch.hidden[:, CONTEXT_TOKENS:-1]
        self.said = torch.arange(hidden.shape[1]) + 1 < batch.num_answer[:, None]
        self.row_of = (self.said.flatten().cumsum(0) - 1).view_as(self.said)
        with torch.no_grad():
            logits = hidden[self.said] @ head.T
            self.probs, self.best = torch.softmax(logits, dim=-1), logits.argmax(-1)
