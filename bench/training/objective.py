"""Training-time test (EAGLE-3, arXiv 2503.01840): the draft is judged unrolled over its own outputs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models.attention import rotary_tables
from bench.models.eagle3 import Eagle3Body
from bench.models.unroll import Unroll
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
        self._tables = rotary_tables(config.head_dim, config.rope_theta, 1024, embedding)

    def __call__(self, batch: Batch, candidates: Tensor) -> list[DepthResult]:
        """Loss by depth; the softmaxes run over the `candidates` tokens `(num_candidates,)` only."""
        body, first = self._body, CONTEXT_TOKENS - 1
        num_places = batch.tokens.shape[1] - 2
        embeds = F.embedding(batch.tokens[:, 1 : num_places + 1], self._embedding)
        is_real = torch.arange(num_places) >= batch.context_start[:, None]
        chains = Unroll(body, self._tables, embeds, batch.features[:, :num_places], is_real)
        head = self._head[candidates]
        truth = _Truth(batch, head)
        outputs = chains.chains(first, num_places, self._depths)
        return [self._judge(truth, hidden, head, depth) for depth, hidden in enumerate(outputs)]

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
