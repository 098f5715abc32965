"""FLOPs per drafted token against figures worked out by hand and those that arXiv 2603.05210 implies."""

import numpy as np
import pytest

from bench.cost.shape import DraftKind, DraftShape
from bench.errors import CheckpointError

LLAMA_8B = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "draft_vocab_size": 32000,
}
SMOLLM2 = {
    **LLAMA_8B,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "draft_vocab_size": 49152,
}


def shape(values: dict) -> DraftShape:
    return DraftShape.from_config(values, "config.json")


def test_components_of_the_eagle3_head_for_llama_3_1_8b():
    flops = shape(LLAMA_8B).token_flops(128256)
    parts = [flops.fc, flops.attention, flops.mlp, flops.lm_head, flops.total]
    assert [round(part / 1e6, 3) for part in parts] == [100.663, 134.218, 352.322, 1050.673, 1637.876]
    assert round(flops.lm_head_share, 4) == 0.6415


def test_reduction_of_the_eagle3_head_for_llama_3_1_8b():
    reduction = shape(LLAMA_8B).latency_reduction(np.array([32000, 13264, 4096, 128256]))
    assert [round(r, 4) for r in reduction.tolist()] == [0.4814, 0.5751, 0.6210, 0.0]


def test_components_of_the_shipped_draft():
    flops = shape(SMOLLM2).token_flops(49152)
    parts = [flops.fc, flops.attention, flops.mlp, flops.lm_head, flops.total]
    assert [round(part / 1e6, 3) for part in parts] == [1.991, 2.875, 5.308, 56.623, 66.798]
    reduction = shape(SMOLLM2).latency_reduction(np.array([8192, 4096, 1024]))
    assert [round(r, 4) for r in reduction.tolist()] == [0.7064, 0.7770, 0.8300]


def test_a_speculators_configuration_has_the_same_cost():
    layer = {k: v for k, v in LLAMA_8B.items() if k not in ("architectures", "draft_vocab_size")}
    values = {
        "speculators_model_type": "eagle3",
        "draft_vocab_size": 32000,
        "transformer_layer_config": layer,
    }
    assert shape(values).token_flops(32000) == shape(LLAMA_8B).token_flops(32000)
    assert shape(values).draft_vocab_size == 32000


def test_a_decoder_lm_with_grouped_queries():
    values = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "tie_word_embeddings": True,
    }
    found = shape(values)
    flops = found.token_flops(10)
    # per layer: q 2*8*8, k and v 2*8*4 each, o 2*8*8; MLP 3 matrices of 8*20
    assert found.kind is DraftKind.DECODER_LM and found.tied_head
    assert (flops.fc, flops.attention, flops.mlp, flops.lm_head) == (0, 2 * (128 + 128 + 128), 2 * 960, 160)


def test_gpt2_has_no_gate_and_four_times_the_width():
    values = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 3, "vocab_size": 50}
    flops = shape(values).token_flops(50)
    assert flops.attention == 3 * 4 * 2 * 8 * 8
    assert flops.mlp == 3 * 2 * 2 * 8 * 32


@pytest.mark.parametrize("later, key_value_heads", [(False, 1), (True, 2)])
def test_falcon_groups_queries_by_its_architecture(later, key_value_heads):
    values = {
        "model_type": "falcon",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "multi_query": True,
        "new_decoder_architecture": later,
        "vocab_size": 50,
    }
    # heads are 2 wide: q and o 2*8*8 each, k and v 2*8*2 for each key and value head
    assert shape(values).token_flops(50).attention == 256 + 2 * 32 * key_value_heads


@pytest.mark.parametrize("model_type, matrices", [("llama", 3), ("opt", 2), ("apertus", 2), ("persimmon", 2)])
def test_a_plain_mlp_has_two_matrices(model_type, matrices):
    values = {**SMOLLM2, "model_type": model_type}
    assert shape(values).token_flops(1).mlp == matrices * 2 * 576 * 1536


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
@pytest.mark.parametrize("nest", [None, "text_config", "transformer_layer_config"])
def test_experts_are_refused_wherever_they_are_named(key, nest):
    values = {**SMOLLM2, key: 8}
    with pytest.raises(CheckpointError, match=r"config\.json: .*mixture of experts"):
        shape({nest: values} if nest else values)
    assert shape({**SMOLLM2, key: 1}) == shape(SMOLLM2)


def test_what_is_missing_or_not_modelled_is_named():
    with pytest.raises(CheckpointError, match=r"config\.json: hidden_size is missing"):
        shape({"vocab_size": 10})
    with pytest.raises(CheckpointError, match="mixture of experts"):
        shape({**SMOLLM2, "num_local_experts": 8})
