import pytest

from bench.cost.config_json import DraftKind, kind_of
from bench.errors import CheckpointError
from bench.models.config_rules import Verdict
from bench.models.draft_config import read_draft_keys

# Every size, as SafeAILab writes them.
EAGLE3 = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "draft_vocab_size": 40,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
EAGLE = {**EAGLE3, "architectures": ["LlamaForCausalLM"]}
del EAGLE["draft_vocab_size"]
LAYER = {k: v for k, v in EAGLE3.items() if k not in ("architectures", "draft_vocab_size")}
SPECULATORS = {
    "architectures": ["Eagle3Speculator"],
    "speculators_model_type": "eagle3",
    "speculators_version": "0.3.0",
    "draft_vocab_size": 40,
    "transformer_layer_config": LAYER,
    "speculators_config": {"algorithm": "eagle3"},
}


def readings(values, ignored=()):
    kind = kind_of(values, "config.json")
    return read_draft_keys(values, "config.json", kind, ignored)


def read(values, **changes):
    return readings({**values, **changes})[0]


def refusal(values, **changes):
    with pytest.raises(CheckpointError) as caught:
        read(values, **changes)
    return str(caught.value)


def test_a_plain_draft_is_read_with_its_defaults():
    config = read(EAGLE3)
    assert config.kind is DraftKind.EAGLE3
    assert (config.head_dim, config.num_features, config.feature_width) == (8, 3, 96)
    assert (config.layer_ids, config.max_position_embeddings, config.rms_norm_eps) == (None, 2048, 1e-5)
    flags = (config.norm_before_residual, config.norm_before_fc, config.fc_norm, config.norm_output)
    assert not any(flags) and not config.qk_norm
    values = {**EAGLE3}
    del values["num_key_value_heads"]
    assert read(values).num_key_value_heads == 4


def test_speculators_differs_in_what_an_absent_key_means():
    assert read(SPECULATORS).norm_before_residual
    assert not read(SPECULATORS, norm_before_residual=False).norm_before_residual
    assert not read(SPECULATORS).qk_norm
    assert read(SPECULATORS, transformer_layer_config={**LAYER, "model_type": "qwen3"}).qk_norm
    # The Qwen3-VL drafts of SpecForge have a Llama's layer.
    assert not read(EAGLE3, architectures=["Eagle3Qwen3vlForCausalLM"]).qk_norm


def test_layer_ids_are_found_where_either_engine_looks():
    assert read(EAGLE3, eagle_aux_hidden_state_layer_ids=[1, 4]).layer_ids == (1, 4)
    nested = {"eagle_aux_hidden_state_layer_ids": [1, 4, 6, 7], "use_aux_hidden_state": True}
    assert read(EAGLE3, eagle_config=nested).layer_ids == (1, 4, 6, 7)
    assert read(EAGLE3, eagle_config=nested).num_features == 4
    assert read(EAGLE3, eagle_aux_hidden_state_layer_ids=[]).layer_ids is None
    assert "names 2" in refusal(EAGLE3, eagle_aux_hidden_state_layer_ids=[1, 4], num_aux_hidden_states=3)


def test_no_features_are_fused_where_it_says_so_and_in_older_kinds():
    assert read(EAGLE3, eagle_config={"use_aux_hidden_state": False}).num_features == 0
    assert read(EAGLE).kind is DraftKind.EAGLE
    assert read(EAGLE).num_features == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported: activation of the MLP"),
        (
            {"rope_scaling": {"rope_type": "longrope"}},
            "rope_scaling={'rope_type': 'longrope'} is not supported",
        ),
        ({"layer_types": ["sliding_attention"], "sliding_window": 8}, "sliding windows are not supported"),
        ({"num_experts": 8}, "give a dense draft"),
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"mask_token_id": 3}, "P-EAGLE"),
        ({"quantization_config": {"quant_method": "fp8"}}, "measure the same draft in bfloat16"),
        ({"eagle_config": {"use_last_layernorm": False}}, "eagle_config.use_last_layernorm=False"),
        ({"eagle_config": {"twist": 1}}, "eagle_config.twist=1 is not known"),
        ({"twist": 1}, "twist=1 is not known, and may change what the model computes"),
        ({"head_dim": 0}, "head_dim=0 is not supported"),
        ({"intermediate_size": None}, "an EAGLE-3 draft needs intermediate_size"),
        ({"hidden_act": "relu", "twist": 1}, "; also: twist=1"),
    ],
)
def test_what_would_change_a_draft_in_silence_is_refused_with_key_and_value(changes, words):
    message = refusal(EAGLE3, **changes)
    assert words in message and message.startswith("config.json: ")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"architectures": ["DFlashDraftModel"], "model_type": "qwen3"}, "DFlash"),
        ({"speculators_model_type": "dflash2"}, "DFlash"),
        ({"speculators_model_type": "peagle"}, "P-EAGLE"),
        ({"architectures": ["PEagleDraftModel"]}, "P-EAGLE"),
        ({"medusa_num_heads": 4, "base_model_name_or_path": "x"}, "Medusa"),
        ({"architectures": ["MedusaModel"]}, "Medusa"),
        ({"architectures": ["MLPSpeculatorPreTrainedModel"]}, "MLP speculator"),
        ({"architectures": ["Qwen3DSparkModel"]}, "DSpark"),
    ],
)
def test_other_kinds_are_refused_by_name(values, kind):
    assert f"a {kind} draft is not supported" in refusal({**LAYER, **values})


def test_a_null_is_an_absent_key_and_the_user_may_answer_for_one():
    assert read(EAGLE3, twist=None, rope_scaling=None).rope.kind == "default"
    _, found = readings({**EAGLE3, "twist": 1}, ignored=["twist"])
    assert {r.key: r.verdict for r in found}["twist"] is Verdict.IRRELEVANT


def test_every_key_has_a_verdict():
    _, found = readings({**EAGLE3, "torch_dtype": "float16", "sliding_window": 4})
    assert [r.key for r in found] == [*EAGLE3, "torch_dtype", "sliding_window"]
    verdicts = {r.key: r.verdict for r in found}
    assert verdicts["hidden_size"] is Verdict.HONOURED and verdicts["torch_dtype"] is Verdict.IRRELEVANT
