"""The interface of every kind of draft model.

A decoding loop reads a prompt into the draft, drafts a chain from it, forgets the chain, and lets the draft
take in what the target verified:

    hidden = draft.prefill(prompt_ids, first_id, features)
    while ...:
        length = draft.length
        for each token:    logits = head.logits(draft.normed(hidden)); hidden = draft.step(token, hidden)
        draft.rewind(length)
        hidden = draft.extend(verified_ids, features)

A new kind is one file with a subclass of `Draft`, or of `CapturableDraft` if its rounds can be a graph, and
its loader; and a line in `bench.models.checkpoint`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from bench.cost.shape import DraftKind, DraftShape
from bench.errors import CheckpointError, VocabError
from bench.models.draft_config import LayerIds
from bench.models.fused import FusedOps, fused_ops
from bench.models.kernels import best_ids, make_linear
from bench.models.layers import StaticCache, TokenCache
from bench.models.target import Target
from bench.vocab.draft_vocab import DraftVocab, IntArray


class DraftHead:
    """The draft's LM head over k tokens: the rows of the whole head that the vocabulary keeps.

    Args:
        weight: those rows `(k, H)`.
        target_ids: target id of every row `(k,)`, ascending; None when k is the whole vocabulary.
        logit_cap: soft cap on logits, as Gemma 2 has it: cap x tanh(logits / cap). None without.
        ops: compiled functions that choose tokens; None: torch's.

    Attributes:
        size: k.
        target_ids: as given.
    """

    def __init__(
        self,
        weight: Tensor,
        target_ids: Tensor | None,
        logit_cap: float | None = None,
        ops: FusedOps | None = None,
    ):
        self.size = weight.shape[0]
        self.target_ids = target_ids
        self._logit_cap, self._ops = logit_cap, ops
        self._linear = make_linear(weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states `(..., H)` to logits `(..., k)`."""
        logits = self._linear(hidden)
        return logits if self._logit_cap is None else torch.tanh(logits / self._logit_cap) * self._logit_cap

    def select(self, logits: Tensor) -> Tensor:
        """Target ids of the best tokens `(...)`; among equals the lowest id, whatever k is."""
        if self._ops and not torch.compiler.is_compiling():
            return self._ops.best(logits, self.target_ids)
        best = best_ids(logits)
        return best if self.target_ids is None else self.target_ids[best]


class Chains(Protocol):
    """A draft unrolled over a known text, see `Draft.unroll`."""

    def chains(self, start: int, stop: int, depths: int) -> Iterator[Tensor]:
        """Hidden states by depth of the chains that begin at places start..stop - 1.

        At depth j a chain has drafted j tokens, all of them as in the text.

        Yields:
            `(1, chains, H)` for each depth; chains whose text has ended are left out at the end.
        """


