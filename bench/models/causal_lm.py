"""Causal LMs of `transformers`, for targets and for drafts that are whole models."""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bench.cost.config_json import read_config
from bench.errors import CheckpointError, DeviceError, DomainError, is_out_of_memory, one_line
from bench.models.fetching import CONFIG
from bench.models.target_config import plan_target


def load_causal_lm(
    folder: Path,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    device_map: str | None = None,
    lent: "Ends | None" = None,
) -> tuple[Any, tuple[str, ...]]:
    """A model for inference, and sentences for reports about its weights.

    Of a vision-language model the whole is loaded, and the text part is used.

    Args:
        folder: of the model.
        dtype: of its weights and arithmetic.
        trust_remote_code: runs code that comes with it.
        device_map: how `transformers` spreads the weights over devices; a CPU without it.
        lent: input embedding and LM head for a model whose files have none that fit.

    Raises:
        CheckpointError: the folder holds none that `transformers` can load whole.
    """
    values = read_config(folder / CONFIG)[1]
    plan = plan_target(values, str(folder / CONFIG), trust_remote_code)
    try:
        model, found = getattr(transformers, plan.auto_class).from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            device_map=device_map,
            output_loading_info=True,
            ignore_mismatched_sizes=lent is not None and lent.trimmed is not None,
        )
    except Exception as error:  # damaged or foreign files can raise anything
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{folder} is not a causal LM that transformers can load: {one_line(error)}"
        ) from error
    missing = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    if lent is not None and missing:
        missing -= _with_ends(model, missing, lent, folder)
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights of a {values.get('model_type')}, such as {min(missing)}; "
            "fetch it again"
        )
    return model.eval().requires_grad_(False), _dequantised(model, values)


@dataclass(frozen=True)
class Ends:
    """Where tokens enter and leave a draft, for one whose files do not have all of it.

    Attributes:
        embedding: of the target's input tokens `(V, H)`, for a draft that has none; None without a target.
        head: the target's LM head `(V, H)`, for a draft that has neither; None without a target.
        trimmed: the draft's own LM head `(k, H)`, where it has not a row for each token; None where it has.
    """

    embedding: Tensor | None
    head: Tensor | None
    trimmed: Tensor | None = None


def _with_ends(model: Any, missing: Collection[str], lent: Ends, folder: Path) -> set[str]:
    """Puts in what is missing of the embedding and the LM head; returns the names of these weights.

    Raises:
        CheckpointError: it does not fit the model, or there is none.
    """
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    shape, modules = tuple(inside.weight.shape), {f"{n}.weight": m for n, m in model.named_modules()}
    lacking = {name: modules[name] for name in missing if modules.get(name) in (inside, outside)}
    is_lent = inside in lacking.values()
    if is_lent:
        _fill(inside, lent.embedding, shape, folder)
    if lent.trimmed is not None:
        _fill(outside, lent.trimmed, (len(lent.trimmed), shape[1]), folder)
    elif is_lent and model.config.get_text_config().tie_word_embeddings:
        _fill(outside, lent.embedding, shape, folder)
    elif is_lent and outside in lacking.values():
        _fill(outside, lent.head, shape, folder)
    elif not is_lent:
        return set()
    return {*lacking}


def _fill(module: Any, weight: Tensor | None, shape: tuple[int, ...], folder: Path) -> None:
    if weight is None:
        raise CheckpointError(
            f"{folder} has no input embedding, and takes that of its target: measure the pair with task=bench"
        )
    if tuple(weight.shape) != shape:
        raise CheckpointError(
            f"{folder} has no input embedding, and that of its target is {tuple(weight.shape)} and not "
            f"{shape}; take a draft of this target"
        )
    module.weight = torch.nn.Parameter(weight, requires_grad=False)


def devices_of(model: Any) -> tuple[str, ...]:
    """Where a model's weights are, by name: one device, or all that a device map spreads them over."""
    spread = getattr(model, "hf_device_map", None) or {"": model.get_input_embeddings().weight.device}
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in spread.values()}
    return tuple(sorted(names))


def check_devices(devices: Sequence[str], main: str, folder: Path) -> None:
    """Refuses a target spread over devices that a measurement cannot be made on.

    Args:
        devices: as of `devices_of`.
        main: the device whose clock is read, where the draft is.
        folder: of the target.

    Raises:
        CheckpointError: a part of it is on none, or on a slower one.
        DeviceError: it does not begin on `main`.
    """
    slow = [name for name in devices if name == "disk" or (name == "cpu" and len(devices) > 1)]
    if slow:
        raise CheckpointError(
            f"{folder} does not fit: pair.device_map leaves a part of it on {' and '.join(slow)}, and what "
            "would be measured is how fast that is copied; use more or larger GPUs, or a smaller target"
        )
    if main not in devices:
        raise DeviceError(
            f"pair.device_map puts the target on {' and '.join(devices)}, and the measured device is {main}; "
            f"choose one of them with gpu="
        )


def cache_argument(decoder: Any) -> str:
    """What a decoder calls its cache; transformers 5.24 gave it a shorter name."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def logit_factor(config: Any) -> float:
    """What logits are multiplied by: Granite divides them, Cohere and Falcon-H1 multiply."""
    factor = own_setting(config, "logit_scale") or 1.0
    factor *= own_setting(config, "lm_head_multiplier") or 1.0
    return factor / (own_setting(config, "logits_scaling") or 1.0)


def own_setting(config: Any, name: str) -> Any:
    """A setting that the configuration's class has; None where a file says it to a class that ignores it."""
    declared = getattr(type(config), "__dataclass_fields__", None)
    return getattr(config, name, None) if declared is None or name in declared else None


def decoder_of(model: Any) -> Any:
    """The module that turns token ids into the LM head's input."""
    decoder = model.get_decoder()
    # Some wrappers give the whole language model.
    return decoder if hasattr(decoder, "lm_head") is False else decoder.model


def layers_of(decoder: Any) -> Any:
    """Its decoder layers, first to last.

    Raises:
        CheckpointError: they have another name.
    """
    for name in ("layers", "h", "blocks"):
        if hasattr(decoder, name):
            return getattr(decoder, name)
    name = type(decoder).__name__
    raise CheckpointError(f"{name} has no list of decoder layers, after which features are taken")


def longest_text(config: Any) -> int | None:
    """Positions that a target has; with longrope those before its other factors set in; None without any."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return rope.get("original_max_position_embeddings") or config.max_position_embeddings
    return getattr(config, "max_position_embeddings", None)


def check_length(length: int, longest: int | None) -> None:
    """Refuses a text that is longer than the positions of a model.

    Raises:
        DomainError: it is longer than `longest`.
    """
    if longest is not None and length > longest:
        raise too_long(length, longest)


def too_long(length: int, longest: int) -> DomainError:
    """The message about a text of `length` tokens."""
    return DomainError(
        f"{length} tokens are more than the model's {longest} positions; lower domain.max_prompt_tokens or "
        "measure.max_new_tokens"
    )


def _dequantised(model: Any, values: dict[str, Any]) -> tuple[str, ...]:
    """The sentences of a report about quantised weights."""
    quantiser = getattr(model, "hf_quantizer", None)
    if quantiser is None and not values.get("quantization_config"):
        return ()
    method = (values.get("quantization_config") or {}).get("quant_method")
    settings = getattr(quantiser, "quantization_config", None)
    if quantiser is None or getattr(settings, "dequantize", False):
        return (f"the target's {method} weights ran dequantised, slower than an engine's kernels run them",)
    return (f"the target's weights are quantised ({method})",)
