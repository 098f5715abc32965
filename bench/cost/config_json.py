"""A model's `config.json`: read in one place, its sizes under one set of names.

Families of models call the same size by different names, or leave the usual value out.
"""

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from bench.errors import CheckpointError


class DraftKind(Enum):
    """Architectures of draft models."""

    EAGLE3 = "eagle3"
    DECODER_LM = "decoder_lm"

    @property
    def label(self) -> str:
        """As a sentence names one."""
        return _LABELS[self]


_LABELS = {DraftKind.EAGLE3: "an EAGLE-3 draft", DraftKind.DECODER_LM: "a decoder LM"}


# Model types whose MLP has two matrices, up and down; all others gate with a third.
_PLAIN_MLP = (
    *("apertus", "arcee", "biogpt", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo"),
    *("gpt_neox", "gptj", "mpt", "nemotron", "opt", "persimmon", "phi", "starcoder2"),
)

# Model types whose MLP is four times as wide as the hidden state unless they say otherwise.
_FOUR_TIMES_WIDE = ("gpt2", "falcon", "bloom", "gptj", "codegen", "gpt_bigcode", "mpt")

# Model types that norm what attention and MLP put out, too.
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text", "glm4")

_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """A `config.json` as text, to the byte, and its values.

    Raises:
        CheckpointError: it is absent or not a JSON object.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, as a model's configuration is")
    return text, values


def sizes_of(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of `bench.cost.shape.DraftShape`: EAGLE-3 (SafeAILab or speculators) or a dense decoder LM.

    Args:
        values: what the file says.
        where: its name, for errors.

    Raises:
        CheckpointError: sizes are missing, or the model is a mixture of experts.
    """
    inner = values.get("transformer_layer_config") or values.get("text_config") or values
    if _has_experts(values) or _has_experts(inner):
        raise CheckpointError(
            f"{where}: the cost of a mixture of experts is not modelled; take a dense draft"
        )
    kind, model_type = _kind(values), inner.get("model_type")
    is_eagle = kind is DraftKind.EAGLE3
    hidden = _size(inner, where, "hidden_size", "n_embd", "d_model")
    heads = _size(inner, where, "num_attention_heads", "n_head", "n_heads")
    vocab_size = _size(inner, where, "vocab_size")
    if is_eagle:
        num_layers = inner.get("num_hidden_layers") or 1
    else:
        num_layers = _size(inner, where, "num_hidden_layers", "n_layer")
    return {
        "kind": kind,
        "hidden_size": hidden,
        "intermediate_size": _intermediate(inner, hidden, where),
        "num_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _key_value_heads(inner, heads),
        "head_dim": inner.get("head_dim") or hidden // heads,
        "vocab_size": vocab_size,
        "draft_vocab_size": values.get("draft_vocab_size") or vocab_size,
        "gated_mlp": model_type not in _PLAIN_MLP,
        "tied_head": bool(inner.get("tie_word_embeddings", not is_eagle)),
        "feature_size": _feature_size(values, hidden) if is_eagle else 0,
        "norms_per_layer": 4 if model_type in _FOUR_NORMS else 2,
    }


def _kind(values: Mapping[str, Any]) -> DraftKind:
    names = " ".join(values.get("architectures") or []).lower()
    is_eagle = "eagle3" in names or values.get("speculators_model_type") == "eagle3"
    return DraftKind.EAGLE3 if is_eagle or "draft_vocab_size" in values else DraftKind.DECODER_LM


def _has_experts(values: Mapping[str, Any]) -> bool:
    return any(isinstance(values.get(key), int) and values[key] > 1 for key in _EXPERT_KEYS)


def _size(values: Mapping[str, Any], where: str, *names: str) -> int:
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and value > 0:
            return value
    raise CheckpointError(f"{where}: {names[0]} is missing, without which the draft's cost is unknown")


def _intermediate(values: Mapping[str, Any], hidden: int, where: str) -> int:
    if values.get("model_type") in _FOUR_TIMES_WIDE:
        return values.get("n_inner") or values.get("ffn_hidden_size") or 4 * hidden
    return _size(values, where, "intermediate_size", "ffn_dim", "n_inner")


def _key_value_heads(values: Mapping[str, Any], heads: int) -> int:
    # Falcon's later architecture groups queries and leaves multi_query set, which it ignores.
    if values.get("multi_query") and not values.get("new_decoder_architecture"):
        return 1
    return values.get("num_key_value_heads") or values.get("num_kv_heads") or heads


def _feature_size(values: Mapping[str, Any], hidden: int) -> int:
    layers = values.get("eagle_aux_hidden_state_layer_ids")
    return (len(layers) if layers else 3) * (values.get("target_hidden_size") or hidden)