class Draft(ABC):
    """A draft model at batch 1, with a key-value cache of its own.

    *Hidden states* are what a draft computes of its newest position `(1, 1, H)`: a step continues from them,
    and `normed` makes the LM head's input of them.

    Args:
        shape: sizes, from its configuration; it states what a step costs in FLOPs and bytes at every k.
        vocab: the largest vocabulary that it can propose from.
        head_weight: LM head rows over `vocab` `(len(vocab), H)`.
        embedding: of its input tokens `(V, H)`.

    Attributes:
        shape: as given.
        vocab: as given.
        head_weight: as given.
        has_tied_head: whether the LM head is the embedding, so that a trimmed head needs memory of its own.
        feature_layers: the target's layers whose outputs it reads, as of `Target.keep_features`; empty for a
            draft that reads only tokens.
        logit_cap: its soft cap on logits; None without.
        runner: which forward pass a step takes: this package's lean one, or `transformers`' own.
        num_packed: linear layers that were packed for the CPU's matrix kernel.
        notes: sentences for reports on how its files were read.
        unknown_ids: the target's ids that stand for no token of its untrimmed vocabulary: it can neither
            draft nor read them.
    """

    feature_layers: tuple[int, ...] = ()
    logit_cap: float | None = None
    runner = "lean"
    num_packed = 0
    notes: tuple[str, ...] = ()
    unknown_ids: IntArray = np.empty(0, dtype=np.int64)

    def __init__(self, shape: DraftShape, vocab: DraftVocab, head_weight: Tensor, embedding: Tensor):
        self.shape, self.vocab, self.head_weight = shape, vocab, head_weight
        self.has_tied_head = head_weight.data_ptr() == embedding.data_ptr()
        self._ops: FusedOps | None = None

    @property
    def kind(self) -> DraftKind:
        """Its architecture."""
        return self.shape.kind

    @property
    def fused_obstacle(self) -> str | None:
        """Why its layers cannot be fused; None where they can."""
        return f"{self.kind.label} has no fused layers"

    def fuse(self, wanted: bool) -> None:
        """From now on steps run fused layers, and heads that are made choose tokens so, or none does."""
        self._ops = fused_ops(self.head_weight.dtype) if wanted else None

    @property
    @abstractmethod
    def length(self) -> int:
        """Positions held in the cache."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets the conversation."""

    @abstractmethod
    def rewind(self, length: int) -> None:
        """Forgets the positions after the first `length`."""

    @abstractmethod
    def prefill(self, prompt_ids: Tensor, next_id: Tensor, features: Tensor) -> Tensor:
        """Forgets everything, then reads a prompt and the token that the target answered it with.

        Args:
            prompt_ids: `(n,)`.
            next_id: `(1,)`.
            features: the target's, of every prompt position `(1, n, width)`; not looked at by a draft without
                feature layers.

        Returns:
            Hidden state `(1, 1, H)`, from which the token after `next_id` is drafted.
        """

    @abstractmethod
    def extend(self, next_ids: Tensor, features: Tensor) -> Tensor:
        """Takes in tokens that the target verified.

        Args:
            next_ids: `(n,)`.
            features: the target's, of the position before each token `(1, n, width)`.

        Returns:
            As `prefill`.
        """

    @abstractmethod
    def step(self, next_id: Tensor, hidden: Tensor) -> Tensor:
        """One chained step: a drafted token `(1,)` on the hidden state that it was drafted from."""

    @abstractmethod
    def normed(self, hidden: Tensor) -> Tensor:
        """The LM head's input, of hidden states of any leading shape."""

    @abstractmethod
    def unroll(self, token_ids: Tensor, features: Tensor) -> Chains:
        """The draft over its own outputs from many places of a known text at once; its cache is not touched.

        A chain that begins at place p has read tokens 0 to p + 1, as a draft has at the start of a round.

        Args:
            token_ids: the text `(n + 1,)`.
            features: the target's, of all but the last token `(1, n, width)`.
        """

    def fork(self) -> Self:
        """The same weights with an empty cache of its own."""
        other = copy.copy(self)
        other.reset()
        return other

    def head(self, vocab: DraftVocab) -> DraftHead:
        """The LM head sliced to `vocab`; nothing is retrained.

        Raises:
            CheckpointError: `vocab` holds tokens that this draft cannot propose.
        """
        try:
            rows = self.vocab.rows_of(vocab)
        except VocabError as error:
            reason = "the draft's own vocabulary lacks tokens of the one asked for"
            raise CheckpointError(f"{reason}: {error}") from error
        if vocab.is_full:
            return DraftHead(self.head_weight, None, self.logit_cap, self._ops)
        device = self.head_weight.device
        weight = self.head_weight[torch.from_numpy(rows).to(device)].contiguous()
        return DraftHead(weight, torch.from_numpy(vocab.target_ids).to(device), self.logit_cap, self._ops)

    def full_head(self) -> DraftHead:
        """The LM head over all that the draft can propose."""
        return self.head(self.vocab)

    def head_of_size(self, vocab_size: int) -> DraftHead:
        """The LM head over its first tokens, for measurements that depend only on their number.

        What a head costs depends on how many rows it has, not on which.
        """
        return self.head(DraftVocab(self.vocab.target_ids[:vocab_size], self.vocab.target_vocab_size))


class CapturableDraft(Draft):
    """A draft that also runs on a cache of fixed room, so that its rounds can be captured as a graph.

    Attributes:
        obstacle: why the rounds of this one cannot be; None where they can.
    """

    obstacle: str | None = None

    @abstractmethod
    def static_cache(self, room: int) -> StaticCache:
        """A cache of fixed room for `read` and `continue_from`."""

    @abstractmethod
    def read(self, next_ids: Tensor, features: Tensor, cache: TokenCache) -> Tensor:
        """As `extend`, on another cache than its own; hidden states of every new position `(1, n, H)`."""

    @abstractmethod
    def continue_from(self, next_id: Tensor, hidden: Tensor, cache: TokenCache) -> Tensor:
        """As `step`, on another cache than its own."""


@dataclass(frozen=True)
class Placement:
    """Where a draft is loaded to.

    Attributes:
        device: of its weights.
        dtype: of its weights.
        target: the draft proposes its tokens; None for a draft without a target.
        trust_remote_code: whether code that comes with a model may run.
        layer_ids: whose reading of explicit target layers is taken, or the layers.
        ignored_keys: keys of the draft's configuration that the user has decided to ignore.
    """

    device: torch.device
    dtype: torch.dtype
    target: Target | None = None
    trust_remote_code: bool = False
    layer_ids: LayerIds | Sequence[int] = LayerIds.VLLM
    ignored_keys: Collection[str] = ()

    @classmethod
    def beside(cls, target: Target, **kwargs: Any) -> "Placement":
        """On the target's device, in its dtype."""
        return cls(target.device, target.embedding_weight.dtype, target, **kwargs)
