"""The target model: any `transformers` causal LM, run at batch 1, with the features that its draft reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from bench.cost.config_json import read_config
from bench.errors import CheckpointError, is_out_of_memory, one_line
from bench.models.causal_lm import (
    cache_argument,
    check_devices,
    check_length,
    decoder_of,
    devices_of,
    layers_of,
    load_causal_lm,
    logit_factor,
    longest_text,
    own_setting,
)
from bench.models.draft_config import LAST
from bench.models.fetching import CONFIG, resolve_config, resolve_model, resolve_tokenizer
from bench.models.hybrid import HybridCache, cache_for
from bench.models.kernels import join_linears, pack_linears
from bench.models.layers import KVCache, StaticCache, TokenCache
from bench.models.lean import LeanDecoder
from bench.models.target_config import LEAN_MODEL_TYPES, is_lean, lean_obstacle, plan_target
from bench.text.conversation import Prompt
from bench.text.template import prompt_ids
from bench.text.tokenizer import check_tokenizer_files, read_tokenizer

# This program shows its own progress and errors.
transformers_logging.disable_progress_bar()

transformers_logging.set_verbosity_error()

# Of logits: above what two orders of summation leave in bfloat16, below what other arithmetic does.
MOST_ERROR = 0.1

_FIRST_PIECE = 4  # tokens of the first piece in which logits are checked


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
        self.config = model.config.get_text_config()
        self.devices = devices_of(model)
        self.decoder = decoder_of(model)
        is_spread = len(self.devices) > 1
        is_plain = type(self.decoder).__module__.startswith("transformers.") and not is_spread
        runs_lean = is_plain and is_lean(self.config.to_dict())
        if runs_lean:
            join_linears(self.decoder)
        # Recurrent layers look at the weights of their linear layers, which packed ones do not have; what
        # moves states from one device to the next hangs on the modules that are there.
        is_hybrid = isinstance(cache_for(self.config), HybridCache)
        self.num_packed = 0 if is_hybrid or is_spread else pack_linears(model)
        self.tokenizer = tokenizer
        self.embedding_weight: Tensor = model.get_input_embeddings().weight
        self.lm_head = TargetHead(model.get_output_embeddings(), self.config, self.device)
        self.vocab_size: int = self.config.vocab_size
        self.feature_layers: tuple[int, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.longest = longest_text(self.config)
        self._cache_argument = cache_argument(self.decoder)
        self._lean = LeanDecoder(self.decoder) if runs_lean else None
        self._layers = layers_of(self.decoder)
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
        """Where the weights are, or the first of them: token ids come from there, and logits go there."""
        return self.embedding_weight.device

    def new_cache(self) -> KVCache:
        """An empty key-value cache."""
        return cache_for(self.config)

    @property
    def has_static_cache(self) -> bool:
        """Whether it runs on `static_cache`, so that rounds can be captured; not through `transformers`."""
        return self._lean is not None

    def static_cache(self, room: int) -> StaticCache:
        """An empty cache of fixed room, for `read`."""
        assert self._lean is not None
        return self._lean.static_cache(room)

    @property
    def fused_obstacle(self) -> str | None:
        """Why its layers cannot be fused; None where they can."""
        if self._lean is None:
            return f"a target of type {self.config.model_type} runs through transformers"
        return self._lean.fused_obstacle

    def fuse(self, wanted: bool) -> None:
        """From now on passes over few tokens run fused layers, or no pass does."""
        if self._lean:
            self._lean.fuse(wanted)

    @torch.inference_mode()
    def fused_error(self) -> float:
        """How far logits of fused layers are off the layers' own, as a share; NaN where one is no number."""
        self.fuse(False)
        expected = _logits_in_pieces(self)
        self.fuse(True)
        fused = _logits_in_pieces(self)
        self.fuse(False)
        # Only the second piece is read by fused layers.
        return _relative_error(fused[_FIRST_PIECE:], expected[_FIRST_PIECE:])

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
        check_length(cache.length + ids.shape[1], self.longest)
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
        num_tokens = ids.shape[1]
        output = self.decoder(input_ids=cache.begin(ids), use_cache=True, **kwargs)
        hidden = output.last_hidden_state[:, -num_tokens:]
        kept = [hidden if at == LAST else self._captured[at][:, -num_tokens:] for at in self.feature_layers]
        kept = [states.to(self.device) for states in kept]
        return TargetOutput(hidden, torch.cat(kept, dim=-1) if kept else hidden[..., :0])

    def _kept(self, layer: int) -> Any:
        """A hook that keeps the hidden states after `layer` layers: before the first, what it reads."""

        def before(_module, inputs):
            self._captured[layer] = inputs[0]

        def after(_module, _inputs, output):
            self._captured[layer] = output[0] if isinstance(output, tuple) else output

        if layer == 0:
            return self._layers[0].register_forward_pre_hook(before)
        return self._layers[layer - 1].register_forward_hook(after)


