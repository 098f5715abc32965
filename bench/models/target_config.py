"""Which targets can run, and how, by their `config.json`: decided before weights are fetched or loaded.

A target runs as `transformers` runs it, which is the reference; where every key of its configuration is one
that this package's lean pass knows, that pass runs it with fewer steps on the host.
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import CheckpointError, one_line
from bench.models.config_rules import (
    LIBRARY_KEYS,
    TOKEN_KEYS,
    TRAINING_KEYS,
    Rule,
    honoured,
    irrelevant,
    is_off,
    one_of,
    read_keys,
)

# Architectures that are: RMSNorm, rotary attention over all positions, SwiGLU, two residuals.
LEAN_MODEL_TYPES = frozenset({"llama", "qwen2"})

_SCALED_ROPES = ("default", "linear", "llama3", "yarn")


def _known_rope(value: Any, _values: Mapping[str, Any]) -> bool:
    """Whether frequencies do not depend on how long a text is."""
    return (
        isinstance(value, Mapping) and value.get("rope_type", value.get("type", "default")) in _SCALED_ROPES
    )


def _all_full(value: Any, _values: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and all(kind == "full_attention" for kind in value)


# What the lean pass takes; a target with any other key or value goes the way of transformers.
LEAN_RULES: tuple[Rule, ...] = (
    honoured("model_type", why="which pass", passes=one_of(*sorted(LEAN_MODEL_TYPES)), values="llama, qwen2"),
    honoured("hidden_act", why="activation of the MLP", passes=one_of("silu", "swish"), values="silu"),
    honoured(
        *("rope_parameters", "rope_scaling"),
        why="rotary embedding, by the model's own tables",
        passes=_known_rope,
        values=", ".join(_SCALED_ROPES),
    ),
    honoured(
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "max_position_embeddings"),
        *("attention_bias", "mlp_bias", "tie_word_embeddings"),
        why="sizes, and what the model's own modules hold",
    ),
    irrelevant("use_sliding_window", why="attention over all positions", passes=is_off, values="false"),
    irrelevant("layer_types", why="attention over all positions", passes=_all_full, values="full_attention"),
    irrelevant("sliding_window", "max_window_layers", why="without `use_sliding_window` they do nothing"),
    irrelevant(
        *("architectures", "dtype", "torch_dtype", "pretraining_tp", "transformers.js_config"),
        "is_llama_config",
        *(*TRAINING_KEYS, *TOKEN_KEYS, *LIBRARY_KEYS),
        why="of training, of tokens, or of libraries",
    ),
    irrelevant("use_mrope", "rope_interleaved", why="switched off", passes=is_off, values="false"),
)

# What is done about the others, for the table of the note.
TARGET_ROWS: tuple[tuple[str, str, str], ...] = (
    (
        "`logits_scaling`, `logit_scale`, `lm_head_multiplier`, `final_logit_softcapping`",
        "honoured",
        "logits are scaled and softly capped, in sampling too; on loading they are compared with the model's",
    ),
    ("`text_config`", "honoured", "the text part of a vision-language model runs; it sees no pictures"),
    (
        "`quantization_config`",
        "honoured or refused",
        "loaded where the library is there, else one line names it; what ran dequantised is said",
    ),
    (
        "`layer_types` with recurrent states",
        "honoured",
        "states are saved before a pass; after a rejection the next pass reads the tokens since then again",
    ),
    ("`is_encoder_decoder`", "refused", "a draft continues a text; give a decoder"),
    (
        "`model_type` that transformers does not know",
        "refused",
        "`pair.trust_remote_code=true` runs its own code",
    ),
    ("anything else", "honoured", "by transformers, whose class reads it"),
)


@dataclass(frozen=True)
class TargetPlan:
    """How a target is to be loaded.

    Attributes:
        auto_class: name of the class of `transformers` that loads it.
        is_lean: whether the lean pass runs it.
    """

    auto_class: str
    is_lean: bool


def plan_target(values: Mapping[str, Any], where: str, trust_remote_code: bool = False) -> TargetPlan:
    """How the target of a `config.json` can run.

    Raises:
        CheckpointError: it cannot.
    """
    model_type = values.get("model_type")
    for key, kind, what in (("model_type", str, "a name"), ("text_config", Mapping, "a block of settings")):
        if values.get(key) is not None and not isinstance(values[key], kind):
            raise CheckpointError(
                f"{where}: {key}={values[key]!r} is not {what}; correct it, or fetch it again"
            )
    if values.get("is_encoder_decoder"):
        raise CheckpointError(
            f"{where}: is_encoder_decoder=True: a draft continues a text that its target has written; give a "
            "decoder-only target"
        )
    _check_quantisation(values.get("quantization_config"), where)
    auto_class = _auto_class(values, where, trust_remote_code)
    text = values.get("text_config") or values
    is_plain = auto_class == "AutoModelForCausalLM" and text is values and "auto_map" not in values
    return TargetPlan(auto_class, is_plain and model_type in LEAN_MODEL_TYPES and is_lean(values))


def is_lean(values: Mapping[str, Any]) -> bool:
    """Whether the lean pass computes all that a configuration says."""
    return lean_obstacle(values) is None


def lean_obstacle(values: Mapping[str, Any]) -> str | None:
    """What in a configuration keeps a target from the lean pass; None where nothing does."""
    try:
        read_keys(values, LEAN_RULES, "config.json")
    except CheckpointError as error:
        return str(error).split(";")[0]
    return None


def _auto_class(values: Mapping[str, Any], where: str, trust_remote_code: bool) -> str:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    model_type = values.get("model_type")
    remote = values.get("auto_map") or {}
    if trust_remote_code and "AutoModelForCausalLM" in remote:
        return "AutoModelForCausalLM"
    if values.get("text_config") and model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "AutoModelForImageTextToText"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForCausalLM"
    names = ", ".join(map(str, values.get("architectures") or []))
    if remote:
        raise CheckpointError(
            f"{where}: model_type={model_type} ({names}) comes with code of its own, which is not run unless "
            "pair.trust_remote_code=true; read it before"
        )
    raise CheckpointError(
        f"{where}: model_type={model_type} ({names}) is no causal LM that transformers "
        f"{importlib.metadata.version('transformers')} knows; give a target of another kind"
    )


def _check_quantisation(values: Any, where: str) -> None:
    if values is None:
        return
    from transformers.quantizers import AutoHfQuantizer

    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where}: quantization_config={values!r} is no block of settings; correct it")
    method = values.get("quant_method")
    try:
        AutoHfQuantizer.from_config(dict(values), pre_quantized=True).validate_environment(device_map=None)
    except (ImportError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{where}: quantization_config.quant_method={method} cannot be loaded here: {one_line(error)}"
        ) from error
