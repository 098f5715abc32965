"""The MTP module of a target as a GGUF sidecar: the module, with embedding and LM head, and no other layer.

The layout is that of llama.cpp's converter with `--mtp` (`conversion/` in llama-cpp-python 0.3.36). Three
things differ: there is no tokenizer, as text is the target's concern; an embedding or a head of the module's
own takes the place of the target's; and of several modules the first is written, the only one that runs.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from torch import Tensor

from bench.errors import CheckpointError
from bench.export.checkpoint import read_ends
from bench.export.gguf_files import D2T, EMBEDDING, OUTPUT, TYPES, Write, Writes, as_bytes, write_tensors
from bench.models.mtp import MtpFiles, text_config
from bench.models.mtp_config import MtpConfig
from bench.models.weights import EMBEDDING as OWN_EMBEDDING
from bench.models.weights import HEAD, StoredTensor

# llama.cpp's architectures that have an MTP layer, by the target's `model_type`.
_ARCHITECTURES = {
    "qwen3_next": "qwen3next",
    "qwen3_5": "qwen35",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe": "qwen35moe",
    "qwen3_5_moe_text": "qwen35moe",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "deepseek_v3": "deepseek2",
}

# Those whose layer takes a head of k rows: since the pull request 29143, which was open in November 2026.
READS_D2T = ("qwen35", "qwen35moe")

# llama.cpp's names of a module's tensors, behind `blk.N.`.
_NAMES = {
    "pre_fc_norm_embedding.weight": "nextn.enorm.weight",
    "pre_fc_norm_hidden.weight": "nextn.hnorm.weight",
    "fc.weight": "nextn.eh_proj.weight",
    "norm.weight": "nextn.shared_head_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    **{f"self_attn.{p}_proj.{part}": f"attn_{p}.{part}" for p in "qkv" for part in ("weight", "bias")},
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    **{f"mlp.{p}_proj.weight": f"ffn_{p}.weight" for p in ("gate", "up", "down")},
    **{
        f"mlp.{shared}.{p}_proj.weight": f"ffn_{p}_shexp.weight"
        for shared in ("shared_expert", "shared_experts")
        for p in ("gate", "up", "down")
    },
}

# Matrices that are float32 whatever their type in the file.
_ROUTERS = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")

_KV_B, _EXPERTS = "self_attn.kv_b_proj.weight", "mlp.experts."

# Where a checkpoint does not say which part of a head turns with which of three positions.
_MROPE_SECTIONS = (11, 11, 10)

Value = bool | int | float | str | list[int] | list[bool]


def architecture_of(config: MtpConfig) -> str | None:
    """llama.cpp's name of the target's architecture; None where that has no MTP layer."""
    return _ARCHITECTURES.get(config.model_type)


def sidecar_objections(files: MtpFiles, target: Path) -> list[str]:
    """What keeps llama.cpp from running a module of the target in this folder as it was measured.

    Whether it takes a head of k rows is another question: `READS_D2T`.
    """
    config, arch = files.config, architecture_of(files.config)
    if arch is None:
        return [f"it has no MTP layer for a target of model_type={config.model_type}"]
    latent, kind = config.latent, config.rope.kind
    is_compared = kind == "default" or (kind == "yarn" and arch == "deepseek2")
    found = {
        f"its {arch} has an MTP layer with experts only": arch != "qwen35" and not config.has_experts,
        f"its {arch} has an MTP layer without experts only": arch == "qwen35" and config.has_experts,
        f"its {kind} rope was not compared with that of others": not is_compared,
    }
    if latent is not None:
        found["it has no MTP layer whose queries are not compressed"] = not latent.query_rank
        turns = "it turns neighbouring dimensions of a head, and this module turns halves"
        found[turns] = not config.is_interleaved
    reasons = [reason for reason, is_true in found.items() if is_true]
    parts = {**files.tensors, HEAD: files.head}
    try:
        parts[OWN_EMBEDDING], _ = _ends(files, target)
        _keys(text_config(target), config, arch)
    except CheckpointError as error:
        reasons.append(str(error))
    except AttributeError as error:
        reasons.append(f"the configuration in {target} does not say all that it needs: {error}")
    return reasons + [
        f"it does not read {name}, stored as {tensor.dtype}"
        for name, tensor in parts.items()
        if tensor is not None and not (_is_known(name) and tensor.dtype in TYPES)
    ]


def _ends(files: MtpFiles, target: Path) -> tuple[StoredTensor, StoredTensor]:
    """The module's input embedding `(V, H)`, and the last norm of the target `(H,)`."""
    embedding, norm = read_ends(target)
    return files.embedding or embedding, norm


