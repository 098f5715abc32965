"""The two layouts of an EAGLE-3 checkpoint: tensor names and `config.json`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import CheckpointError
from bench.models.draft_config import Layout, is_qwen3_draft, layout_of

_LAYER_CONFIG = "transformer_layer_config"

# These change the computation of the draft; speculators stores them outside the layer's configuration.
_DRAFT_KEYS = (
    "norm_before_fc",
    "fc_norm",
    "norm_output",
    "embed_requires_grad",
    "target_hidden_size",
    "eagle_aux_hidden_state_layer_ids",
)

# Keys of the wrapper around a configuration in speculators.
_WRAPPER_KEYS = ("speculators_model_type", "speculators_version", "speculators_config", _LAYER_CONFIG)

_CONTAINER_KEYS = ("architectures", "model_type", "draft_vocab_size", "norm_before_residual", *_DRAFT_KEYS)


def layer_config(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration of the draft's layer, with V as `vocab_size`.

    Raises:
        CheckpointError: a speculators configuration has none.
    """
    if layout_of(values) is Layout.SAFEAILAB:
        return values
    layer = values.get(_LAYER_CONFIG)
    if not isinstance(layer, dict):
        raise CheckpointError(f"{path}: a speculators configuration needs {_LAYER_CONFIG}")
    return layer


def converted(values: dict[str, Any], layer: dict[str, Any], size: int, verifier: str) -> dict[str, Any]:
    """The configuration in the other layout, for k = `size`. Keys of neither layout are kept.

    `norm_before_residual` is always written, because its default is false in SafeAILab and true in
    speculators. `tie_word_embeddings` is always written too, because a trimmed head is never the input
    embedding.

    Args:
        values: the configuration.
        layer: configuration of its layer, from `layer_config`.
        size: k.
        verifier: name of the target.
    """
    shape = {key: value for key, value in layer.items() if key not in _CONTAINER_KEYS}
    shape["tie_word_embeddings"] = False
    if layout_of(values) is Layout.SAFEAILAB:
        return _as_speculators(values, shape, size, verifier)
    return _as_safeailab(values, layer, shape, size)


def _as_safeailab(
    values: dict[str, Any], layer: dict[str, Any], shape: dict[str, Any], size: int
) -> dict[str, Any]:
    # Engines test whether this key is present, not whether it is null.
    outside = {key: value for key, value in values.items() if key not in _WRAPPER_KEYS and value is not None}
    kind = layer.get("model_type", "llama")
    return {
        "num_hidden_layers": 1,
        **shape,
        **outside,
        # SGLang only has a Llama layer; this is vLLM's name of the other one.
        "architectures": ["Eagle3Qwen3ForCausalLM" if kind == "qwen3" else "LlamaForCausalLMEagle3"],
        "model_type": kind,
        "draft_vocab_size": size,
        "norm_before_residual": bool(values.get("norm_before_residual", True)),
    }


def _as_speculators(
    values: dict[str, Any], shape: dict[str, Any], size: int, verifier: str
) -> dict[str, Any]:
    is_qwen3 = is_qwen3_draft(values)
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.3.0",
        "draft_vocab_size": size,
        "norm_before_residual": bool(values.get("norm_before_residual", False)),
        "target_hidden_size": None,
        "eagle_aux_hidden_state_layer_ids": None,
        **{key: values[key] for key in _DRAFT_KEYS if key in values},
        # vLLM reads all other keys from here.
        _LAYER_CONFIG: {"model_type": "qwen3" if is_qwen3 else "llama", **shape},
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"name_or_path": verifier, "architectures": []},
        },
    }


# Sets one key of a `config.json` and leaves all other bytes unchanged.

_KEY = "draft_vocab_size"


class _Entry(NamedTuple):
    """A top-level key and its value, as positions in the text."""

    key: str
    lead_start: int
    key_start: int
    key_end: int
    value_start: int
    value_end: int


def with_draft_vocab_size(text: str, vocab_size: int, where: str) -> str:
    """`text` with its top-level `draft_vocab_size` set; order, indentation and line ends are unchanged.

    A missing key is inserted after `vocab_size`, or at the end, formatted like the entry before it. Nested
    keys of the same name are unchanged.

    Args:
        text: a JSON object.
        vocab_size: k.
        where: name of the file, for error messages.

    Raises:
        CheckpointError: the text is not a JSON object.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: expected a JSON object, as in the configuration of a model")
    entries = _entries(text)
    if not entries:
        brace = text.index("{") + 1
        return f'{text[:brace]}"{_KEY}": {vocab_size}{text[brace:]}'
    for entry in reversed(entries):
        if entry.key == _KEY:
            return f"{text[: entry.value_start]}{vocab_size}{text[entry.value_end :]}"
    keys = [entry.key for entry in entries]
    place = keys.index("vocab_size") if "vocab_size" in keys else len(entries) - 1
    before = entries[place]
    # The white space after a comma, if there is a comma: `{"a": 1, "b": 2}` has none after its brace.
    pattern = entries[place + 1] if place + 1 < len(entries) else before
    lead = text[pattern.lead_start : pattern.key_start]
    colon = text[before.key_end : before.value_start]
    return f'{text[: before.value_end]},{lead}"{_KEY}"{colon}{vocab_size}{text[before.value_end :]}'


def _entries(text: str) -> list[_Entry]:
    """Top-level entries of a valid JSON object."""
    decoder = json.JSONDecoder()
    found: list[_Entry] = []
    at = text.index("{") + 1
    while True:
        lead_start = at
        at = _skip(text, at)
        if text[at] == "}":
            return found
        key_start = at
        key, key_end = decoder.raw_decode(text, key_start)
        value_start = _skip(text, _skip(text, key_end) + 1)
        _, value_end = decoder.raw_decode(text, value_start)
        found.append(_Entry(key, lead_start, key_start, key_end, value_start, value_end))
        at = _skip(text, value_end)
        if text[at] == "}":
            return found
        at += 1


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
