"""A decoder LM as a draft: any Llama-, Qwen- or Gemma-like model that `transformers` loads.

A draft of this kind needs no features of a target: one step embeds a token, runs all decoder layers on top
of the key-value cache, and takes the LM head over the draft vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cost.config_json import DraftKind, read_config
from bench.cost.shape import DraftShape
from bench.errors import AssetError, CheckpointError
from bench.models.causal_lm import (
    Ends,
    cache_argument,
    check_length,
    decoder_of,
    load_causal_lm,
    logit_factor,
    longest_text,
    own_setting,
)
from bench.models.draft import Draft, Placement
from bench.models.eagle_files import read_vocab
from bench.models.fetching import CONFIG
from bench.models.hybrid import HybridCache, cache_for
from bench.models.kernels import join_linears, pack_linears
from bench.models.layers import KVCache
from bench.models.lean import LeanDecoder, LeanGemma, is_lean_gemma
from bench.models.target import Target
from bench.models.target_config import is_lean
from bench.models.weights import HEAD, StoredTensor, open_weights
from bench.text.tokenizer import shared_ids
from bench.vocab.draft_vocab import DraftVocab

Forward = Callable[[Tensor, KVCache], Tensor]


class DecoderLM(Draft):
    """A causal LM at batch 1, ready to draft on one device.

    Its hidden states are normed already, and a step does not read the hidden state of the one before. On a
    CPU the weights are packed for the matrix kernel, in place.

    Args:
        model: of `transformers`.
        shape: as of `Draft`.
        target: for which it drafts; None where it is measured alone, on short texts.
        vocab: tokens of its LM head; None: all that it reads.
    """

    def __init__(
        self, model: Any, shape: DraftShape, target: Target | None = None, vocab: DraftVocab | None = None
    ):
        config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
        # Kept before packing, which takes an untied head's weight away.
        head_weight: Tensor = model.get_output_embeddings().weight
        self._num_inputs = len(embedding)
        if vocab is None:
            size = len(head_weight)
            vocab = DraftVocab(np.arange(size, dtype=np.int64), size)
        super().__init__(shape, vocab, head_weight, embedding)
        self.logit_cap = own_setting(config, "final_logit_softcapping")
        self._config, self._factor = config, logit_factor(config)
        decoder = decoder_of(model)
        is_hybrid = isinstance(cache_for(config), HybridCache)
        if is_lean(config.to_dict()) or (target is None and is_lean_gemma(config)):
            join_linears(decoder)
        self.num_packed = 0 if is_hybrid else pack_linears(decoder)
        self._lean = LeanDecoder(decoder) if is_lean(config.to_dict()) else None
        self.runner, self._forward = _forward_of(decoder, config, self._lean, is_alone=target is None)
        self._longest = longest_text(config)
        self._cache = cache_for(self._config)

    def fit(self, target: Target, folder: Path) -> None:
        """Restricts what is drafted to the ids that stand for the same token in a target.

        Args:
            target: that verifies.
            folder: of this draft, with its tokenizer.

        Raises:
            CheckpointError: there is none.
        """
        size, total = self._num_inputs, target.vocab_size
        ids = shared_ids(target, folder, size)
        if len(ids) == size == total == self.vocab.target_vocab_size:
            return
        if not len(ids):
            raise CheckpointError(
                f"{folder}: its tokenizer has no token of the target's with the same id; take a draft with "
                "the target's tokenizer"
            )
        drafted = np.intersect1d(ids, self.vocab.target_ids)
        rows = torch.from_numpy(np.searchsorted(self.vocab.target_ids, drafted))
        self.vocab = DraftVocab(drafted, total)
        self.head_weight = self.head_weight[rows.to(self.head_weight.device)]
        self.unknown_ids = np.setdiff1d(np.arange(total), ids)
        self.notes = (
            *self.notes,
            f"the draft has {size:,} tokens and the target {total:,}: it drafts the {len(drafted):,} ids "
            "that both have",
        )
        if total > size:
            # It has no embedding of the other ids, and no text that is measured needs one.
            forward = self._forward
            self._forward = lambda ids, cache: forward(ids.clamp(max=size - 1), cache)

    @property
    def fused_obstacle(self) -> str | None:
        """As of `Draft`."""
        if self._lean is None:
            return f"a draft of type {self._config.model_type} has no fused layers"
        return self._lean.fused_obstacle

    def fuse(self, wanted: bool) -> None:
        """As of `Draft`."""
        super().fuse(wanted)
        if self._lean:
            self._lean.fuse(wanted)

    @property
    def length(self) -> int:
        """Positions held in the cache."""
        return self._cache.length

    def reset(self) -> None:
        """Forgets the conversation."""
        self._cache = cache_for(self._config)

    def rewind(self, length: int) -> None:
        """Forgets the positions after the first `length`."""
        self._cache.rewind(length)

    def prefill(self, prompt_ids: Tensor, next_id: Tensor, features: Tensor) -> Tensor:
        """Reads a prompt and the token after it."""
        self.reset()
        return self.extend(torch.cat([prompt_ids, next_id]), features)

    def extend(self, next_ids: Tensor, features: Tensor) -> Tensor:
        """Reads tokens; such a draft has no features."""
        check_length(self.length + len(next_ids), self._longest)
        return self._forward(next_ids[None], self._cache)[:, -1:]

    def step(self, next_id: Tensor, hidden: Tensor) -> Tensor:
        """Embedding, all decoder layers and the last norm of one token."""
        check_length(self.length + 1, self._longest)
        return self._forward(next_id[None], self._cache)

    def normed(self, hidden: Tensor) -> Tensor:
        """As the decoder has normed them, with the factor that the model's logits have."""
        return hidden if self._factor == 1 else hidden * self._factor

    def unroll(self, token_ids: Tensor, features: Tensor) -> "ReadText":
        """One pass over the text: a chain that was right so far has read nothing but the text."""
        return ReadText(self._forward(token_ids[None], cache_for(self._config)))


