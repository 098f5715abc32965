"""What is done about every key of an EAGLE draft's `config.json`: the table of `bench/models/README.md`.

Reference semantics are those of vLLM 0.32 (`llama_eagle3.py`, `qwen3_eagle3.py`, `llama_eagle.py`) and SGLang
0.5.23 (`llama_eagle3.py`, `llama_eagle.py`); where they differ, vLLM's are taken and the table says so.
"""

from collections.abc import Mapping
from typing import Any

from bench.models.config_rules import (
    LIBRARY_KEYS,
    TOKEN_KEYS,
    TRAINING_KEYS,
    Rule,
    Verdict,
    honoured,
    irrelevant,
    one_of,
    refused,
)
from bench.models.rope import is_positive_number, rope_problem

LAYER_BLOCK, EAGLE_BLOCK = "transformer_layer_config", "eagle_config"


def _positive(value: Any, _values: Mapping[str, Any]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(value: Any, _values: Mapping[str, Any]) -> bool:
    return is_positive_number(value)


def _names(value: Any, _values: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _name(value: Any, _values: Mapping[str, Any]) -> bool:
    return isinstance(value, str)


def _full_attention(value: Any, values: Mapping[str, Any]) -> bool:
    """Whether the draft's own layers see every position; entries of the target's layers may follow."""
    layer = values.get(LAYER_BLOCK) or values
    own = list(value)[: layer.get("num_hidden_layers") or 1] if isinstance(value, list) else [value]
    return not any("sliding" in str(kind) for kind in own) or layer.get("sliding_window") is None


def _layer_ids(value: Any, _values: Mapping[str, Any]) -> bool:
    return value == [] or _is_id_list(value)


def _is_id_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value)
    )


_IDS_NOTE = (
    "the target's hidden state after these many layers each, in ascending order, as vLLM takes them; SGLang "
    "reads them in `eagle_config` only and adds 1: `pair.layer_ids=vllm`, `sglang` or a list chooses"
)


def _switch(*keys: str, why: str) -> Rule:
    known = one_of(True, False)
    return honoured(*keys, why=why, passes=known, values="true, false", instead="correct the file")


def _real(*keys: str, why: str) -> Rule:
    return honoured(*keys, why=why, passes=_number, values="a number above 0", instead="correct the file")


def _size(*keys: str, why: str) -> Rule:
    number = "a whole number above 0"
    return honoured(*keys, why=why, passes=_positive, values=number, instead="correct the file")


