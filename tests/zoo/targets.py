"""Tiny targets of the architectures that people deploy: one row each, seeded and random."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)

from tests.conftest import HIDDEN, VOCAB_SIZE

SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
MIXTURE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@dataclass(frozen=True)
class Row:
    """One target.

    Attributes:
        name: of the test.
        model_type: of `transformers`.
        config: keys beside the sizes; `text_config` makes it a vision-language model.
        runner: which pass runs it.
        refusal: what the refusal says; None where it runs.
        values: changes to the `config.json` after the model is made; None takes a key out.
        sizes: whether the usual sizes are given.
        notes: words of what a reader of its results is told.
    """

    name: str
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    runner: str = "transformers"
    refusal: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    sizes: bool = True
    notes: str = ""

    def write(self, folder: Path) -> Path:
        """Makes the target's folder, with a tokenizer."""
        write_tokenizer(folder)
        if self.refusal and not self.config and not self.sizes:
            (folder / "config.json").write_text(json.dumps({"model_type": self.model_type, **self.values}))
            return folder
        self.model().save_pretrained(folder)
        if self.values:
            values = json.loads((folder / "config.json").read_text()) | self.values
            (folder / "config.json").write_text(json.dumps(values))
        return folder

    def model(self) -> Any:
        """Of `transformers`, always the same."""
        torch.manual_seed(0)
        sizes = SIZES if self.sizes else {}
        if text := self.config.get("text_config"):
            rest = {key: value for key, value in self.config.items() if key != "text_config"}
            config = AutoConfig.for_model(self.model_type, text_config={**SIZES, **text}, **rest)
            return AutoModelForImageTextToText.from_config(config).eval()
        config = AutoConfig.for_model(self.model_type, **{**sizes, **self.config})
        return AutoModelForCausalLM.from_config(config).eval()


def write_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    """Words `w4` to `w96` and a few marks, with a chat template."""
    words = ["<s>", "</s>", "<user>", "<assistant>", *(f"w{i}" for i in range(4, VOCAB_SIZE))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="w4"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(folder)


def vision(name: str, model_type: str, text: dict[str, Any], **rest: Any) -> Row:
    return Row(name, model_type, {"text_config": text, **rest})


LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}

