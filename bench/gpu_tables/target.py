"""A target as its `config.json` says: dense layers, windows of attention, experts that a table may hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.cost.config_json import sizes_of
from bench.cost.shape import DraftShape
from bench.errors import CheckpointError

# Sizes that are read here; any other key of this kind is one that is not known.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")

_WITH_WINDOW = ("mistral", "gemma2", "gemma3_text")

_PER_TOKEN = ("num_experts_per_tok", "experts_per_token")

# What is not composed: attention or layers that are of another kind in every layer or in some.
_OTHER_KINDS = {
    "kv_lora_rank": "multi-head latent attention",
    "linear_num_value_heads": "linear attention",
    "mamba_num_heads": "state-space layers",
    "n_shared_experts": "shared experts beside routed ones",
    "shared_expert_intermediate_size": "shared experts beside routed ones",
    "first_k_dense_replace": "dense layers before layers of experts",
}


@dataclass(frozen=True)
class Experts:
    """The expert layer that takes the place of the MLP.

    Attributes:
        count: experts of a layer.
        per_token: that each token is routed to.
        size: width of one.
    """

    count: int
    per_token: int
    size: int


@dataclass(frozen=True)
class Target(DraftShape):
    """A target.

    Attributes:
        windows: positions that attention of each layer sees at most; 0 for all `(num_layers,)`.
        experts: None for dense layers.
    """

    windows: tuple[int, ...] = ()
    experts: Experts | None = None

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> "Target":
        """From the values of a `config.json` called `where`.

        Raises:
            CheckpointError: sizes are missing, or layers are of a kind that no table here holds.
        """
        inner = dict(values.get("text_config") or values)
        for key, kind in _OTHER_KINDS.items():
            if inner.get(key):
                raise CheckpointError(f"{where}: {kind} ({key}) cannot be composed from these tables")
        experts = _experts(inner, where)
        dense = {key: value for key, value in inner.items() if key not in _EXPERTS}
        dense.setdefault("intermediate_size", inner.get("moe_intermediate_size"))
        sizes = sizes_of(dense, where)
        return cls(**sizes, windows=_windows(inner, sizes["num_layers"], where), experts=experts)


def _experts(values: Mapping[str, Any], where: str) -> Experts | None:
    count = next((values[key] for key in _EXPERTS if isinstance(values.get(key), int)), 0)
    if count <= 1:
        return None
    per_token = next((values[key] for key in _PER_TOKEN if isinstance(values.get(key), int)), 0)
    size = values.get("moe_intermediate_size") or values.get("intermediate_size")
    if not per_token or not size:
        raise CheckpointError(
            f"{where}: {count} experts, but not how many a token takes or how wide they are"
        )
    if values.get("mlp_only_layers"):
        raise CheckpointError(f"{where}: some layers without experts (mlp_only_layers) cannot be composed")
    return Experts(count, per_token, int(size))


def _windows(values: Mapping[str, Any], num_layers: int, where: str) -> tuple[int, ...]:
    window = values.get("sliding_window")
    kinds = values.get("layer_types")
    if kinds is None:
        # Qwen and others carry a window that they do not use.
        uses = values.get("use_sliding_window", values.get("model_type") in _WITH_WINDOW)
        if not window or not uses:
            return (0,) * num_layers
        if values.get("model_type") != "mistral":
            raise CheckpointError(
                f"{where}: which layers have a window of {window} is not said (layer_types)"
            )
        return (int(window),) * num_layers
    unknown = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if unknown or len(kinds) != num_layers:
        raise CheckpointError(
            f"{where}: layers of {', '.join(unknown) or 'an unknown number'} cannot be composed"
        )
    return tuple(int(window) if kind == "sliding_attention" and window else 0 for kind in kinds)
