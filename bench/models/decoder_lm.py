"""A decoder LM as a draft, on its own: any Llama-, Qwen- or Gemma-like model that `transformers` loads.

A draft of this kind needs no features of a target: one step embeds a token, runs all decoder layers on top
of the key-value cache, and takes the LM head over the draft vocabulary.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.cost.config_json import read_config
from bench.cost.shape import DraftKind, DraftShape
from bench.errors import CheckpointError
from bench.models.checkpoint import resolve_draft
from bench.models.draft import DraftHead
from bench.models.layers import KVCache, pack_linears
from bench.models.lean import KNOWN_MODEL_TYPES, LeanDecoder, LeanGemma, is_lean_gemma

Forward = Callable[[Tensor, KVCache], Tensor]


class CappedHead(DraftHead):
    """An LM head whose logits are softly capped, as Gemma 2 does: cap x tanh(logits / cap)."""

    def __init__(self, weight: Tensor, target_ids: Tensor | None, cap: float):
        super().__init__(weight, target_ids)
        self._cap = cap

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed hidden states `(..., H)` to capped logits `(..., k)`."""
        return torch.tanh(super().logits(hidden) / self._cap) * self._cap


class DecoderLM:
    """A causal LM at batch 1, ready to draft on one device.

    On a CPU the weights are packed for the matrix kernel, in place.

    Attributes:
        head_weight: rows of the whole LM head `(V, H)`; with tied embeddings the embedding itself.
        has_tied_head: whether it is, so that a trimmed head needs memory of its own.
        logit_cap: the model's soft cap on logits; None without.
        num_packed: linear layers that were packed.
        runner: which forward pass a step takes: this package's lean one, or `transformers`' own.
    """

    def __init__(self, model: Any):
        config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
        # Kept before packing, which takes an untied head's weight away.
        self.head_weight: Tensor = model.get_output_embeddings().weight
        self.has_tied_head = self.head_weight.data_ptr() == embedding.data_ptr()
        self.logit_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._num_layers: int = config.num_hidden_layers
        decoder = model.get_decoder()
        self.num_packed = pack_linears(decoder)
        self.runner, self._forward = _forward_of(decoder, config)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.head_weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_weight.device

    def new_cache(self) -> KVCache:
        """An empty key-value cache."""
        return KVCache(self._num_layers)

    def step(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Runs `ids` `(1, n)` on top of `cache`, which grows by them.

        Returns:
            Final normed hidden states `(1, n, H)`, the LM head's input.
        """
        return self._forward(ids, cache)

    def head(self, size: int) -> DraftHead:
        """The LM head cut to its first `size` rows.

        What a head costs depends on how many rows it has, not on which: drafting with a vocabulary chosen by
        frequency takes the same time. A trimmed head is a copy of its rows, packed on a CPU, as a trimmed
        checkpoint's would be; the whole one is the model's own.

        Args:
            size: k, from 1 to V.
        """
        weight, ids = self.head_weight, None
        if size < self.vocab_size:
            weight, ids = weight[:size].clone(), torch.arange(size, device=self.device)
        if self.logit_cap is None:
            return DraftHead(weight, ids)
        return CappedHead(weight, ids, self.logit_cap)


def _forward_of(decoder: Any, config: Any) -> tuple[str, Forward]:
    """The runner's name, and the pass: a lean one where the architecture is known."""
    if config.model_type in KNOWN_MODEL_TYPES:
        llama = LeanDecoder(decoder, ())
        return "lean", lambda ids, cache: llama.forward(ids, cache)[0]
    if is_lean_gemma(config):
        return "lean", LeanGemma(decoder).forward
    # Newer versions of transformers renamed it, model by model.
    keyword = "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"
    return (
        "transformers",
        lambda ids, cache: decoder(input_ids=ids, use_cache=True, **{keyword: cache}).last_hidden_state,
    )


def resolve_decoder_lm(
    name: str, revision: str | None = None, weights: bool = True
) -> tuple[Path, DraftShape]:
    """Folder and shape of a decoder LM by catalogue name, folder or hub id.

    Args:
        name: of the draft.
        revision: of the hub.
        weights: fetch them from the hub; else its `config.json` only.

    Raises:
        AssetError: it can be had from none of the three.
        CheckpointError: it is an EAGLE-3 head, or no dense decoder LM.
    """
    folder = resolve_draft(name, revision, weights)
    path = folder / "config.json"
    shape = DraftShape.from_config(read_config(path)[1], str(path))
    if shape.kind is DraftKind.EAGLE3:
        raise CheckpointError(
            f"{name} is an EAGLE-3 draft, which runs on the features of its target: measure the pair with "
            "task=bench, or name a decoder LM as pair.draft (pair=gemma3-270m, say)"
        )
    return folder, shape


def load_decoder_lm(
    folder: Path, device: torch.device, dtype: torch.dtype, trust_remote_code: bool = False
) -> DecoderLM:
    """Loads a decoder LM for drafting.

    Raises:
        CheckpointError: the folder holds no causal LM that `transformers` can load.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder} is not a causal LM that transformers can load: {reason}") from error
    return DecoderLM(model.to(device).eval().requires_grad_(False))