# The first rule that fits a key decides. Keys of `transformer_layer_config` count as if they stood outside.
DRAFT_RULES: tuple[Rule, ...] = (
    honoured(
        "architectures",
        why="say which kind of draft this is",
        passes=_names,
        values="a list of names",
        instead="correct the file",
    ),
    honoured(
        *("model_type", "speculators_model_type"),
        why="say which kind of draft this is",
        passes=_name,
        values="a name",
        instead="correct the file",
    ),
    _size("vocab_size", why="V; where the target has another number, the ids that both have are drafted"),
    _size("draft_vocab_size", why="rows of the LM head; V where absent"),
    _size("hidden_size", "intermediate_size", "num_attention_heads", why="sizes of the layer"),
    _size("num_key_value_heads", why="`num_attention_heads` where absent"),
    _size("head_dim", why="`hidden_size / num_attention_heads` where absent"),
    _size(
        "num_hidden_layers",
        why="the weights decide how many layers there are; a number left over from the target is corrected",
    ),
    _real("rms_norm_eps", why="of every norm; 1e-6 where absent"),
    _real("rope_theta", why="base of the rotary embedding; 10,000 where absent"),
    Rule(
        ("rope_scaling", "rope_parameters"),
        Verdict.HONOURED,
        "rotary embedding: default, linear, dynamic, llama3, yarn; mrope, whose rows are equal on text",
        lambda value, _: rope_problem(value) is None,
        "the types and settings named",
        "give a draft with one of these",
        rope_problem,
    ),
    honoured(
        "max_position_embeddings",
        "max_sequence_length",
        why="positions that the draft was trained on; as in vLLM its rotary table grows with the target's",
        passes=_positive,
        values="a whole number above 0",
        instead="correct the file",
    ),
    honoured(
        "hidden_act",
        why="activation of the MLP; vLLM and SGLang take no other",
        passes=one_of("silu", "swish"),
        values="silu",
        instead="give a draft with silu",
    ),
    _switch(
        "norm_before_residual",
        why="the first layer adds to the normed hidden state; false where absent, true in speculators. "
        "SGLang ignores it",
    ),
    _switch("norm_before_fc", "eagle_config.norm_before_fc", why="one norm over all features before `fc`"),
    _switch("fc_norm", "use_aux_norm", why="a norm for each feature before `fc`"),
    _switch("norm_output", why="the normed output is the next step's hidden state"),
    _size(
        "target_hidden_size",
        why="width of the target's hidden states; `hidden_size` where absent",
    ),
    honoured(
        "eagle_aux_hidden_state_layer_ids",
        "eagle_config.eagle_aux_hidden_state_layer_ids",
        "eagle_config.layer_ids",
        why=_IDS_NOTE,
        passes=_layer_ids,
        values="a list of layers",
        instead="correct the file, or pair.layer_ids=[...]",
    ),
    _size("num_aux_hidden_states", "num_aux_layers", why="how many of them; 3 where absent"),
    _switch(
        "use_aux_hidden_state",
        "eagle_config.use_aux_hidden_state",
        why="false: no `fc`; the target's last normed hidden state goes in as it is. Engines read it in "
        "`eagle_config` only",
    ),
    _real("logit_scale", why="factor on the logits"),
    _switch(
        *("attention_bias", "qkv_bias", "mlp_bias", "bias"),
        why="the weights decide which linear layers have biases; one that is said and not there is refused. "
        "vLLM has none on `fc`, SGLang none on q, k and v",
    ),
    irrelevant(
        "layer_types",
        why="attention over all positions",
        passes=_full_attention,
        values="full attention of the draft's own layers",
        instead="sliding windows are not supported in a draft; give one with full attention",
    ),
    irrelevant(
        *("sliding_window", "use_sliding_window", "max_window_layers"),
        why="vLLM gives a draft a window by `layer_types` only, SGLang by its command line only",
    ),
    irrelevant(
        "eagle_config.use_input_layernorm_in_first_layer",
        "eagle_config.use_last_layernorm",
        why="both engines have these norms always",
        passes=one_of(True),
        values="true",
        instead="no engine runs a draft without these norms",
    ),
    refused(
        "eagle_config.use_mtp_layernorm",
        "eagle_config.parallel_draft_step",
        why="no engine computes it in an EAGLE draft",
        instead="give a draft without it",
        passes=lambda value, _: value in (False, 0, 1),
        values="false, 0, 1",
    ),
    refused(
        *("mask_token_id", "pard_token", "ptd_token_id", "parallel_drafting"),
        why="the draft fills several positions in parallel (P-EAGLE), which is not supported",
        instead="give a draft that was trained to draft one token after the other",
    ),
    refused(
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        why="a draft with a mixture of experts is not supported",
        instead="give a dense draft",
        passes=lambda value, _: value in (0, 1),
        values="0, 1",
    ),
    refused(
        *("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim"),
        why="a draft with latent attention (MLA) is not supported",
        instead="give a draft with a Llama or Qwen3 layer",
    ),
    refused(
        *("final_logit_softcapping", "logits_soft_cap", "attn_logit_softcapping", "query_pre_attn_scalar"),
        why="no engine computes it in an EAGLE draft",
        instead="give a draft without it",
    ),
    refused(
        "quantization_config",
        "compression_config",
        why="a quantised draft cannot be run here, but task=select trims it as it is",
        instead="measure the same draft in bfloat16",
        values="absent",
        passes=lambda value, _: value in (None, {}),
    ),
    irrelevant(
        "tie_word_embeddings",
        why="the LM head in the weights counts, else the target's; SGLang takes the embedding if it is true",
    ),
    irrelevant("pretraining_tp", why="splits sums that are equal"),
    irrelevant(
        *("torch_dtype", "dtype"),
        why="`dtype=` says in which type a run computes; select and export keep that of the file",
    ),
    irrelevant(*TRAINING_KEYS, why="for training, or for another library's loop"),
    irrelevant(*TOKEN_KEYS, why="token ids; the target's decide"),
    irrelevant(*LIBRARY_KEYS, why="bookkeeping of libraries"),
    irrelevant(
        *("target_model_type", "modal_type", "target_layer_count", "add_classification_head", "class_num"),
        *(
            "pool_type",
            "use_mrope",
            "mrope_interleaved",
            "attention_head_dim",
            "use_rotary_pos_emb",
            "use_cla",
        ),
        *("cla_share_factor", "norm_type", "dense_list", "use_qk_norm", "truncated_vocab_size"),
        *("verifier_name_or_path", "verifier_architectures"),
        why="left over from the target or written by a trainer; neither engine reads it in a draft",
    ),
)