RUNS = [
    Row("Llama", "llama", runner="lean"),
    Row("Llama, biases everywhere", "llama", {"mlp_bias": True, "attention_bias": True}, runner="lean"),
    Row("Llama, head_dim beyond H / heads", "llama", {"head_dim": 16}, runner="lean"),
    Row("Llama, llama3 rope", "llama", {"rope_parameters": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 5e5}}, runner="lean"),
    Row("Llama, yarn", "llama", {"rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}},
        runner="lean"),
    Row("Llama, linear rope", "llama", {"rope_parameters": {
        "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, runner="lean"),
    Row("Llama, dynamic rope", "llama", {"rope_parameters": {
        "rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}),
    Row("Llama, longrope", "llama", {"rope_parameters": LONGROPE}),
    Row("Llama, GELU", "llama", {"hidden_act": "gelu"}),
    Row("Llama, a key that nobody knows", "llama", values={"twist": 1}),
    Row("Qwen2", "qwen2", runner="lean"),
    Row("Qwen2, use_sliding_window", "qwen2", {
        "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    Row("Qwen3", "qwen3", {"head_dim": 8}),
    Row("Qwen3 MoE", "qwen3_moe", {"num_experts": 4, "head_dim": 8, **MIXTURE}),
    Row("Qwen2 MoE", "qwen2_moe", {"num_experts": 4, "shared_expert_intermediate_size": 16, **MIXTURE}),
    Row("Mistral, sliding window", "mistral", {"sliding_window": 4}),
    Row("Mixtral", "mixtral", {"num_local_experts": 4}),
    Row("Gemma", "gemma", {"head_dim": 8}),
    Row("Gemma 2: soft caps, sliding window", "gemma2", {
        "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    Row("Gemma 3, text", "gemma3_text", {"head_dim": 8, "sliding_window": 4}),
    Row("Granite: logits_scaling", "granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    Row("Granite MoE", "granitemoe", {
        "num_local_experts": 4, "logits_scaling": 4.0, "num_experts_per_tok": 2}),
    Row("Cohere: logit_scale", "cohere", {"logit_scale": 0.25}),
    Row("Cohere 2", "cohere2", {"logit_scale": 0.25, "sliding_window": 4}),
    Row("Phi", "phi"),
    Row("Phi-3", "phi3"),
    Row("Phi-3, longrope", "phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
    Row("PhiMoE", "phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Row("GPT-2", "gpt2", {"vocab_size": VOCAB_SIZE, "n_embd": HIDDEN, "n_layer": 8, "n_head": 4,
        "n_positions": 256, "initializer_range": 0.3, "eos_token_id": 1, "bos_token_id": 0}, sizes=False),
    Row("GPT-NeoX", "gpt_neox"),
    Row("Falcon", "falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    Row("OPT", "opt", {"vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN, "ffn_dim": 48, "num_hidden_layers": 8,
        "num_attention_heads": 4, "max_position_embeddings": 256, "word_embed_proj_dim": HIDDEN,
        "init_std": 0.3, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}, sizes=False),
    Row("BLOOM", "bloom", {"vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN, "n_layer": 8, "n_head": 4,
        "initializer_range": 0.3, "eos_token_id": 1, "bos_token_id": 0}, sizes=False),
    Row("OLMo 2", "olmo2"),
    Row("StarCoder 2", "starcoder2"),
    Row("DeepSeek-V3", "deepseek_v3", {
        "n_routed_experts": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "n_group": 1,
        "qk_nope_head_dim": 4, "v_head_dim": 8, "topk_group": 1, "first_k_dense_replace": 2,
        "n_shared_experts": 1, "num_key_value_heads": 4, **MIXTURE}),
    Row("gpt-oss", "gpt_oss", {"num_local_experts": 4, "head_dim": 8, "sliding_window": 4,
        "num_experts_per_tok": 2}),
    Row("SmolLM3", "smollm3", {"no_rope_layers": [1, 1, 1, 0] * 2}),
    Row("GLM-4", "glm4", {"head_dim": 8}),
    Row("EXAONE 4", "exaone4", {"head_dim": 8, "sliding_window": 4}),
    Row("Nemotron", "nemotron", {"head_dim": 8}),
    Row("Llama 4, text", "llama4_text", {"num_local_experts": 4, "head_dim": 8, "intermediate_size_mlp": 48,
        "attention_chunk_size": 8, "use_qk_norm": True}),
    Row("Qwen3-Next: recurrent", "qwen3_next", {
        "num_experts": 4, "head_dim": 8, "shared_expert_intermediate_size": 16, **MIXTURE, **DELTA}),
    Row("Qwen3.5, text: recurrent", "qwen3_5_text", {"head_dim": 8, **DELTA}),
    Row("LFM2: convolutions", "lfm2", {"full_attn_idxs": [2, 5]}),
    Row("Nemotron-H: Mamba", "nemotron_h", {"hybrid_override_pattern": "M*M-M*M-", "mamba_num_heads": 4,
        "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "head_dim": 8}),
    Row("Falcon-H1: both in a layer", "falcon_h1", {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_d_ssm": 32, "lm_head_multiplier": 0.5}),
    Row("Mamba 2: no attention", "mamba2", {"vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN,
        "num_hidden_layers": 8, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2,
        "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}, sizes=False),
    vision("Qwen2.5-VL", "qwen2_5_vl", {"rope_parameters": MROPE}, vision_config=QWEN_VISION),
    vision("Qwen3-VL", "qwen3_vl", {"head_dim": 8, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
        vision_config={**QWEN_VISION, "deepstack_visual_indexes": [0]}),
    vision("Mistral-Small-3", "mistral3", {"model_type": "mistral", "sliding_window": None},
        vision_config=VISION),
    vision("Gemma 3, with vision", "gemma3", {"head_dim": 8}, vision_config=VISION),
    Row("LLaVA", "llava", {"text_config": {"model_type": "llama"}, "vision_config": VISION}, runner="lean"),
    vision("Qwen3.5, with vision", "qwen3_5", {"head_dim": 8, **DELTA}, vision_config=VISION),
]  # fmt: skip


def unloadable(method: str, library: str, **settings: Any) -> Row:
    values = {"quantization_config": {"quant_method": method, **settings}}
    words = f"quantization_config.quant_method={method} cannot be loaded here: .*{library}"
    return Row(method, "llama", refusal=words, values=values, sizes=False)


REFUSED = [
    unloadable("awq", "gptqmodel", bits=4),
    unloadable("gptq", "optimum", bits=4),
    unloadable("bitsandbytes", "bitsandbytes", load_in_4bit=True),
    unloadable("compressed-tensors", "compressed-tensors", format="pack-quantized"),
    unloadable("nonsense", "Unknown quantization type"),
    Row("T5", "t5", refusal="is_encoder_decoder=True: a draft continues a text", sizes=False,
        values={"is_encoder_decoder": True}),
    Row("BERT", "bert", {"max_position_embeddings": 256}, refusal="has no list of decoder layers"),
    Row("CLIP", "clip", refusal="model_type=clip .* is no causal LM that transformers", sizes=False),
    Row("code of its own", "custom", refusal=r"comes with code of its own, which is not run unless pair\.",
        sizes=False, values={"auto_map": {"AutoModelForCausalLM": "modeling_custom.Custom"}}),
    Row("unknown", "nobody_knows", refusal="model_type=nobody_knows .* is no causal LM", sizes=False),
    Row("no model_type", "llama", refusal="model_type=None", sizes=False, values={"model_type": None}),
    Row("weights left out", "llama", refusal="lacks 1 weights of a llama, such as model.norm.weight"),
    Row("weights of another size", "llama", refusal="is not a causal LM that transformers can load",
        values={"hidden_size": 40}),
]  # fmt: skip
