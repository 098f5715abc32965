"""What keeps vLLM 0.32, SGLang 0.5.23 and llama.cpp from a draft: they do not load it, or compute otherwise.

llama.cpp is that of llama-cpp-python 0.3.36 (`src/models/eagle3.cpp`), which reads the draft as GGUF.
"""

from collections.abc import Collection, Mapping
from typing import Any

from bench.cost.config_json import DraftKind
from bench.models.draft_config import EagleConfig, Layout, layout_of

VLLM, SGLANG, LLAMA_CPP = "vLLM", "SGLang", "llama.cpp"

# Why none of them drafts with a decoder LM whose LM head is trimmed.
OF_DECODER_LM = {
    VLLM: "its draft_model has a row of the LM head for each token of the target, and knows no d2t",
    SGLANG: "STANDALONE has a row of the LM head for each token of the draft, and does not cut it by "
    "--speculative-token-map",
    LLAMA_CPP: "the LM head of a decoder has a row for each token of its tokenizer",
}

# vLLM's second model runner, its default on GPUs, does not look for layers in `eagle_config`.
VLLM_RUNNER = "VLLM_USE_V2_MODEL_RUNNER=0"


def objections(
    config: EagleConfig, values: Mapping[str, Any], tensors: Collection[str] = ()
) -> dict[str, list[str]]:
    """What keeps each engine from computing what was measured; empty where nothing does.

    Args:
        config: what the draft computes.
        values: of its `config.json`.
        tensors: names of its weights, with layers by number, where they are known.
    """
    has_bias = {name.removesuffix(".bias").rsplit(".", 1)[-1] for name in tensors if name.endswith(".bias")}
    layer = values.get("transformer_layer_config") or values
    if config.kind is DraftKind.EAGLE:
        return _of_eagle(config, values, has_bias)
    vllm: list[str] = []
    sglang: list[str] = []
    if "fc" in has_bias:
        vllm.append("it has no bias of fc")
    if values.get("use_aux_norm"):
        vllm.append("it does not know use_aux_norm")
    said = layer.get("num_hidden_layers") or 1
    if said != config.num_layers:
        for reasons in (vllm, sglang):
            reasons.append(
                f"it makes num_hidden_layers={said} layers of the {config.num_layers} in the weights"
            )
    top_level = values.get("use_aux_hidden_state")
    if top_level is False and (values.get("eagle_config") or {}).get("use_aux_hidden_state") is None:
        for reasons in (vllm, sglang):
            reasons.append("it reads use_aux_hidden_state in eagle_config only")
    if layout_of(values) is Layout.SPECULATORS:
        sglang.append("it does not read the speculators layout")
    if config.norm_before_residual:
        sglang.append("it ignores norm_before_residual")
    if config.qk_norm:
        sglang.append("it has no draft with a Qwen3 layer")
    if has_bias & {"q_proj", "k_proj", "v_proj"}:
        sglang.append("it has no biases of q, k and v")
    if has_bias & {"gate_proj", "up_proj", "down_proj"}:
        sglang.append("it has no biases of the MLP")
    if layer.get("tie_word_embeddings"):
        sglang.append("with tie_word_embeddings it takes the embedding for the LM head")
    if config.num_layers > 1:
        sglang.append("it norms the input of later layers by hidden_norm")
    if config.rope.kind == "dynamic" and "alpha" not in dict(config.rope.settings):
        sglang.append("it stretches dynamic rope from the first position on")
    if config.layer_ids is not None and config.nested_layer_ids is None:
        sglang.append("it reads the target's layers in eagle_config only")
    elif config.nested_layer_ids is not None:
        sglang.append("it takes the target's layers one later than eagle_config names them")
    return {VLLM: vllm, SGLANG: sglang, LLAMA_CPP: _of_llama_cpp(config, has_bias)}


def _of_llama_cpp(config: EagleConfig, has_bias: Collection[str]) -> list[str]:
    found = {
        "it has one layer": config.num_layers != 1,
        "it reads three of the target's hidden states": config.num_features != 3,
        "it has no draft with a Qwen3 layer": config.qk_norm,
        "it has no biases": bool(has_bias),
        "it does not know fc_norm": config.fc_norm,
        "it does not know norm_output": config.norm_output,
        "it does not know logit_scale": config.logit_scale != 1.0,
        "its yarn rope was not compared with that of others": config.rope.kind == "yarn",
    }
    return [reason for reason, is_true in found.items() if is_true]


def needs_first_runner(config: EagleConfig) -> bool:
    """Whether vLLM finds the target's layers with its first model runner only."""
    return config.nested_layer_ids is not None and config.layer_ids == config.nested_layer_ids


def _of_eagle(
    config: EagleConfig, values: Mapping[str, Any], has_bias: Collection[str]
) -> dict[str, list[str]]:
    vllm, sglang = [], []
    if config.draft_vocab_size < config.vocab_size:
        vllm.append("it has no vocabulary map for EAGLE-1 and EAGLE-2 drafts")
    if "fc" in has_bias:
        vllm.append("it has no bias of fc")
    names = [str(name) for name in values.get("architectures") or []]
    if not any(name.endswith("ForCausalLMEagle") for name in names):
        sglang.append("it knows these drafts as LlamaForCausalLMEagle (architectures)")
    return {VLLM: vllm, SGLANG: sglang, LLAMA_CPP: ["it knows no EAGLE-1 and EAGLE-2 drafts"]}
