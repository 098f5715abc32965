"""The rows of the zoo of drafts: those that run, and those that are refused."""

from typing import Any

import torch

from tests.conftest import HIDDEN, VOCAB_SIZE
from tests.zoo.drafts import (
    ANGELSLIM,
    EAGLE,
    LAYER,
    LLAMA3,
    OWN,
    QWEN3_LAYER,
    SAFEAILAB,
    SPECFORGE,
    SPECULATORS,
    YARN,
    Row,
    norms,
    weights,
)


def row(name: str, base: dict[str, Any], *, make: dict[str, Any] | None = None, **rest: Any) -> Row:
    """A row of a base configuration with changes to it: `set` adds keys, `drop` takes them out."""
    values = {**base, **rest.pop("set", {})}
    for key in rest.pop("drop", ()):
        del values[key]
    extra, kind = rest.pop("extra", {}), rest.get("kind", "eagle3")
    tensors = {**weights(values, kind, **(make or {})), **extra}
    for gone in rest.pop("without", ()):
        del tensors[gone]
    return Row(name, values, tensors, **rest)


def _layers(**changes: Any) -> dict[str, Any]:
    return {"transformer_layer_config": {**LAYER, **changes}}


NO_HEAD = {"own": None}
BIASED = {"biases": ("q_proj", "k_proj", "v_proj", "o_proj")}
SPECULATOR_NAMES = {"layer_name": "layers.0."}