def _is_known(name: str) -> bool:
    own = name.removeprefix("layers.0.")
    return own in _NAMES or own in (_KV_B, HEAD, OWN_EMBEDDING) or own.startswith(_EXPERTS)


def write_mtp_gguf(files: MtpFiles, target: Path, path: Path) -> None:
    """Writes a module as llama.cpp loads it beside its target.

    Args:
        files: the module, with an LM head, to which there are no `sidecar_objections`.
        target: folder of the target, whose configuration the sidecar repeats.
        path: of the new file.

    Raises:
        CheckpointError: an expert is missing.
        OutputError: the file cannot be written.
    """
    arch, config = _ARCHITECTURES[files.config.model_type], text_config(target)
    embedding, norm = _ends(files, target)
    assert files.head is not None
    writes: Writes = {
        EMBEDDING: _as_stored(embedding),
        "output_norm.weight": _vector(norm, files.config),
        OUTPUT: _as_stored(files.head),
    }
    for name, write in _layer(files, arch):
        writes[f"blk.{config.num_hidden_layers}.{name}"] = write
    if not files.vocab.is_full:
        ids = files.vocab.target_ids
        writes[D2T] = (ids.shape, Type.I64, lambda: ids)
    writer = GGUFWriter(path, arch)
    for key, value in _keys(config, files.config, arch).items():
        _add(writer, f"{arch}.{key}", value)
    writer.add_tokenizer_model("none")
    write_tensors(writer, writes, path)


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    # The gguf package has no methods for keys of architectures that it does not know yet.
    add: dict[type, Callable[..., None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    add[type(value)](key, value)


# The tensors of the layer.


def _layer(files: MtpFiles, arch: str) -> Iterator[tuple[str, Write]]:
    """The module's tensors by their names behind `blk.N.`."""
    own = {name.removeprefix("layers.0."): tensor for name, tensor in files.tensors.items()}
    for name, tensor in own.items():
        if name == _KV_B:
            yield from _split_keys_values(tensor, files.config)
        elif not name.startswith(_EXPERTS):
            place = _NAMES[name]
            if arch == "deepseek2" and name.startswith("post_attention_layernorm"):
                place = "ffn_norm.weight"
            is_vector = len(tensor.shape) == 1
            yield (
                place,
                (_vector(tensor, files.config) if is_vector else _as_stored(tensor, place in _ROUTERS)),
            )
    yield from _stacked_experts(own)


def _as_stored(tensor: StoredTensor, is_float32: bool = False) -> Write:
    kind = Type.F32 if is_float32 else TYPES[tensor.dtype]
    return tensor.shape, kind, lambda: as_bytes(tensor.tensor(), kind)


def _vector(tensor: StoredTensor, config: MtpConfig) -> Write:
    """In float32, as all vectors; norms that multiply by 1 + weight with the 1 added."""
    offset = 1.0 if config.has_zero_centred_norms else 0.0
    return tensor.shape, Type.F32, lambda: (tensor.tensor().float() + offset).numpy()


def _split_keys_values(tensor: StoredTensor, config: MtpConfig) -> Iterator[tuple[str, Write]]:
    """The rows that make keys of latents, transposed, and those that make values, by head."""
    latent, heads, kind = config.latent, config.num_attention_heads, TYPES[tensor.dtype]
    assert latent is not None
    still, value, rank = latent.still_dim, latent.value_dim, latent.kv_rank

    def rows() -> Tensor:
        return tensor.tensor().reshape(heads, still + value, rank)

    def keys() -> Any:
        return as_bytes(rows()[:, :still].transpose(1, 2), kind)

    yield "attn_k_b.weight", ((heads, rank, still), kind, keys)
    yield "attn_v_b.weight", ((heads, value, rank), kind, lambda: as_bytes(rows()[:, still:], kind))


def _stacked_experts(own: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Write]]:
    """Experts as one tensor for each of their matrices."""
    numbers = {int(part) for name in own if (part := name.removeprefix(_EXPERTS).split(".")[0]).isdigit()}
    for part in ("gate", "up", "down") if numbers else ():
        names = [f"{_EXPERTS}{expert}.{part}_proj.weight" for expert in range(max(numbers) + 1)]
        if missing := [name for name in names if name not in own]:
            raise CheckpointError(f"the tensor {missing[0]} of an expert of the MTP module is missing")
        yield f"ffn_{part}_exps.weight", _stack([own[name] for name in names])
    if (both := own.get(f"{_EXPERTS}gate_up_proj")) is not None:
        number, width, size = both.shape
        for part, start in (("gate", 0), ("up", width // 2)):
            yield f"ffn_{part}_exps.weight", _middle(both, start, (number, width // 2, size))
    if (down := own.get(f"{_EXPERTS}down_proj")) is not None:
        yield "ffn_down_exps.weight", _as_stored(down)


def _stack(experts: list[StoredTensor]) -> Write:
    kind = TYPES[experts[0].dtype]
    shape = (len(experts), *experts[0].shape)
    return shape, kind, lambda: np.stack([as_bytes(expert.tensor(), kind) for expert in experts])


def _middle(tensor: StoredTensor, start: int, shape: tuple[int, ...]) -> Write:
    kind = TYPES[tensor.dtype]
    return shape, kind, lambda: as_bytes(tensor.tensor()[:, start : start + shape[1]], kind)


# What the sidecar says of its target.


def _keys(config: Any, mtp: MtpConfig, arch: str) -> dict[str, Value]:
    """Keys behind `<architecture>.`, of which the trunk's say what its layers would be."""
    rope, own = dict(config.rope_parameters), config.num_hidden_layers
    found: dict[str, Value | None] = {
        "block_count": own + 1,
        "nextn_predict_layers": 1,
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": getattr(config, "intermediate_size", None),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": 1 if mtp.latent else config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(mtp.rope.theta),
        "rope.dimension_count": mtp.rotary_dim,
        **_attention_keys(mtp),
        **(_expert_keys(config, arch) if mtp.has_experts else {}),
    }
    if arch.startswith("qwen3"):
        found |= _recurrent_keys(config, own)
    if arch in READS_D2T:
        sections = [int(size) for size in rope.get("mrope_section") or _MROPE_SECTIONS]
        found["rope.dimension_sections"] = [*sections, *[0] * (4 - len(sections))]
    if mtp.rope.kind == "yarn":
        found |= _yarn_keys(rope)
    return {key: value for key, value in found.items() if value is not None}


def _attention_keys(mtp: MtpConfig) -> dict[str, Value | None]:
    latent = mtp.latent
    if latent is None:
        return {"attention.key_length": mtp.head_dim, "attention.value_length": mtp.head_dim}
    return {
        "attention.q_lora_rank": latent.query_rank,
        "attention.kv_lora_rank": latent.kv_rank,
        "attention.key_length": latent.kv_rank + latent.rotary_dim,
        "attention.value_length": latent.kv_rank,
        "attention.key_length_mla": latent.still_dim + latent.rotary_dim,
        "attention.value_length_mla": latent.value_dim,
    }


def _expert_keys(config: Any, arch: str) -> dict[str, Value | None]:
    found: dict[str, Value | None] = {
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
    }
    if arch.startswith("qwen3"):
        return {
            **found,
            "expert_count": config.num_experts,
            "expert_shared_feed_forward_length": config.shared_expert_intermediate_size,
        }
    return {
        **found,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        # The layers behind these have experts; the module is the last.
        "leading_dense_block_count": getattr(config, "first_k_dense_replace", None) or 0,
        "expert_gating_func": int(gguf.ExpertGatingFuncType.SIGMOID),
        "expert_weights_scale": float(config.routed_scaling_factor),
        "expert_weights_norm": bool(config.norm_topk_prob),
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
    }


def _recurrent_keys(config: Any, num_layers: int) -> dict[str, Value | None]:
    """Of linear attention, which the target's layers have and the module does not."""
    return {
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_value_head_dim * config.linear_num_value_heads,
        "attention.recurrent_layers": [
            *(kind == "linear_attention" for kind in config.layer_types[:num_layers]),
            False,
        ],
    }


def _yarn_keys(rope: Mapping[str, Any]) -> dict[str, Value | None]:
    def said(name: str, scale: float = 1.0) -> float | None:
        return None if rope.get(name) is None else scale * float(rope[name])

    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": said("factor"),
        "rope.scaling.original_context_length": int(rope["original_max_position_embeddings"]),
        "rope.scaling.yarn_attn_factor": said("attention_factor"),
        "rope.scaling.yarn_beta_fast": said("beta_fast"),
        "rope.scaling.yarn_beta_slow": said("beta_slow"),
        "rope.scaling.yarn_log_multiplier": said("mscale_all_dim", 0.1),
    }
