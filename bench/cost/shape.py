"""Reads a model's `config.json`; every room that needs one calls this."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bench.errors import CheckpointError


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


class DraftKind(Enum):
    """Architectures of draft models."""

    EAGLE3 = "eagle3"
    DECODER_LM = "decoder_lm"


@dataclass(frozen=True)
class DraftShape:
    """The sizes of a draft that its cost depends on.

    Attributes:
        kind: EAGLE-3 head or decoder LM.
        hidden_size: H.
        intermediate_size: width of the MLP.
        num_layers: decoder layers.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; fewer than query heads with GQA.
        head_dim: width of one head.
        vocab_size: V of the target.
        draft_vocab_size: rows of the draft's LM head as it is.
        gated_mlp: three matrices in the MLP instead of two.
        tied_head: the LM head is the input embedding.
        feature_size: width of the target's features that enter `fc`; 0 for a decoder LM.
        norms_per_layer: norms over the hidden state in one layer.
    """

    kind: DraftKind
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    gated_mlp: bool
    tied_head: bool
    feature_size: int
    norms_per_layer: int = 2

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> "DraftShape":
        """Reads a `config.json`: EAGLE-3 (SafeAILab or speculators) or a dense decoder LM.

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
        kind = _kind(values)
        hidden = _size(inner, where, "hidden_size", "n_embd", "d_model")
        heads = _size(inner, where, "num_attention_heads", "n_head", "n_heads")
        vocab_size = _size(inner, where, "vocab_size")
        if kind is DraftKind.EAGLE3:
            num_layers = inner.get("num_hidden_layers") or 1
        else:
            num_layers = _size(inner, where, "num_hidden_layers", "n_layer")
        return cls(
            kind=kind,
            hidden_size=hidden,
            intermediate_size=_intermediate(inner, hidden, where),
            num_layers=num_layers,
            num_attention_heads=heads,
            num_key_value_heads=_key_value_heads(inner, heads),
            head_dim=inner.get("head_dim") or hidden // heads,
            vocab_size=vocab_size,
            draft_vocab_size=values.get("draft_vocab_size") or vocab_size,
            gated_mlp=inner.get("model_type") not in _PLAIN_MLP,
            tied_head=bool(inner.get("tie_word_embeddings", kind is DraftKind.DECODER_LM)),
            feature_size=_feature_size(values, hidden) if kind is DraftKind.EAGLE3 else 0,
            norms_per_layer=4 if inner.get("model_type") in _FOUR_NORMS else 2,
        )


# Model types whose MLP has two matrices, up and down; all others gate with a third.
_PLAIN_MLP = (
    *("apertus", "arcee", "biogpt", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo"),
    *("gpt_neox", "gptj", "mpt", "nemotron", "opt", "persimmon", "phi", "starcoder2"),
)

# Model types that norm what attention and MLP put out, too.
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text", "glm4")

_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


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
    # GPT-2 and Falcon leave the usual four times the hidden size out.
    if values.get("model_type") in ("gpt2", "falcon", "bloom", "gptj", "codegen", "gpt_bigcode", "mpt"):
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
