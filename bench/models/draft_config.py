"""What an EAGLE draft's `config.json` says that it computes. Imports no torch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bench.cost.config_json import DraftKind
from bench.cost.shape import DraftShape
from bench.errors import CheckpointError
from bench.models.config_rules import Reading, read_keys
from bench.models.draft_rules import DRAFT_RULES, EAGLE_BLOCK, LAYER_BLOCK
from bench.models.rope import Rope, rope_of

# The target's last hidden state, normed: what its own LM head reads.
LAST = -1

# Fewer layers than the deepest three that features are taken after.
_LEAST_TARGET_LAYERS = 7

_SAFEAILAB_LAYER, _SPECULATORS_LAYER = "midlayer.", "layers.0."


class Layout(Enum):
    """How a checkpoint names its tensors and writes its configuration.

    SAFEAILAB is what vLLM and SGLang load as `eagle3`; SPECULATORS is that of the speculators library,
    which vLLM loads as well.
    """

    SAFEAILAB = "safeailab"
    SPECULATORS = "speculators"


@dataclass(frozen=True)
class EagleConfig:
    """What an EAGLE draft computes.

    Attributes:
        hidden_size: H of the draft.
        intermediate_size: width of the MLP.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads.
        head_dim: width of one head.
        vocab_size: V of the target.
        draft_vocab_size: rows of the draft's LM head.
        rms_norm_eps: of every norm.
        max_position_embeddings: positions that the draft was trained on; rotary tables grow beyond.
        rope: rotary embedding.
        kind: EAGLE-3, or EAGLE (1, 2 and HASS, which differ in training and trees only).
        num_layers: decoder layers; those of the weights, once they are known.
        target_hidden_size: width of one of the target's hidden states; 0 where it is H.
        num_features: hidden states that EAGLE-3's `fc` fuses; 0 without `fc`.
        layer_ids: target layers that are named explicitly, where vLLM looks; None without.
        nested_layer_ids: the same in `eagle_config`, where alone SGLang looks.
        norm_before_residual: the first layer adds to the normed hidden state.
        norm_before_fc: one norm over all features.
        fc_norm: one norm for each feature.
        norm_output: the normed output is the next step's hidden state.
        qk_norm: queries and keys are normed, as in Qwen3.
        logit_scale: factor on the logits.
        rotary_dim: dimensions of a head that turn with the position; 0 where all do.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: Rope = Rope()
    kind: DraftKind = DraftKind.EAGLE3
    num_layers: int = 1
    target_hidden_size: int = 0
    num_features: int = 3
    layer_ids: tuple[int, ...] | None = None
    nested_layer_ids: tuple[int, ...] | None = None
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    qk_norm: bool = False
    logit_scale: float = 1.0
    rotary_dim: int = 0

    @property
    def feature_width(self) -> int:
        """Width of what `fc` makes of the target's hidden states; 0 where they go in as they are."""
        return self.num_features * (self.target_hidden_size or self.hidden_size)

    @property
    def shape(self) -> DraftShape:
        """What its cost depends on."""
        is_eagle3 = self.kind is DraftKind.EAGLE3
        return DraftShape(
            kind=self.kind,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            draft_vocab_size=self.draft_vocab_size,
            gated_mlp=True,
            tied_head=False,
            feature_size=self.feature_width if is_eagle3 else self.hidden_size,
            projection_weights=self.projection_weights,
        )

    @property
    def projection_weights(self) -> int:
        """Of attention, where it has others than q, k, v and o; else 0."""
        return 0


def read_draft_keys(
    values: Mapping[str, Any], where: str, kind: DraftKind, ignored: Collection[str] = ()
) -> tuple[EagleConfig, list[Reading]]:
    """An EAGLE draft's arithmetic, and the verdict on every key.

    Args:
        values: of its `config.json`.
        where: name of the file, for errors.
        kind: EAGLE-3 or EAGLE.
        ignored: keys that the user takes the responsibility for.

    Raises:
        CheckpointError: a key is refused or unknown, or one is missing.
    """
    outer = {key: value for key, value in values.items() if key != LAYER_BLOCK}
    merged = {**_layer_values(values), **outer} if LAYER_BLOCK in values else outer
    readings = read_keys(merged, DRAFT_RULES, where, (EAGLE_BLOCK,), ignored)
    return eagle_config(values, kind, where), readings


