"""What a multi-token prediction (MTP) module computes, by its target's configuration and its tensors' names.

Two layouts: `mtp.*` (Qwen3-Next, Qwen3.5), and `model.layers.N.*` behind the last layer (DeepSeek-V3,
GLM-4-MoE). Imports no torch.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bench.cost.config_json import DraftKind
from bench.errors import CheckpointError
from bench.models.draft_config import EagleConfig
from bench.models.rope import magnitude, rope_of, rope_problem

# What the tensors of both layouts are called here: as in `mtp.*`.
_NAMES = {
    "enorm.": "pre_fc_norm_embedding.",
    "hnorm.": "pre_fc_norm_hidden.",
    "eh_proj.": "fc.",
    "shared_head.norm.": "norm.",
    "shared_head.head.": "lm_head.",
    "embed_tokens.": "embed_tokens.",
}

_QWEN_PREFIX, _FUSES = "mtp.", ("fc.weight", "eh_proj.weight")

# Model types whose norms multiply by 1 + weight.
_ZERO_CENTRED = ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")

# Model types of `model.layers.N.*`.
_NUMBERED = ("deepseek_v3", "glm4_moe", "glm4_moe_lite")

# As vLLM 0.32 runs them: what the next chained step reads is the output before its last norm.
_RECYCLES_UNNORMED = ("glm4_moe", "glm4_moe_lite")

MODEL_TYPES = (*_ZERO_CENTRED, *_NUMBERED, "llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class LatentSizes:
    """Latent attention (MLA): sizes of one head, and of the compressed states.

    Attributes:
        query_rank: of compressed queries; 0 where they are not compressed.
        kv_rank: of compressed keys and values.
        still_dim: of queries and keys without positions.
        rotary_dim: of those with positions; one key is shared by all heads.
        value_dim: of values.
    """

    query_rank: int
    kv_rank: int
    still_dim: int
    rotary_dim: int
    value_dim: int


@dataclass(frozen=True)
class MtpConfig(EagleConfig):
    """What an MTP module computes; `num_layers` is 1.

    Attributes:
        model_type: of the target whose layer it has.
        is_interleaved: pairs that turn together are neighbours in the weights, not halves of a head.
        has_zero_centred_norms: norms multiply by 1 + weight.
        has_output_gate: attention's output is gated by a second half of the query projection.
        has_experts: the MLP is a mixture of experts, of the target's own class.
        masks_first: the embedding at the first position is zero, as vLLM has it.
        latent: sizes of latent attention; None with plain keys and values.
        score_factor: on attention's scores, beside 1/sqrt(head_dim).
    """

    model_type: str = ""
    is_interleaved: bool = False
    has_zero_centred_norms: bool = False
    has_output_gate: bool = False
    has_experts: bool = False
    masks_first: bool = False
    latent: LatentSizes | None = None
    score_factor: float = 1.0

    @property
    def projection_weights(self) -> int:
        """As of `EagleConfig`: those of latent attention, or of a gate."""
        hidden, heads, latent = self.hidden_size, self.num_attention_heads, self.latent
        if latent is None:
            query, key_value = heads * self.head_dim, self.num_key_value_heads * self.head_dim
            return hidden * (3 * query + 2 * key_value) if self.has_output_gate else 0
        queries = heads * self.head_dim
        of_queries = latent.query_rank * (hidden + queries) if latent.query_rank else hidden * queries
        of_keys_values = hidden * (latent.kv_rank + latent.rotary_dim)
        of_keys_values += latent.kv_rank * heads * (latent.still_dim + latent.value_dim)
        return of_queries + of_keys_values + heads * latent.value_dim * hidden


def check_model_type(values: Mapping[str, Any], where: str) -> None:
    """Refuses a target whose MTP module is of a kind that is not supported.

    Args:
        values: of its `config.json`.
        where: name of the file, for errors.

    Raises:
        CheckpointError: so.
    """
    inner = values.get("text_config")
    model_type = (inner if isinstance(inner, Mapping) else values).get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{where}: the MTP module of model_type={model_type} is not supported; those of "
            f"{', '.join(MODEL_TYPES)} are; give another draft"
        )


def module_prefixes(names: Collection[str]) -> list[str]:
    """The prefixes of the MTP modules among tensors of these names, in order; none where there are none."""
    found = set()
    for name in names:
        for fuse in _FUSES:
            prefix = name.removesuffix(fuse)
            if prefix != name and (prefix.endswith(_QWEN_PREFIX) or fuse == "eh_proj.weight"):
                found.add(prefix)
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def module_names(names: Collection[str], prefix: str) -> dict[str, str]:
    """Names of a module's tensors as they are called here, by their names in the file."""
    found = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        own = name.removeprefix(prefix)
        if not prefix.endswith(_QWEN_PREFIX):
            old = next((old for old in _NAMES if own.startswith(old)), None)
            own = f"layers.0.{own}" if old is None else _NAMES[old] + own.removeprefix(old)
        found[name] = own
    return found