class TargetHead:
    """The LM head with what a model does to its logits after it: a factor, and a soft cap.

    Args:
        linear: the model's output layer.
        config: of its text part.
        device: where logits go.
    """

    def __init__(self, linear: Any, config: Any, device: torch.device):
        self._linear, self._device = linear, device
        self.cap: float | None = own_setting(config, "final_logit_softcapping")
        self.factor = logit_factor(config)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden states `(..., H)` to logits `(..., V)`."""
        logits = self._linear(hidden).to(self._device)
        if self.factor != 1:
            logits = logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def resolve_target(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Folder of a target, whose configuration and tokenizer are judged before any weights are fetched.

    Raises:
        AssetError: it cannot be had.
        CheckpointError: it is refused for its configuration, or its tokenizer needs a missing library.
    """
    path = resolve_config(name, revision) / CONFIG
    plan_target(read_config(path)[1], str(path), trust_remote_code)
    check_tokenizer_files(resolve_tokenizer(name, revision, trust_remote_code))
    return resolve_model(name, revision, trust_remote_code)


def load_target(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    device_map: str | None = None,
) -> Target:
    """Loads a target for inference, and holds its logits against those of `transformers`.

    Args:
        folder: of the target.
        device: of its weights, without a device map.
        dtype: of its weights and arithmetic.
        trust_remote_code: runs code that comes with the model.
        device_map: how `transformers` spreads the weights over devices.

    Raises:
        CheckpointError: the folder holds no target that can run.
    """
    tokenizer = read_tokenizer(folder, trust_remote_code)
    model, notes = load_causal_lm(folder, dtype, trust_remote_code, device_map)
    if device_map:
        main = device.type if device.index is None and device.type == "cpu" else f"cuda:{device.index or 0}"
        check_devices(devices_of(model), main, folder)
    target = Target(model if device_map else model.to(device), tokenizer)
    _check_logits(target, folder)
    target.notes = (*notes, *_spread_note(target.devices), *_runner_note(target))
    return target


def _spread_note(devices: Sequence[str]) -> tuple[str, ...]:
    if len(devices) == 1:
        return ()
    others = f"{' and '.join(devices[1:])} were neither reserved nor watched"
    return (f"the target ran on {' and '.join(devices)}; {others}, and its energy is not known",)


def _runner_note(target: Target) -> tuple[str, ...]:
    """Why a target of a type that the lean pass runs is slower than it could be."""
    obstacle = lean_obstacle(target.config.to_dict())
    if obstacle is None or target.config.model_type not in LEAN_MODEL_TYPES:
        return ()
    return (f"the target ran through transformers, slower than this package's own pass: {obstacle}",)


def _spread_ids(target: Target) -> Tensor:
    """Seven ids `(1, 7)`, spread over the vocabulary."""
    return (torch.arange(1, 8, device=target.device)[None] * target.vocab_size) // 8


def _logits_in_pieces(target: Target) -> Tensor:
    """Of these ids `(7, V)`, by this package's pass and head, in two pieces."""
    ids, cache = _spread_ids(target), target.new_cache()
    pieces = ids[:, :_FIRST_PIECE], ids[:, _FIRST_PIECE:]
    hidden = torch.cat([target.forward(piece, cache).hidden for piece in pieces], dim=1)
    return target.lm_head(hidden)[0].float()


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-9))


@torch.inference_mode()
def _check_logits(target: Target, folder: Path) -> None:
    """Holds this package's pass and head against the model's own, over a few tokens in two pieces.

    The first place is left out: there, and at control tokens, activations are so large that bfloat16 itself
    is 10% off float32.
    """
    try:
        expected = target.model(input_ids=_spread_ids(target)).logits[0].float()
        found = _logits_in_pieces(target)
    except Exception as error:  # what foreign files raise is whatever their code happens to
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{folder} cannot be run as a target: {one_line(error)}") from error
    error_share = _relative_error(found[1:], expected[1:])
    if not error_share < MOST_ERROR:
        raise CheckpointError(
            f"{folder}: {target.config.model_type} cannot be run as a target: its logits in two pieces are "
            f"{error_share:.0%} off those of transformers in one"
        )