class ReadText:
    """Chains of a draft that reads only tokens.

    Args:
        hidden: of every token of a text `(1, n + 1, H)`.
    """

    def __init__(self, hidden: Tensor):
        self._hidden = hidden

    def chains(self, start: int, stop: int, depths: int) -> Iterator[Tensor]:
        """As `bench.models.draft.Chains`."""
        for depth in range(depths):
            # The chain of place p has read the token after it.
            yield self._hidden[:, start + depth + 1 : stop + depth + 1]


def _forward_of(decoder: Any, config: Any, lean: LeanDecoder | None, is_alone: bool) -> tuple[str, Forward]:
    """The runner's name, and the pass: a lean one where the architecture is known.

    That of Gemma ends at its sliding window, which texts of a target exceed.
    """
    if lean:
        return "lean", lambda ids, cache: lean.forward(ids, cache)[0]
    if is_alone and is_lean_gemma(config):
        return "lean", LeanGemma(decoder).forward
    keyword = cache_argument(decoder)

    def forward(ids: Tensor, cache: KVCache) -> Tensor:
        output = decoder(input_ids=cache.begin(ids), use_cache=True, **{keyword: cache})
        return output.last_hidden_state[:, -ids.shape[1] :]

    return "transformers", forward


def load_decoder_lm(folder: Path, placement: Placement) -> DecoderLM:
    """Loads a decoder LM for drafting, alone or for the target of `placement`.

    Input embedding and LM head are the target's where the files have none, as with other kinds of drafts.

    Raises:
        CheckpointError: the folder holds no causal LM that `transformers` can load, or none that has tokens
            in common with the target.
    """
    target, trimmed = placement.target, trimmed_head(folder)
    lent = Ends(None, None) if target is None else Ends(target.embedding_weight, target.head_weight)
    if trimmed is not None:
        lent = replace(lent, trimmed=trimmed[1].tensor().to(placement.dtype))
    model, notes = load_causal_lm(folder, placement.dtype, placement.trust_remote_code, lent=lent)
    vocab = None if trimmed is None else trimmed[0]
    draft = DecoderLM(model.to(placement.device), _shape_with(trimmed, folder), target, vocab)
    draft.notes = notes
    if target is not None:
        draft.fit(target, folder)
    return draft


def decoder_shape(folder: Path) -> DraftShape:
    """The sizes of a decoder LM, with as many rows of the LM head as its weights have.

    Raises:
        CheckpointError: sizes are missing, or the maps of a trimmed head do not fit it.
    """
    return _shape_with(trimmed_head(folder), folder)


def _shape_with(trimmed: tuple[DraftVocab, StoredTensor] | None, folder: Path) -> DraftShape:
    shape = DraftShape.read(folder)
    return replace(
        shape,
        kind=DraftKind.DECODER_LM,
        feature_size=0,
        draft_vocab_size=shape.vocab_size if trimmed is None else len(trimmed[0]),
    )


def trimmed_head(folder: Path) -> tuple[DraftVocab, StoredTensor] | None:
    """Vocabulary and LM head `(k, H)` of a decoder LM that has the maps of a trimmed head; None without.

    Raises:
        CheckpointError: maps, head and configuration do not fit each other.
    """
    try:
        tensors = open_weights(folder)
    except AssetError:
        return None
    maps: dict[str, StoredTensor] = {name: tensors[name] for name in ("d2t", "t2d") if name in tensors}
    if not maps:
        return None
    values = read_config(folder / CONFIG)[1]
    inner, head = values.get("text_config") or values, tensors.get(HEAD)
    total = maps["t2d"].num_rows if "t2d" in maps else DraftShape.read(folder).vocab_size
    vocab = read_vocab(maps, total, folder)
    if head is None or head.num_rows != len(vocab):
        rows = "none" if head is None else f"{head.num_rows:,} rows"
        raise CheckpointError(
            f"{folder}: its map is of {len(vocab):,} tokens, and {HEAD} has {rows}; fetch the draft again"
        )
    if inner.get("tie_word_embeddings") is not False:
        raise CheckpointError(
            f"{folder / CONFIG}: tie_word_embeddings must be false, as the weights hold a trimmed LM head"
        )
    return vocab, head
