"""Both layouts of a checkpoint say the same."""

import json

from safetensors.torch import load_file

from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.models.draft_config import Layout
from tests.conftest import VOCAB_SIZE, make_target
from tests.export.conftest import trim


def test_the_speculators_layout_names_the_layer_and_carries_the_shape(source, tmp_path):
    out = trim(source, [1, 2], tmp_path / "out", Layout.SPECULATORS)
    tensors, config = load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())
    assert "layers.0.self_attn.q_proj.weight" in tensors and not any(
        n.startswith("midlayer") for n in tensors
    )
    assert config["speculators_model_type"] == "eagle3" and config["draft_vocab_size"] == 2
    assert config["norm_before_residual"] is False
    assert config["transformer_layer_config"]["vocab_size"] == VOCAB_SIZE
    assert config["speculators_config"]["verifier"]["name_or_path"] == "target-name"
    back = trim(out, [2], tmp_path / "back", Layout.SAFEAILAB, head=None)
    restored = load_draft(back, Placement.beside(make_target()))
    assert restored.vocab.target_ids.tolist() == [2]
    assert not restored.body.config.norm_before_residual


def test_a_change_of_layout_keeps_what_changes_the_computation(source, tmp_path):
    first = trim(source, [1, 2], tmp_path / "speculators", Layout.SPECULATORS)
    config = json.loads((first / "config.json").read_text())
    config["transformer_layer_config"]["architectures"] = ["LlamaForCausalLM"]
    config |= {"norm_before_fc": True, "eagle_aux_hidden_state_layer_ids": [1, 4, 6]}
    del config["norm_before_residual"]
    (first / "config.json").write_text(json.dumps(config))
    back = json.loads((trim(first, [1], tmp_path / "back", head=None) / "config.json").read_text())
    assert back["architectures"] == ["LlamaForCausalLMEagle3"]
    assert back["norm_before_fc"] is True and back["eagle_aux_hidden_state_layer_ids"] == [1, 4, 6]
    assert back["norm_before_residual"] is True
    assert "target_hidden_size" not in back
    again = trim(tmp_path / "back", [1], tmp_path / "again", Layout.SPECULATORS, head=None)
    restored = json.loads((again / "config.json").read_text())
    for key in ("norm_before_fc", "eagle_aux_hidden_state_layer_ids", "norm_before_residual"):
        assert restored[key] == back[key]
        assert key not in restored["transformer_layer_config"]


def test_a_change_of_layout_keeps_the_number_of_layers_and_unties_the_head(source, tmp_path):
    first = trim(source, [1, 2], tmp_path / "speculators", Layout.SPECULATORS)
    config = json.loads((first / "config.json").read_text())
    config["transformer_layer_config"] |= {"num_hidden_layers": 2, "tie_word_embeddings": True}
    (first / "config.json").write_text(json.dumps(config))
    back = json.loads((trim(first, [1], tmp_path / "back", head=None) / "config.json").read_text())
    assert back["num_hidden_layers"] == 2 and back["tie_word_embeddings"] is False
    config["transformer_layer_config"]["model_type"] = "qwen3"
    (first / "config.json").write_text(json.dumps(config))
    flat = json.loads((trim(first, [1], tmp_path / "flat", head=None) / "config.json").read_text())
    assert flat["architectures"] == ["Eagle3Qwen3ForCausalLM"] and flat["model_type"] == "qwen3"
    again = trim(tmp_path / "flat", [1], tmp_path / "again", Layout.SPECULATORS, head=None)
    restored = json.loads((again / "config.json").read_text())
    assert restored["transformer_layer_config"]["model_type"] == "qwen3"
    own = trim(first, [1], tmp_path / "own", Layout.SPECULATORS, head=None)
    kept = json.loads((own / "config.json").read_text())
    assert kept == {**config, "draft_vocab_size": 1}


def test_a_change_of_layout_keeps_keys_that_neither_layout_has(source, tmp_path):
    first = trim(source, [1, 2], tmp_path / "speculators", Layout.SPECULATORS)
    config = json.loads((first / "config.json").read_text())
    unknown = {"quantization_config": {"quant_method": "fp8"}, "mask_token_id": 3}
    (first / "config.json").write_text(json.dumps({**config, **unknown}))
    back = json.loads((trim(first, [1], tmp_path / "back", head=None) / "config.json").read_text())
    assert {key: back[key] for key in unknown} == unknown
    again = trim(tmp_path / "back", [1], tmp_path / "again", Layout.SPECULATORS, head=None)
    restored = json.loads((again / "config.json").read_text())
    assert {key: restored["transformer_layer_config"][key] for key in unknown} == unknown
