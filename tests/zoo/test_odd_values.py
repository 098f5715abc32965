"""Values that no engine would take, in drafts and targets: each is named in one line."""

import pytest
import torch

from bench.config import PairConfig
from bench.errors import BenchError, CheckpointError
from bench.export.checkpoint import read_tensors
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.models.target import load_target
from bench.models.target_config import is_lean, plan_target
from bench.select.check import check_pair
from tests.conftest import make_target
from tests.zoo.drafts import SAFEAILAB, Row, weights
from tests.zoo.targets import Row as TargetRow

ROPES = [
    ({"rope_type": "linear", "factor": 0}, "linear needs factor, a number above 0"),
    ({"rope_type": "linear", "factor": True}, "linear needs factor"),
    ({"rope_type": "dynamic", "factor": -2}, "factor=-2 is no number above 0"),
    ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 0}, "yarn needs original_max"),
    ({"factor": 2.0}, "a factor needs a rope_type"),
    ({"rope_type": "longrope", "factor": 2.0}, "the type longrope is none of"),
    ("yarn", "it must be a block of settings"),
]
KEYS = [
    ("rope_theta", "1e4"), ("rope_theta", 0), ("rope_theta", [1]), ("rms_norm_eps", "x"),
    ("rms_norm_eps", -1), ("logit_scale", "a"), ("norm_before_residual", "false"), ("norm_output", "yes"),
    ("fc_norm", 2), ("architectures", "LlamaForCausalLMEagle3"), ("architectures", [1]),
    ("model_type", ["llama"]), ("num_key_value_heads", 0), ("hidden_size", 32.0), ("eagle_config", 3),
    ("text_config", {"a": 1}),
]  # fmt: skip


def refusal(folder, values=SAFEAILAB, tensors=None, files="safetensors") -> str:
    row = Row("odd", values, weights(SAFEAILAB) if tensors is None else tensors, files=files)
    with pytest.raises(BenchError) as caught:
        load_draft(row.write(folder), Placement.beside(make_target()))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("key", "value"), KEYS, ids=lambda value: str(value))
def test_a_value_of_the_wrong_kind_is_named(tmp_path, key, value):
    assert f"{key}={value!r}" in refusal(tmp_path, {**SAFEAILAB, key: value})


@pytest.mark.parametrize(("value", "why"), ROPES, ids=lambda value: str(value))
def test_a_rotary_embedding_that_cannot_be_is_refused_with_the_reason(tmp_path, value, why):
    said = refusal(tmp_path, {**SAFEAILAB, "rope_scaling": value})
    assert f"rope_scaling={value!r}"[:40] in said and why in said


def test_a_head_of_integers_is_quantised(tmp_path):
    tensors = weights(SAFEAILAB)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)
    assert "lm_head.weight is I8, and a quantised draft cannot be run" in refusal(tmp_path, tensors=tensors)


def test_a_mask_of_another_length_is_named(tmp_path):
    said = refusal(tmp_path, {**SAFEAILAB, "vocab_size": 100})
    assert "t2d has 97 entries, and vocab_size is 100" in said


def test_names_that_no_engine_reads_are_refused(tmp_path):
    tensors = {f"drafter.{name}": tensor for name, tensor in weights(SAFEAILAB).items()}
    assert "no tensor begins with midlayer. or layers.0." in refusal(tmp_path, tensors=tensors)


def test_a_prefix_that_sglang_takes_off_is_taken_off(tmp_path):
    plain = weights(SAFEAILAB)
    folder = Row("odd", SAFEAILAB, {f"model.{name}": t for name, t in plain.items()}).write(tmp_path)
    draft = load_draft(folder, Placement.beside(make_target()))
    assert torch.equal(draft.head_weight, plain["lm_head.weight"]) and len(draft.vocab) == len(plain["d2t"])
    assert read_tensors(folder).keys() == plain.keys()


def test_an_index_that_names_no_file_is_refused(tmp_path):
    Row("odd", SAFEAILAB, weights(SAFEAILAB), files="shards").write(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"fc.weight": null}}')
    with pytest.raises(CheckpointError, match="expected a weight_map of tensors to files"):
        load_draft(tmp_path, Placement.beside(make_target()))


def test_more_positions_than_memory_cost_nothing(tmp_path):
    values = {**SAFEAILAB, "max_position_embeddings": 10**13}
    folder = Row("odd", values, weights(SAFEAILAB)).write(tmp_path)
    assert load_draft(folder, Placement.beside(make_target())).notes == ()


def test_a_mask_of_floats_is_a_finding(tmp_path):
    (tmp_path / "draft").mkdir()
    (tmp_path / "target").mkdir()
    tensors = weights(SAFEAILAB)
    tensors["t2d"] = tensors["t2d"].float()
    Row("odd", SAFEAILAB, tensors).write(tmp_path / "draft")
    TargetRow("Llama", "llama").write(tmp_path / "target")
    found = check_pair(PairConfig("p", str(tmp_path / "target"), str(tmp_path / "draft")))
    assert "t2d is F32, and no list of true and false" in found.problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": ["llama"]}, r"model_type=\['llama'\] is not a name"),
        ({"text_config": 3}, "text_config=3 is not a block of settings"),
        ({"quantization_config": "fp8"}, "quantization_config='fp8' is no block of settings"),
    ],
)
def test_a_target_of_odd_values_is_refused(change, said):
    with pytest.raises(CheckpointError, match=said):
        plan_target({"model_type": "llama", **change}, "config.json")
    assert not is_lean({"model_type": "llama", "layer_types": 3})


# What transformers 5.24 writes for a GGUF file, and what is often left in configurations.
@pytest.mark.parametrize(
    "values",
    [
        {"_model_name_or_path": "Smollm2 135M 8k", "unk_token_id": 0, "pretraining_tp": 1},
        {"tokenizer_class": "LlamaTokenizer", "torchscript": False, "gradient_checkpointing": True},
    ],
)
def test_what_libraries_write_keeps_no_target_from_the_lean_pass(tmp_path, values):
    target = load_target(
        TargetRow("Llama", "llama", values=values).write(tmp_path), torch.device("cpu"), torch.float32
    )
    assert target.runner == "lean" and target.notes == ()


def test_why_a_llama_runs_through_transformers_is_said(tmp_path):
    row = TargetRow("Llama", "llama", values={"new_attention": 2})
    target = load_target(row.write(tmp_path), torch.device("cpu"), torch.float32)
    assert target.runner == "transformers"
    assert target.notes[0].endswith(
        "own pass: config.json: new_attention=2 is not known, and may change what the model computes"
    )


def test_a_soft_cap_that_a_models_class_ignores_is_ignored(tmp_path):
    row = TargetRow("Llama", "llama", values={"final_logit_softcapping": 0.5, "logit_scale": 3.0})
    target = load_target(row.write(tmp_path), torch.device("cpu"), torch.float32)
    assert target.lm_head.cap is None and target.lm_head.factor == 1