RUNS = [
    row("SafeAILab, 32k-like head, pickled", SAFEAILAB, files="bin"),
    row(
        "SafeAILab, int32 d2t and no t2d",
        SAFEAILAB,
        without=["t2d"],
        extra={"d2t": (torch.tensor(OWN) - torch.arange(len(OWN))).int()},
    ),
    row(
        "SafeAILab, head and embedding of the target",
        SAFEAILAB,
        make=NO_HEAD,
        drop=["draft_vocab_size"],
        set={"architectures": ["LlamaForCausalLMEagle3"]},
    ),
    row("SafeAILab, own embedding", SAFEAILAB, make={"embedding": True}),
    row("SafeAILab, no num_key_value_heads", SAFEAILAB, drop=["num_key_value_heads"]),
    row("SafeAILab, text longer than its positions", SAFEAILAB, set={"max_position_embeddings": 8}),
    row(
        "SafeAILab, max_sequence_length",
        SAFEAILAB,
        drop=["max_position_embeddings"],
        set={"max_sequence_length": 2048},
    ),
    row("SafeAILab, safetensors in shards", SAFEAILAB, files="shards"),
    row("SafeAILab, pickles in shards", SAFEAILAB, files="bin shards"),
    row(
        "SafeAILab, old inv_freq kept",
        SAFEAILAB,
        extra={"midlayer.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    ),
    row("SpecForge, Qwen3 target", SPECFORGE),
    row("SpecForge, head_dim beyond H / heads", SPECFORGE, set={"head_dim": 16}),
    row("SpecForge, mrope", SPECFORGE, set={"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}),
    row("SpecForge, yarn with mscale", SPECFORGE, set={"rope_scaling": YARN, "rope_theta": 10000}),
    row(
        "SpecForge, eagle_config names layers",
        SPECFORGE,
        layers=(1, 4, 6),
        set={"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 4, 6], "use_aux_hidden_state": True}},
        notes=("SGLang takes those after 2, 5, 7 layers (pair.layer_ids=sglang)",),
    ),
    row(
        "SpecForge, eagle_config as SGLang reads it",
        SPECFORGE,
        layers=(2, 5, 7),
        options={"layer_ids": "sglang"},
        set={"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 4, 6]}},
        notes=("vLLM takes those after 1, 4, 6 layers (pair.layer_ids=vllm)",),
    ),
    row(
        "SpecForge, layers of one's own",
        SPECFORGE,
        layers=(0, 3, 8),
        options={"layer_ids": [8, 0, 3]},
        notes=("vLLM takes those after 2, 4, 5", "SGLang takes those after 2, 4, 5"),
    ),
    row(
        "SpecForge, EAGLE 3.1: fc_norm and norm_output",
        SPECFORGE,
        set={"fc_norm": True, "norm_output": True},
        extra=norms(fc_norm__0=HIDDEN, fc_norm__1=HIDDEN, fc_norm__2=HIDDEN),
    ),
    row(
        "SGLang's use_aux_norm",
        SPECFORGE,
        set={"use_aux_norm": True},
        extra=norms(aux_norm_low=HIDDEN, aux_norm_mid=HIDDEN, aux_norm_high=HIDDEN),
    ),
    row("norm_output alone", SPECFORGE, set={"norm_output": True}),
    row("norm_before_fc", SPECFORGE, set={"norm_before_fc": True}, extra=norms(input_norm=3 * HIDDEN)),
    row(
        "norm_before_fc in eagle_config",
        SPECFORGE,
        set={"eagle_config": {"norm_before_fc": True}},
        extra=norms(input_norm=3 * HIDDEN),
    ),
    row("norm_before_residual", SPECFORGE, set={"norm_before_residual": True}),
    row(
        "layer ids outside of eagle_config, four of them",
        SPECFORGE,
        layers=(1, 3, 5, 8),
        make={"num_features": 4},
        set={"eagle_aux_hidden_state_layer_ids": [5, 1, 8, 3]},
        notes=("SGLang takes those after 2, 4, 5",),
    ),
    row(
        "num_aux_hidden_states with layer ids",
        SPECFORGE,
        layers=(3, 6),
        make={"num_features": 2},
        set={"num_aux_hidden_states": 2, "eagle_aux_hidden_state_layer_ids": [3, 6]},
        notes=("SGLang takes",),
    ),
    row(
        "no aux hidden states",
        SPECFORGE,
        layers=(-1,),
        make={"num_features": 0},
        set={"eagle_config": {"use_aux_hidden_state": False}},
    ),
    row("llama3 rope", SPECFORGE, set={"rope_scaling": LLAMA3}),
    row("linear rope", SPECFORGE, set={"rope_scaling": {"type": "linear", "factor": 4.0}}),
    row("dynamic rope", SPECFORGE, set={"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
    row(
        "rope_parameters",
        SPECFORGE,
        drop=["rope_theta"],
        set={"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
    ),
    row("biases of q, k, v and o", SPECFORGE, set={"attention_bias": True}, make=BIASED),
    row("bias of fc", SPECFORGE, set={"bias": True}, make={"biases": ("fc",)}),
    row(
        "biases of the MLP",
        SPECFORGE,
        set={"mlp_bias": True},
        make={"biases": ("gate_proj", "up_proj", "down_proj")},
    ),
    row("two layers", SPECFORGE, set={"num_hidden_layers": 2}, make={"num_layers": 2}),
    row(
        "two layers as SGLang names their norms",
        SPECFORGE,
        set={"num_hidden_layers": 2},
        make={"num_layers": 2},
        without=["layers.1.input_layernorm.weight"],
        extra=norms(layers__1__hidden_norm=HIDDEN),
    ),
    row(
        "two layers, vLLM's idle norm kept",
        SPECFORGE,
        set={"num_hidden_layers": 2},
        make={"num_layers": 2},
        extra=norms(layers__1__hidden_norm=HIDDEN),
    ),
    row(
        "stale num_hidden_layers",
        SPECFORGE,
        set={"num_hidden_layers": 24},
        notes=("num_hidden_layers=24 is stale: the weights have 1",),
    ),
    row(
        "stale draft_vocab_size",
        SPECFORGE,
        set={"draft_vocab_size": 50},
        notes=(f"draft_vocab_size=50 is stale: the weights have {len(OWN)}",),
    ),
    row(
        "smaller than its target",
        {**SPECFORGE, "hidden_size": 24, "head_dim": 8},
        set={"target_hidden_size": HIDDEN},
        make={"embedding": True},
    ),
    row("logit_scale", SPECFORGE, set={"logit_scale": 0.25}),
    row("AngelSlim, tied on paper, window on paper", ANGELSLIM),
    row(
        "AngelSlim, layer_types of the target",
        ANGELSLIM,
        set={"layer_types": ["full_attention", "sliding_attention"]},
    ),
    row(
        "AngelSlim, Hunyuan's alpha",
        ANGELSLIM,
        set={
            "use_qk_norm": True,
            "attention_head_dim": 8,
            "rope_scaling": {
                "type": "dynamic",
                "alpha": 1000.0,
                "factor": 1.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
    row(
        "AngelSlim, Qwen3-VL",
        ANGELSLIM,
        set={
            "modal_type": "VLM",
            "image_token_id": 5,
            "dtype": "bfloat16",
            "vision_start_token_id": 6,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": [1, 1, 2],
                "type": "default",
            },
        },
    ),
    row("speculators, Llama layer", SPECULATORS, make=SPECULATOR_NAMES),
    row(
        "speculators, norm_before_residual left out",
        SPECULATORS,
        drop=["norm_before_residual"],
        make=SPECULATOR_NAMES,
    ),
    row(
        "speculators, norm_before_residual false",
        SPECULATORS,
        set={"norm_before_residual": False},
        make=SPECULATOR_NAMES,
    ),
    row(
        "speculators, layer ids",
        SPECULATORS,
        set={"eagle_aux_hidden_state_layer_ids": [1, 4, 7]},
        layers=(1, 4, 7),
        make=SPECULATOR_NAMES,
        notes=("SGLang takes those after 2, 4, 5",),
    ),
    row(
        "speculators, Qwen3 layer",
        {**SPECULATORS, "transformer_layer_config": QWEN3_LAYER},
        make=SPECULATOR_NAMES,
        extra=norms(layers__0__self_attn__q_norm=16, layers__0__self_attn__k_norm=16),
    ),
    row(
        "speculators, Qwen3 layer with layer ids",
        {**SPECULATORS, "transformer_layer_config": QWEN3_LAYER},
        set={"eagle_aux_hidden_state_layer_ids": [2, 3, 4]},
        layers=(2, 3, 4),
        make=SPECULATOR_NAMES,
        notes=("SGLang takes",),
        extra=norms(layers__0__self_attn__q_norm=16, layers__0__self_attn__k_norm=16),
    ),
    row(
        "speculators, norm_before_fc and own embedding",
        SPECULATORS,
        set={"norm_before_fc": True},
        make={**SPECULATOR_NAMES, "embedding": True},
        extra=norms(input_norm=3 * HIDDEN),
    ),
    row(
        "Qwen3 layer, SafeAILab's layout",
        {**QWEN3_LAYER, "draft_vocab_size": len(OWN)},
        set={"architectures": ["Eagle3Qwen3ForCausalLM"]},
        extra=norms(midlayer__self_attn__q_norm=16, midlayer__self_attn__k_norm=16),
    ),
    row("a key that the user answers for", SPECFORGE, set={"twist": 1}, options={"ignore_keys": ["twist"]}),
    row(
        "EAGLE-1, Llama, bias of fc",
        EAGLE,
        kind="eagle",
        layers=(-1,),
        make={**NO_HEAD, "biases": ("fc",)},
        files="bin",
    ),
    row("EAGLE-2, own embedding", EAGLE, kind="eagle", layers=(-1,), make={**NO_HEAD, "embedding": True}),
    row(
        "HASS, vLLM's name, own head",
        EAGLE,
        kind="eagle",
        layers=(-1,),
        make={"own": list(range(VOCAB_SIZE))},
        set={"architectures": ["EagleLlamaForCausalLM"]},
    ),
    row(
        "EAGLE-2, Qwen2 with qkv_bias",
        EAGLE,
        kind="eagle",
        layers=(-1,),
        make={**NO_HEAD, "biases": ("q_proj", "k_proj", "v_proj")},
        set={"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "qkv_bias": True},
    ),
    row(
        "EAGLE-1, Mixtral target",
        EAGLE,
        kind="eagle",
        layers=(-1,),
        make=NO_HEAD,
        set={"model_type": "mixtral"},
    ),
    row(
        "EAGLE-1, two layers",
        EAGLE,
        kind="eagle",
        layers=(-1,),
        make={**NO_HEAD, "num_layers": 2},
        set={"architectures": ["LlamaForCausalLMEagle"], "num_hidden_layers": 2},
    ),
    row(
        "EAGLE-2, trimmed head",
        EAGLE,
        kind="eagle",
        layers=(-1,),
        set={"architectures": ["LlamaForCausalLMEagle"]},
        notes=("draft_vocab_size=97 is stale",),
    ),
]


def refused(name: str, words: str, values: Any, base: dict[str, Any] | None = None, **rest: Any) -> Row:
    """A row that is refused; without a base its weights are not needed for that."""
    if base is None:
        return Row(name, values, {}, refusal=words, files="none", **rest)
    return row(name, base, set=values, refusal=words, **rest)


KINDS = "draft is not supported; EAGLE-3, EAGLE-1, EAGLE-2 and HASS drafts, MTP modules and decoder LMs are"

REFUSED = [
    refused("DFlash", f"a DFlash {KINDS}", {"architectures": ["DFlashDraftModel"], "model_type": "qwen3"}),
    refused(
        "DFlash by its block",
        f"a DFlash {KINDS}",
        {"model_type": "qwen3", "dflash_config": {"block_size": 8}},
    ),
    refused("DFlash, speculators", f"a DFlash {KINDS}", {**SPECULATORS, "speculators_model_type": "dflash"}),
    refused("Medusa", f"a Medusa {KINDS}", {"medusa_num_heads": 4, "medusa_num_layers": 1}),
    refused(
        "Medusa, vLLM's name", f"a Medusa {KINDS}", {"architectures": ["MedusaModel"], "model_type": "medusa"}
    ),
    refused("P-EAGLE", f"a P-EAGLE {KINDS}", {**SPECFORGE, "architectures": ["PEagleDraftModel"]}),
    refused(
        "P-EAGLE, speculators", f"a P-EAGLE {KINDS}", {**SPECULATORS, "speculators_model_type": "peagle"}
    ),
    refused(
        "P-EAGLE by its key",
        r"ptd_token_id=5 is not supported: the draft fills several positions in parallel",
        {"ptd_token_id": 5},
        SPECFORGE,
    ),
    refused("MTP", "the MTP module of model_type=None is not supported", {"architectures": ["Qwen3NextMTP"]}),
    refused(
        "NextN",
        "the MTP module of model_type=None is not supported",
        {"architectures": ["DeepseekV3ForCausalLMNextN"]},
    ),
    refused("MLP speculator", "MLP speculator draft", {"architectures": ["MLPSpeculatorPreTrainedModel"]}),
    refused("DSpark", "a DSpark draft", {"architectures": ["Qwen3DSparkModel"]}),
    refused("GELU", "hidden_act='gelu' is not supported", {"hidden_act": "gelu"}, SPECFORGE),
    refused(
        "longrope", "rope_scaling=.* is not supported", {"rope_scaling": {"rope_type": "longrope"}}, SPECFORGE
    ),
    refused(
        "partial rotary",
        "rope_parameters=.* is not supported",
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        SPECFORGE,
    ),
    refused(
        "sliding window",
        r"layer_types=\['sliding_attention'\] is not supported: .*; sliding windows are not",
        {"layer_types": ["sliding_attention"], "sliding_window": 4},
        SPECFORGE,
    ),
    refused(
        "mixture of experts",
        "num_experts=8 is not supported: .*; give a dense draft",
        {"num_experts": 8},
        SPECFORGE,
    ),
    refused("latent attention", "kv_lora_rank=512 is not supported", {"kv_lora_rank": 512}, SPECFORGE),
    refused(
        "quantised",
        "quantization_config=.* is not supported: .* measure the same draft in bfloat16",
        {"quantization_config": {"quant_method": "fp8"}},
        SPECFORGE,
    ),
    refused(
        "unknown key",
        "twist=1 is not known, and may change what the model computes; .* pair.ignore_keys=",
        {"twist": 1},
        SPECFORGE,
    ),
    refused(
        "unknown key of eagle_config",
        "eagle_config.twist=1 is not known",
        {"eagle_config": {"twist": 1}},
        SPECFORGE,
    ),
    refused(
        "no last norm",
        "eagle_config.use_last_layernorm=False is not supported",
        {"eagle_config": {"use_last_layernorm": False}},
        SPECFORGE,
    ),
    refused(
        "number of layers and ids",
        "num_aux_hidden_states=3, but eagle_aux_hidden_state_layer_ids names 2",
        {"num_aux_hidden_states": 3, "eagle_aux_hidden_state_layer_ids": [1, 2]},
        SPECFORGE,
    ),
    refused(
        "five states and no ids",
        "reads 5 of the target's layers and does not say which; give pair.layer_ids",
        {"num_aux_hidden_states": 5},
        SPECFORGE,
    ),
    refused(
        "layers that the target lacks",
        r"of a target of 8 layers, and those named are 1, 4, 9; give pair",
        {"eagle_aux_hidden_state_layer_ids": [1, 4, 9]},
        SPECFORGE,
    ),
    refused(
        "ids that are none",
        r"eagle_aux_hidden_state_layer_ids=\[-1, 2\] is not supported",
        {"eagle_aux_hidden_state_layer_ids": [-1, 2]},
        SPECFORGE,
    ),
    refused(
        "a size of nothing", "head_dim=0 is not supported", {"head_dim": 0}, SPECFORGE, make={"own": OWN}
    ),
    refused(
        "a size left out",
        "an EAGLE-3 draft needs intermediate_size",
        {
            "intermediate_size": None,
            **{key: value for key, value in SPECFORGE.items() if key != "intermediate_size"},
        },
    ),
    refused("not JSON", "not a readable configuration", "{"),
    refused("not an object", "expected a JSON object", "[1]"),
    refused(
        "speculators without its block",
        "an EAGLE-3 draft needs hidden_size",
        {"speculators_model_type": "eagle3", "architectures": ["Eagle3Speculator"]},
    ),
    refused("no weights", "holds neither model.safetensors nor pytorch_model.bin", SPECFORGE),
    refused(
        "trimmed head without d2t",
        f"{VOCAB_SIZE} tokens without d2t, the map of a trimmed head",
        {},
        SPECFORGE,
        without=["d2t", "t2d"],
    ),
    refused(
        "d2t out of order",
        "d2t is not a vocabulary map: .* strictly increasing",
        {},
        SPECFORGE,
        without=["t2d"],
        extra={"d2t": torch.tensor([9, *[0] * (len(OWN) - 1)])},
    ),
    refused("d2t of floats", "flat list of integers", {}, SPECFORGE, extra={"d2t": torch.zeros(len(OWN))}),
    refused(
        "t2d of other tokens",
        "its maps d2t and t2d name different tokens",
        {},
        SPECFORGE,
        extra={"t2d": torch.ones(VOCAB_SIZE, dtype=torch.bool)},
    ),
    refused("a tensor missing", "fc.weight is missing", {}, SPECFORGE, without=["fc.weight"]),
    refused(
        "a tensor too many",
        "input_norm.weight is of no use to it",
        {},
        SPECFORGE,
        extra=norms(input_norm=3 * HIDDEN),
    ),
    refused(
        "a tensor of another shape",
        r"norm.weight is \(5,\) and not \(32,\)",
        {},
        SPECFORGE,
        extra=norms(norm=5),
    ),
    refused(
        "biases that are not there",
        "attention_bias=true, and the weights hold no layers.0.self_attn.q_proj.bias",
        {"attention_bias": True},
        SPECFORGE,
    ),
    refused("norms that are not there", r"fc_norm.0.weight is missing", {"fc_norm": True}, SPECFORGE),
    refused(
        "float8 weights",
        "midlayer|layers.0.mlp.up_proj.weight is F8_E4M3, and a quantised draft cannot be run",
        {},
        SPECFORGE,
        extra={"midlayer.mlp.up_proj.weight": torch.zeros(48, HIDDEN).to(torch.float8_e4m3fn)},
    ),
    refused(
        "of another hidden size",
        "drafts for a target of hidden size 40; this target has 32",
        {"hidden_size": 40},
        SPECFORGE,
        make={"embedding": True},
    ),
    refused(
        "smaller, with the target's embedding",
        "it needs an input embedding of its own, and has none",
        {"hidden_size": 24, "target_hidden_size": HIDDEN},
        SPECFORGE,
    ),
    refused(
        "a decoder LM of one layer",
        r"lacks \d+ weights of a llama",
        {**EAGLE},
        EAGLE,
        kind="eagle",
        make={"own": None},
        without=["fc.weight"],
    ),
]
