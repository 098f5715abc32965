"""The target model: any `transformers` causal LM, run at batch 1, with the features that its draft reads."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from bench.errors import CheckpointError
from bench.models.draft_config import LAST
from bench.models.layers import KVCache, StaticCache, TokenCache, pack_linears
from bench.models.lean import KNOWN_MODEL_TYPES, LeanDecoder
from bench.text.conversation import Prompt
from bench.text.template import prompt_ids

# Progress and errors are this program's to show.
transformers_logging.disable_progress_bar()

transformers_logging.set_verbosity_error()


@dataclass
class TargetOutput:
    """What one forward pass over `num_tokens` new tokens gives.

    Attributes:
        hidden: final normed hidden states `(batch, num_tokens, H)`, the LM head's input.
        features: hidden states after the feature layers, side by side `(batch, num_tokens, layers x H)`.
    """

    hidden: Tensor
    features: Tensor


class Target:
    """A causal LM with its tokenizer, ready for inference on one device.

    On a CPU the weights are packed for the matrix kernel, in place.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase):
        self.model = model
        # Kept before packing: drafts slice it. With tied embeddings it is the embedding itself.
        self.head_weight: Tensor = model.get_output_embeddings().weight
        self.num_packed = pack_linears(model)
        self.tokenizer = tokenizer
        self.config = model.config.get_text_config()
        self.decoder = model.get_decoder()
        self.lm_head = model.get_output_embeddings()
        self.embedding_weight: Tensor = model.get_input_embeddings().weight
        self.vocab_size: int = self.config.vocab_size
        self.feature_layers: tuple[int, ...] = ()
        # transformers 5.24 gave it a shorter name.
        accepted = inspect.signature(self.decoder.forward).parameters
        self._cache_argument = "cache" if "cache" in accepted else "past_key_values"
        self._lean = None
        if self.config.model_type in KNOWN_MODEL_TYPES:
            self._lean = LeanDecoder(self.decoder)
        self._captured: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    def keep_features(self, layers: Sequence[int]) -> None:
        """From now on passes also give hidden states: after these layers, ascending, or the normed `LAST`."""
        self.feature_layers = tuple(layers)
        if self._lean:
            self._lean.feature_layers = frozenset(layers)
        for hook in self._hooks:
            hook.remove()
        self._hooks = [self._kept(layer) for layer in layers if layer != LAST]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding_weight.device

    def new_cache(self) -> KVCache:
        """An empty key-value cache."""
        return KVCache(self.config.num_hidden_layers)

    @property
    def has_static_cache(self) -> bool:
        """Whether it runs on `static_cache`, so that rounds can be captured; not through `transformers`."""
        return self._lean is not None

    def static_cache(self, room: int) -> StaticCache:
        """An empty cache of fixed room, for `read`."""
        assert self._lean is not None
        return self._lean.static_cache(room)

    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        declared = self.model.generation_config.eos_token_id
        ids = declared if isinstance(declared, list) else [declared]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt through the chat template, up to where the answer starts.

        Raises:
            RowError: the template refuses the prompt, or it has a token that the target does not have.
        """
        return prompt_ids(self.tokenizer, prompt, self.vocab_size)

    @property
    def runner(self) -> str:
        """Which forward pass batch 1 takes: this package's lean one, or `transformers`' own."""
        return "lean" if self._lean else "transformers"

    def forward(self, ids: Tensor, cache: KVCache) -> TargetOutput:
        """Runs `ids` `(1, num_tokens)` on top of `cache`, which grows by them."""
        if self._lean:
            return TargetOutput(*self._lean.forward(ids, cache))
        return self.forward_batch(ids, cache)

    def read(self, ids: Tensor, cache: TokenCache) -> TargetOutput:
        """As `forward`, on any cache that `static_cache` or `new_cache` made, by the lean pass alone."""
        assert self._lean is not None
        return TargetOutput(*self._lean.forward(ids, cache))

    def forward_batch(self, ids: Tensor, cache: KVCache, **kwargs: Any) -> TargetOutput:
        """As `forward` for `(batch, num_tokens)`, with `attention_mask` and `position_ids`."""
        kwargs[self._cache_argument] = cache
        output = self.decoder(input_ids=ids, use_cache=True, **kwargs)
        hidden = output.last_hidden_state
        kept = [hidden if layer == LAST else self._captured[layer] for layer in self.feature_layers]
        return TargetOutput(hidden, torch.cat(kept, dim=-1) if kept else hidden[..., :0])

    def _kept(self, layer: int) -> Any:
        """A hook that keeps the hidden states after `layer` layers: before the first, what it reads."""

        def before(_module, inputs):
            self._captured[layer] = inputs[0]

        def after(_module, _inputs, output):
            self._captured[layer] = output[0] if isinstance(output, tuple) else output

        if layer == 0:
            return self.decoder.layers[0].register_forward_pre_hook(before)
        return self.decoder.layers[layer - 1].register_forward_hook(after)


def load_target(
    folder: Path, device: torch.device, dtype: torch.dtype, trust_remote_code: bool = False
) -> Target:
    """Loads a target for inference.

    Raises:
        CheckpointError: the folder holds no causal LM that `transformers` can load.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a causal LM that transformers can load: {error}") from error
    model = model.to(device).eval().requires_grad_(False)
    return Target(model, tokenizer)
