"""Tiny targets that bring an MTP module along: a row for each layout and kind of layer, seeded and random."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import HIDDEN, VOCAB_SIZE
from tests.zoo.targets import DELTA, MIXTURE, SIZES, Row

LATENT = {
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
}
EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 2,
    **MIXTURE,
}
YARN = {
    "rope_type": "yarn",
    "factor": 40.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1e4,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
SHARED = {"num_experts": 4, "shared_expert_intermediate_size": 16, **MIXTURE}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
QWEN = {"head_dim": 8, "rope_parameters": PARTIAL, **DELTA}
DEEPSEEK = {**LATENT, **EXPERTS}
GLM = {"head_dim": 8, **EXPERTS}


@dataclass(frozen=True)
class MtpRow:
    """A target with a module.

    Attributes:
        name: of the test.
        model_type: of the target.
        config: of the target, beside the sizes.
        own_head: the module has an LM head and an embedding of its own.
        bias: its queries, keys and values have biases.
    """

    name: str
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    own_head: bool = False
    bias: bool = False

    @property
    def prefix(self) -> str:
        """Of the module's tensors."""
        is_numbered = self.model_type.startswith(("deepseek", "glm"))
        return f"model.layers.{SIZES['num_hidden_layers']}." if is_numbered else "mtp."

    def write(self, folder: Path) -> dict[str, Tensor]:
        """Makes the target's folder; returns the module's tensors."""
        Row(self.name, self.model_type, self.config).write(folder)
        generator = torch.Generator().manual_seed(5)
        tensors = {
            f"{self.prefix}{name}": made(name, shape, generator, self.model_type)
            for name, shape in self.shapes().items()
        }
        path = folder / "model.safetensors"
        save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})
        return tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the module's tensors, by their names behind the prefix."""
        config, wide = {**SIZES, **self.config}, HIDDEN
        is_qwen = self.prefix == "mtp."
        layer = "layers.0." if is_qwen else ""
        ends = ["enorm", "hnorm", "shared_head.norm"]
        if is_qwen:
            ends = ["pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"]
        ends += [f"{layer}input_layernorm", f"{layer}post_attention_layernorm"]
        found: dict[str, tuple[int, ...]] = {f"{name}.weight": (wide,) for name in ends}
        found[f"{'fc' if is_qwen else 'eh_proj'}.weight"] = (wide, 2 * wide)
        if self.own_head:
            found |= {f"{name}.weight": (VOCAB_SIZE, wide) for name in ("shared_head.head", "embed_tokens")}
        attention, heads, dim = f"{layer}self_attn.", config["num_attention_heads"], config.get("head_dim", 8)
        if "kv_lora_rank" in config:
            found |= latent_shapes(config, attention, wide)
        else:
            gates = 1 if self.model_type in ("llama", "qwen3", "glm4_moe") else 2
            kv_heads = config["num_key_value_heads"]
            sizes = {"q": heads * dim * gates, "k": kv_heads * dim, "v": kv_heads * dim}
            found |= {f"{attention}{p}_proj.weight": (size, wide) for p, size in sizes.items()}
            if self.bias:
                found |= {f"{attention}{p}_proj.bias": (size,) for p, size in sizes.items()}
            found[f"{attention}o_proj.weight"] = (wide, heads * dim)
            if self.model_type != "llama" and config.get("use_qk_norm", True):
                found |= {f"{attention}{p}_norm.weight": (dim,) for p in "qk"}
        number = config.get("num_experts", config.get("n_routed_experts"))
        return found | mlp_shapes(f"{layer}mlp.", wide, config, number, is_qwen)


def latent_shapes(config: dict[str, Any], attention: str, wide: int) -> dict[str, tuple[int, ...]]:
    heads, rank, kv_rank = config["num_attention_heads"], config["q_lora_rank"], config["kv_lora_rank"]
    turn, still, value = (config[key] for key in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"))
    queries = heads * (still + turn)
    found = {
        f"{attention}kv_a_proj_with_mqa.weight": (kv_rank + turn, wide),
        f"{attention}kv_a_layernorm.weight": (kv_rank,),
        f"{attention}kv_b_proj.weight": (heads * (still + value), kv_rank),
        f"{attention}o_proj.weight": (wide, heads * value),
    }
    if rank is None:
        return found | {f"{attention}q_proj.weight": (queries, wide)}
    names = {"q_a_proj": (rank, wide), "q_a_layernorm": (rank,), "q_b_proj": (queries, rank)}
    return found | {f"{attention}{name}.weight": shape for name, shape in names.items()}


def mlp_shapes(
    mlp: str, wide: int, config: dict[str, Any], number: int | None, is_qwen: bool
) -> dict[str, tuple[int, ...]]:
    def gated(name: str, width: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{name}{p}_proj.weight": (wide, width) if p == "down" else (width, wide)
            for p in ("gate", "up", "down")
        }

    if number is None:
        return gated(mlp, config["intermediate_size"])
    found = {f"{mlp}gate.weight": (number, wide)}
    for expert in range(number):
        found |= gated(f"{mlp}experts.{expert}.", config["moe_intermediate_size"])
    if is_qwen:
        found |= gated(f"{mlp}shared_expert.", config["shared_expert_intermediate_size"])
        return found | {f"{mlp}shared_expert_gate.weight": (1, wide)}
    found |= gated(f"{mlp}shared_experts.", config["moe_intermediate_size"] * config["n_shared_experts"])
    return found | {f"{mlp}gate.e_score_correction_bias": (number,)}


def made(name: str, shape: tuple[int, ...], generator: torch.Generator, model_type: str) -> Tensor:
    """A random tensor; norms lie around what leaves a state as it is."""
    values = torch.randn(shape, generator=generator) * 0.3
    if name in ("fc.weight", "eh_proj.weight"):
        values[:, shape[0] :] += torch.eye(shape[0])
    is_norm = len(shape) == 1 and "norm" in name
    return values * 0.3 + (not model_type.startswith(("qwen3_next", "qwen3_5"))) if is_norm else values


ROWS = [
    MtpRow("Qwen3-Next: gate, part of a head turns, experts", "qwen3_next", {**QWEN, **SHARED}),
    MtpRow("Qwen3.5, dense", "qwen3_5_text", QWEN),
    MtpRow("Qwen3.5 MoE", "qwen3_5_moe_text", {**QWEN, **SHARED}),
    MtpRow("DeepSeek-V3: latent attention, YaRN", "deepseek_v3", {**DEEPSEEK, "rope_parameters": YARN}, True),
    MtpRow("DeepSeek-V3, queries not compressed", "deepseek_v3", {**DEEPSEEK, "q_lora_rank": None}),
    MtpRow("DeepSeek-V3, halves turn", "deepseek_v3", {**DEEPSEEK, "rope_interleave": False}),
    MtpRow(
        "GLM-4 MoE: biases, norms of queries and keys",
        "glm4_moe",
        {**GLM, "attention_bias": True, "use_qk_norm": True},
        own_head=True,
        bias=True,
    ),
    MtpRow("GLM-4 MoE, without", "glm4_moe", {**GLM, "use_qk_norm": False}),
    MtpRow("GLM-4 MoE Lite: latent attention", "glm4_moe_lite", DEEPSEEK),
    MtpRow("a Llama's layer", "llama"),
    MtpRow("a Qwen3's layer", "qwen3", {"head_dim": 8}),
]
