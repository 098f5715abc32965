"""A model's `config.json`: read in one place, its sizes under one set of names.

Model families use different names for the same size, or leave out the usual value.
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
    EAGLE = "eagle"
    MTP = "mtp"
    DECODER_LM = "decoder_lm"

    @property
    def label(self) -> str:
        """As a sentence names one."""
        return _LABELS[self]


_LABELS = {
    DraftKind.EAGLE3: "an EAGLE-3 draft",
    DraftKind.EAGLE: "an EAGLE draft",
    DraftKind.MTP: "an MTP module",
    DraftKind.DECODER_LM: "a decoder LM",
}

# Words in the names of architectures and keys, and the kind of draft that they mean.
_OTHER_KINDS = {
    "dflash": "DFlash",
    "dspark": "DSpark",
    "domino": "Domino",
    "peagle": "P-EAGLE",
    "medusa": "Medusa",
    "hydra": "Hydra",
    "mlpspeculator": "MLP speculator",
    "mlp_speculator": "MLP speculator",
}

# Some have no architecture in their files.
_OTHER_KEYS = ("dflash_config", "hydra_num_heads", "medusa_num_heads")

# Model types whose MLP has two matrices, up and down; all others gate with a third.
_PLAIN_MLP = (
    *("apertus", "arcee", "biogpt", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo"),
    *("gpt_neox", "gptj", "mpt", "nemotron", "opt", "persimmon", "phi", "starcoder2"),
)

# Model types whose MLP is four times as wide as the hidden state unless they say otherwise.
_FOUR_TIMES_WIDE = ("gpt2", "falcon", "bloom", "gptj", "codegen", "gpt_bigcode", "mpt")

# Model types that also norm the output of attention and MLP.
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
    kind, model_type = kind_of(values, where), inner.get("model_type")
    reads_features = kind is not DraftKind.DECODER_LM
    hidden = _size(inner, where, "hidden_size", "n_embd", "d_model")
    heads = _size(inner, where, "num_attention_heads", "n_head", "n_heads")
    vocab_size = _size(inner, where, "vocab_size")
    if kind is DraftKind.MTP:
        num_layers = 1
    elif reads_features:
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
        "tied_head": bool(inner.get("tie_word_embeddings", not reads_features)),
        "feature_size": _feature_size(values, kind, hidden),
        "norms_per_layer": 4 if model_type in _FOUR_NORMS else 2,
    }


def kind_of(values: Mapping[str, Any], where: str) -> DraftKind:
    """The kind of draft, as far as its configuration shows it.

    EAGLE-1, EAGLE-2 and HASS drafts look like a Llama of one layer; only their weights differ.

    Raises:
        CheckpointError: it is of a kind that is not supported, which is named.
    """
    stated = [values.get("speculators_model_type"), values.get("model_type")]
    stated += values.get("architectures") or []
    names = [str(name).lower() for name in stated if name]
    names += [key for key in _OTHER_KEYS if values.get(key) is not None]
    for word, kind in _OTHER_KINDS.items():
        if any(word in name for name in names):
            raise CheckpointError(
                f"{where}: a {kind} draft is not supported; EAGLE-3, EAGLE-1, EAGLE-2 and HASS drafts, MTP "
                "modules and decoder LMs are"
            )
    if any(word in name for name in names for word in ("nextn", "mtp")):
        return DraftKind.MTP
    if any("eagle3" in name for name in names) or {"draft_vocab_size", "eagle_config"} & values.keys():
        return DraftKind.EAGLE3
    if any("eagle" in name for name in names) or values.get("num_hidden_layers") == 1:
        return DraftKind.EAGLE
    return DraftKind.DECODER_LM


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


def _feature_size(values: Mapping[str, Any], kind: DraftKind, hidden: int) -> int:
    """Width of the target's hidden states that a draft fuses."""
    if kind is not DraftKind.EAGLE3:
        return 0 if kind is DraftKind.DECODER_LM else hidden
    nested = values.get("eagle_config") or {}
    if nested.get("use_aux_hidden_state", values.get("use_aux_hidden_state")) is False:
        return 0
    key = "eagle_aux_hidden_state_layer_ids"
    layers = values.get(key) or nested.get(key)
    number = values.get("num_aux_hidden_states") or (len(layers) if layers else 3)
    return number * (values.get("target_hidden_size") or hidden)