def eagle_config(values: Mapping[str, Any], kind: DraftKind, where: str) -> EagleConfig:
    """What the keys of an EAGLE draft say, without a verdict on those that are not read.

    Raises:
        CheckpointError: a size is missing.
    """
    layer, nested = _layer_values(values), values.get(EAGLE_BLOCK)
    nested = nested if isinstance(nested, Mapping) else {}
    needed = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    missing = [name for name in needed if layer.get(name) is None]
    if missing:
        raise CheckpointError(f"{where}: {kind.label} needs {', '.join(missing)}")
    odd = [name for name in needed if type(layer[name]) is not int or layer[name] < 1]
    if odd:
        raise CheckpointError(f"{where}: {odd[0]}={layer[odd[0]]!r} is no whole number above 0; correct it")

    def said(name: str, default: Any) -> Any:
        for block in (nested, values, layer):
            if block.get(name) is not None:
                return block[name]
        return default

    heads, ids, inner_ids = layer["num_attention_heads"], _ids(values) or _ids(nested), _ids(nested)
    uses_features = kind is DraftKind.EAGLE3 and bool(said("use_aux_hidden_state", True))
    num_features = said("num_aux_hidden_states", said("num_aux_layers", len(ids) if ids else 3))
    if ids and num_features != len(ids):
        raise CheckpointError(
            f"{where}: num_aux_hidden_states={num_features}, but eagle_aux_hidden_state_layer_ids names "
            f"{len(ids)}; correct one of them"
        )
    is_speculators = layout_of(values) is Layout.SPECULATORS
    return EagleConfig(
        kind=kind,
        hidden_size=layer["hidden_size"],
        intermediate_size=layer["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=layer.get("num_key_value_heads") or heads,
        head_dim=layer.get("head_dim") or layer["hidden_size"] // heads,
        vocab_size=layer["vocab_size"],
        draft_vocab_size=said("draft_vocab_size", layer["vocab_size"]),
        rms_norm_eps=layer.get("rms_norm_eps") or 1e-6,
        max_position_embeddings=said("max_position_embeddings", said("max_sequence_length", 2048)),
        rope=rope_of(layer),
        num_layers=layer.get("num_hidden_layers") or 1,
        target_hidden_size=said("target_hidden_size", 0),
        num_features=num_features if uses_features else 0,
        layer_ids=ids,
        nested_layer_ids=inner_ids,
        norm_before_residual=bool(said("norm_before_residual", is_speculators)),
        norm_before_fc=bool(said("norm_before_fc", False)),
        fc_norm=bool(said("fc_norm", False) or said("use_aux_norm", False)),
        norm_output=bool(said("norm_output", False)),
        qk_norm=is_qwen3_draft(values),
        logit_scale=said("logit_scale", 1.0),
    )


def layout_of(values: Mapping[str, Any]) -> Layout:
    """The layout that a configuration is written in."""
    return Layout.SPECULATORS if "speculators_model_type" in values else Layout.SAFEAILAB


def _layer_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The block that holds the layer's sizes; speculators and vLLM's wrapper put it inside."""
    inner = values.get(LAYER_BLOCK, values.get("model"))
    return inner if isinstance(inner, Mapping) else values


def _ids(block: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Target layers that a block names; an empty list names none."""
    ids = block.get("eagle_aux_hidden_state_layer_ids") or block.get("layer_ids")
    return tuple(ids) if ids else None


def is_qwen3_draft(values: Mapping[str, Any]) -> bool:
    """Whether the draft's layer is a Qwen3's, which norms queries and keys; else it is a Llama's."""
    names = [str(name) for name in values.get("architectures") or []]
    if any(name.startswith("Eagle3Qwen3For") for name in names):
        return True
    return layout_of(values) is Layout.SPECULATORS and _layer_values(values).get("model_type") == "qwen3"


def tensor_name(name: str, layout: Layout) -> str:
    """The name in `layout` of a tensor named in either."""
    old, new = _SPECULATORS_LAYER, _SAFEAILAB_LAYER
    if layout is Layout.SPECULATORS:
        old, new = new, old
    return new + name.removeprefix(old) if name.startswith(old) else name


class LayerIds(Enum):
    """Whose reading of explicit target layers is taken."""

    VLLM = "vllm"
    SGLANG = "sglang"


def num_target_layers(values: Mapping[str, Any]) -> int | None:
    """Layers of a target by its configuration; None where it does not say."""
    said = values.get("num_hidden_layers") or values.get("n_layer")
    return said if isinstance(said, int) else None


def chosen_layers(said: str | Sequence[int]) -> LayerIds | tuple[int, ...]:
    """What `pair.layer_ids` says: whose reading of explicit layers to take, or the layers themselves."""
    return LayerIds(said) if isinstance(said, str) else tuple(said)


def feature_layers(
    config: EagleConfig, num_target_layers: int, chosen: LayerIds | Sequence[int], where: str
) -> tuple[int, ...]:
    """Target layers after which hidden states feed the draft, ascending; `LAST` alone for the normed last.

    Args:
        config: of the draft.
        num_target_layers: of the target.
        chosen: whose reading of explicit ids to take, or the layers themselves.
        where: name of the configuration, for errors.

    Raises:
        CheckpointError: the target has no such layers, or there are not as many as the draft reads.
    """
    if config.kind is DraftKind.EAGLE or not config.num_features:
        return (LAST,)
    layers = _named_layers(config, chosen)
    if layers is None:
        if config.num_features != 3:
            raise CheckpointError(
                f"{where}: the draft reads {config.num_features} of the target's layers and does not say "
                "which; give pair.layer_ids=[...]"
            )
        if num_target_layers < _LEAST_TARGET_LAYERS:
            raise CheckpointError(
                f"{where}: the target's {num_target_layers} layers have no default among them for an EAGLE-3 "
                f"draft, which takes {_LEAST_TARGET_LAYERS} at least; give pair.layer_ids=[...]"
            )
        layers = default_feature_layers(num_target_layers)
    if len(layers) != config.num_features or layers[0] < 0 or layers[-1] > num_target_layers:
        raise CheckpointError(
            f"{where}: the draft reads {config.num_features} states of a target of {num_target_layers} "
            f"layers, and those named are {', '.join(map(str, layers))}; give pair.layer_ids=[...]"
        )
    return layers


def default_feature_layers(num_layers: int) -> tuple[int, int, int]:
    """Target layers after which the hidden state feeds the draft; the default of vLLM and SGLang."""
    return (2, num_layers // 2, num_layers - 3)


def layer_note(config: EagleConfig, layers: Sequence[int], num_target_layers: int) -> str | None:
    """Which engine takes other target layers than these; None where both take them."""
    if LAST in layers:
        return None
    other = []
    for engine, reading in (("vLLM", LayerIds.VLLM), ("SGLang", LayerIds.SGLANG)):
        taken = _named_layers(config, reading) or default_feature_layers(num_target_layers)
        if taken != tuple(layers):
            other.append(
                f"{engine} takes those after {', '.join(map(str, taken))} layers (pair.layer_ids="
                f"{reading.value})"
            )
    if not other:
        return None
    after = ", ".join(map(str, layers))
    return f"the draft reads the target's hidden states after {after} layers; {' and '.join(other)}"


def _named_layers(config: EagleConfig, chosen: LayerIds | Sequence[int]) -> tuple[int, ...] | None:
    if not isinstance(chosen, LayerIds):
        return tuple(sorted(set(chosen)))
    if chosen is LayerIds.VLLM:
        return None if config.layer_ids is None else tuple(sorted(set(config.layer_ids)))
    if config.nested_layer_ids is None:
        return None
    return tuple(sorted(layer + 1 for layer in config.nested_layer_ids))