def file_name(name: str, prefix: str) -> str:
    """The name in a file with this prefix of a tensor that is called `name` here; undoes `module_names`."""
    if prefix.endswith(_QWEN_PREFIX):
        return prefix + name
    old = next((old for old, new in _NAMES.items() if name.startswith(new)), None)
    own = name.removeprefix("layers.0.") if old is None else old + name.removeprefix(_NAMES[old])
    return prefix + own


def mtp_config(config: Any, shapes: Mapping[str, tuple[int, ...]], where: str) -> MtpConfig:
    """What the module of a target computes.

    Args:
        config: the target's, of its text part, as `transformers` reads it.
        shapes: of the module's tensors, by their names here.
        where: name of the file, for errors.

    Raises:
        CheckpointError: the layer is of a kind that is not supported, or a setting is.
    """
    if config.hidden_act not in ("silu", "swish"):
        raise CheckpointError(f"{where}: hidden_act={config.hidden_act} is not supported in an MTP module")
    rope = dict(config.rope_parameters or {})
    partial = float(rope.pop("partial_rotary_factor", None) or 1.0)
    if problem := rope_problem(rope):
        raise CheckpointError(f"{where}: its rotary embedding is not supported: {problem}")
    heads, attention = config.num_attention_heads, "layers.0.self_attn."
    latent = _latent_sizes(config) if f"{attention}kv_a_proj_with_mqa.weight" in shapes else None
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if latent:
        head_dim, rotary_dim = latent.still_dim + latent.rotary_dim, latent.rotary_dim
    else:
        rotary_dim = int(head_dim * partial)
    if rotary_dim % 2 or (head_dim - rotary_dim) % 2 or (latent and latent.value_dim > head_dim):
        turning = f"{rotary_dim} of {head_dim} dimensions of a head turn"
        raise CheckpointError(f"{where}: {turning}, which is not supported; give another draft")
    queries = shapes.get(f"{attention}q_proj.weight", (0,))[0]
    has_experts = any(name.startswith("layers.0.mlp.experts.") for name in shapes)
    return MtpConfig(
        kind=DraftKind.MTP,
        hidden_size=config.hidden_size,
        intermediate_size=_active_width(config) if has_experts else config.intermediate_size,
        num_attention_heads=heads,
        num_key_value_heads=heads if latent else config.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        draft_vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position_embeddings,
        rope=rope_of({"rope_parameters": rope}),
        num_features=0,
        norm_output=config.model_type not in _RECYCLES_UNNORMED,
        qk_norm=f"{attention}q_norm.weight" in shapes,
        model_type=config.model_type,
        rotary_dim=rotary_dim,
        is_interleaved=bool(latent and getattr(config, "rope_interleave", True)),
        has_zero_centred_norms=config.model_type in _ZERO_CENTRED,
        has_output_gate=not latent and queries == 2 * heads * head_dim,
        has_experts=has_experts,
        masks_first=config.model_type in _NUMBERED,
        latent=latent,
        score_factor=_score_factor(rope) if latent else 1.0,
    )


def _latent_sizes(config: Any) -> LatentSizes:
    return LatentSizes(
        query_rank=config.q_lora_rank or 0,
        kv_rank=config.kv_lora_rank,
        still_dim=config.qk_nope_head_dim,
        rotary_dim=config.qk_rope_head_dim,
        value_dim=config.v_head_dim,
    )


def _active_width(config: Any) -> int:
    """Width of all experts that a token goes through, the shared ones too."""
    one = config.moe_intermediate_size
    shared = getattr(config, "shared_expert_intermediate_size", None)
    if shared is None:
        shared = one * (getattr(config, "n_shared_experts", None) or 0)
    return one * config.num_experts_per_tok + shared


def _score_factor(rope: Mapping[str, Any]) -> float:
    """DeepSeek's, of a context that YaRN stretches."""
    scale = rope.get("mscale_all_dim")
    if rope.get("rope_type", "default") == "default" or not scale:
        return 1.0
    return magnitude(rope["factor"], scale) ** 2
