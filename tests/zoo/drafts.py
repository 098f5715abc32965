"""Tiny drafts with the files, keys and tensor names of public ones: one row each, seeded and random."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import HIDDEN, VOCAB_SIZE

OWN = [0, 1, *range(5, 80, 2), 90, 96]  # tokens of a trimmed head

SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "rms_norm_eps": 1e-5,
}

# What SafeAILab, SpecForge and AngelSlim write.
SAFEAILAB = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_hidden_layers": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.28.1",
    "use_cache": True,
    "draft_vocab_size": len(OWN),
    **SIZES,
}
SPECFORGE = {
    **SAFEAILAB,
    "architectures": ["LlamaForCausalLMEagle3"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 8,
    "max_window_layers": 36,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
}
ANGELSLIM = {
    **SPECFORGE,
    "architectures": ["Eagle3LlamaForCausalLM"],
    "tie_word_embeddings": True,
    "sliding_window": 4,
    "target_model_type": "qwen3",
}
LAYER = {
    **SIZES,
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
SPECULATORS = {
    "architectures": ["Eagle3Speculator"],
    "speculators_model_type": "eagle3",
    "speculators_version": "0.3.0",
    "draft_vocab_size": len(OWN),
    "norm_before_residual": True,
    "target_hidden_size": None,
    "eagle_aux_hidden_state_layer_ids": None,
    "embed_requires_grad": False,
    "transformer_layer_config": LAYER,
    "speculators_config": {
        "algorithm": "eagle3",
        "default_proposal_method": "greedy",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
        "verifier": {"name_or_path": "target", "architectures": ["LlamaForCausalLM"]},
    },
}
EAGLE = {key: value for key, value in SAFEAILAB.items() if key != "draft_vocab_size"}

QWEN3_LAYER = {
    **LAYER,
    "model_type": "qwen3",
    "head_dim": 16,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 36,
    "layer_types": ["full_attention"],
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "factor": 40.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}


@dataclass(frozen=True)
class Row:
    """One draft.

    Attributes:
        name: of the test.
        values: its `config.json`; a text is written as it is.
        tensors: its weights; none where nothing is to be fetched.
        kind: as of `reference.ReferenceDraft`.
        refusal: what the refusal says; None where the draft runs.
        files: how the weights are stored.
        layers: the target's layers that it reads.
        notes: words of what a reader of its results is told.
        options: of `pair`.
    """

    name: str
    values: Any
    tensors: dict[str, Tensor]
    kind: str = "eagle3"
    refusal: str | None = None
    files: str = "safetensors"
    layers: tuple[int, ...] = (2, 4, 5)
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Makes the draft's folder."""
        text = self.values if isinstance(self.values, str) else json.dumps(self.values)
        (folder / "config.json").write_text(text)
        _WRITERS[self.files](self.tensors, folder)
        return folder


def _save_sharded(tensors: dict[str, Tensor], folder: Path, suffix: str, save: Callable) -> None:
    names = sorted(tensors)
    shards = {f"a.{suffix}": names[::2], f"b.{suffix}": names[1::2]}
    for shard, held in shards.items():
        save({name: tensors[name] for name in held}, folder / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    whole = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    (folder / f"{whole}.index.json").write_text(json.dumps({"weight_map": weight_map}))


_WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "safetensors": lambda tensors, folder: save_file(tensors, folder / "model.safetensors"),
    "bin": lambda tensors, folder: torch.save(tensors, folder / "pytorch_model.bin"),
    "shards": lambda tensors, folder: _save_sharded(tensors, folder, "safetensors", save_file),
    "bin shards": lambda tensors, folder: _save_sharded(tensors, folder, "bin", torch.save),
    "none": lambda tensors, folder: None,
}


def weights(
    values: dict[str, Any],
    kind: str = "eagle3",
    *,
    num_features: int = 3,
    num_layers: int = 1,
    biases: tuple[str, ...] = (),
    layer_name: str = "midlayer.",
    own: list[int] | None = OWN,
    embedding: bool = False,
    seed: int = 0,
    total: int = VOCAB_SIZE,
) -> dict[str, Tensor]:
    """Random tensors for a configuration.

    Args:
        values: of the `config.json`.
        kind: `eagle3` or `eagle`.
        num_features: of the target's states; 0 without `fc`.
        num_layers: decoder layers.
        biases: linear layers that have one, by the last part of their name.
        layer_name: of the first layer.
        own: tokens of the head; None for a draft that leaves its head to the target.
        embedding: whether the draft has its own.
        seed: of the random numbers.
        total: tokens of the target.
    """
    layer = values.get("transformer_layer_config", values)
    generator = torch.Generator().manual_seed(seed)
    size, heads = layer["hidden_size"], layer["num_attention_heads"]
    kv_heads, dim = layer.get("num_key_value_heads") or heads, layer.get("head_dim") or size // heads
    inner, target_size = layer["intermediate_size"], values.get("target_hidden_size") or size

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    found: dict[str, Tensor] = {}

    def linear(name: str, outside: int, inside: int) -> None:
        found[f"{name}.weight"] = matrix(outside, inside)
        if name.rsplit(".", 1)[-1] in biases:
            found[f"{name}.bias"] = matrix(outside)

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = 1 + matrix(width)

    if kind == "eagle":
        linear("fc", size, 2 * size)
    elif num_features:
        linear("fc", size, num_features * target_size)
    for index in range(num_layers):
        name = f"layers.{index}." if index or kind == "eagle" else layer_name
        wide = 2 * size if index == 0 and kind == "eagle3" else size
        for part, outside, inside in (
            ("q_proj", heads * dim, wide),
            ("k_proj", kv_heads * dim, wide),
            ("v_proj", kv_heads * dim, wide),
            ("o_proj", size, heads * dim),
        ):
            linear(f"{name}self_attn.{part}", outside, inside)
        linear(f"{name}mlp.gate_proj", inner, size)
        linear(f"{name}mlp.up_proj", inner, size)
        linear(f"{name}mlp.down_proj", size, inner)
        norm(f"{name}post_attention_layernorm", size)
        if kind == "eagle3" or index:
            norm(f"{name}input_layernorm", size)
        if kind == "eagle3" and index == 0:
            norm(f"{name}hidden_norm", size)
    if kind == "eagle3":
        norm("norm", size)
    if own is not None:
        found["lm_head.weight"] = matrix(len(own), size)
        if len(own) < total:
            found["d2t"] = torch.tensor(own) - torch.arange(len(own))
            found["t2d"] = torch.zeros(total, dtype=torch.bool)
            found["t2d"][own] = True
    if embedding:
        found["embed_tokens.weight"] = matrix(layer["vocab_size"], size)
    return found


def norms(**widths: int) -> dict[str, Tensor]:
    """Random norms; two underlines stand for a dot."""
    generator = torch.Generator().manual_seed(7)
    return {
        f"{name.replace('__', '.')}.weight": 1 + 0.3 * torch.randn(width, generator=generator)
        for name, width in widths.items()
    }
