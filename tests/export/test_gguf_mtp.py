"""Sidecars of MTP modules as llama.cpp reads them.

Whole heads were compared bit by bit with what llama.cpp's own converter writes with `--mtp`.
"""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from bench.errors import CheckpointError
from bench.export.checkpoint import read_ends, read_head, trim_mtp
from bench.export.gguf_files import cut_gguf, read_gguf_vocab
from bench.export.gguf_mtp import sidecar_objections, write_mtp_gguf
from bench.models.mtp import has_own_head, open_mtp
from tests.conftest import HIDDEN, VOCAB_SIZE
from tests.export.conftest import vocab_of
from tests.zoo.mtp_rows import GLM, ROWS, MtpRow
from tests.zoo.targets import SIZES

IDS = [0, 1, 5, 9, 40, 96]
LAYER = f"blk.{SIZES['num_hidden_layers']}."
ARCHITECTURES = {
    "qwen3_next": "qwen3next",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "deepseek_v3": "deepseek2",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
}
REFUSED = {
    "DeepSeek-V3, queries not compressed": "it has no MTP layer whose queries are not compressed",
    "DeepSeek-V3, halves turn": "it turns neighbouring dimensions of a head, and this module turns halves",
    "a Llama's layer": "it has no MTP layer for a target of model_type=llama",
    "a Qwen3's layer": "it has no MTP layer for a target of model_type=qwen3",
}
WRITTEN = [row for row in ROWS if row.name not in REFUSED]


def made(row, folder, ids=IDS):
    """The target's folder, the tensors of its module, and the module cut to `ids`."""
    target, out = folder / "target", folder / "draft"
    target.mkdir()
    tensors = {name.removeprefix(row.prefix): t for name, t in row.write(target).items()}
    trim_mtp(target, vocab_of(ids), None if has_own_head(target) else read_head(target), out)
    return target, tensors, open_mtp(out, may_be_quantised=True)


def written(row, folder, ids=IDS):
    target, tensors, files = made(row, folder, ids)
    assert sidecar_objections(files, target) == []
    path = folder / "draft.gguf"
    write_mtp_gguf(files, target, path)
    reader = gguf.GGUFReader(path)
    return target, tensors, reader, {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.name)
def test_a_sidecar_holds_the_module_with_its_head_cut(row, tmp_path):
    target, tensors, reader, found = written(row, tmp_path)
    arch = ARCHITECTURES[row.model_type]
    assert reader.get_field("general.architecture").contents() == arch
    number = SIZES["num_hidden_layers"]
    for key, value in (("block_count", number + 1), ("nextn_predict_layers", 1), ("vocab_size", VOCAB_SIZE)):
        assert reader.get_field(f"{arch}.{key}").contents() == value
    # One layer, behind all others; the loader takes a file without layer 0 for a sidecar.
    assert {name.split(".")[1] for name in found if name.startswith("blk.")} == {str(number)}
    head = tensors.get("shared_head.head.weight", next(iter(read_head(target).values())).tensor())
    assert np.array_equal(found["output.weight"].data, head[IDS].numpy())
    assert found["d2t"].data.tolist() == IDS and found["d2t"].tensor_type is Type.I64
    embedding, norm = (stored.tensor() for stored in read_ends(target))
    embedding = tensors.get("embed_tokens.weight", embedding)
    assert np.array_equal(found["token_embd.weight"].data, embedding.numpy())
    fuse = tensors["fc.weight" if row.prefix == "mtp." else "eh_proj.weight"]
    assert np.array_equal(found[f"{LAYER}nextn.eh_proj.weight"].data, fuse.numpy())
    entry = tensors["pre_fc_norm_embedding.weight" if row.prefix == "mtp." else "enorm.weight"]
    # llama.cpp multiplies by the weight alone.
    offset = 1.0 if arch.startswith("qwen3") else 0.0
    assert np.array_equal(found[f"{LAYER}nextn.enorm.weight"].data, (entry + offset).numpy())
    assert np.array_equal(found["output_norm.weight"].data, (norm + offset).numpy())
    assert read_gguf_vocab(tmp_path / "draft.gguf", VOCAB_SIZE).target_ids.tolist() == IDS


def test_every_tensor_of_a_module_is_written_once(tmp_path):
    """The numbers of all tensors are in the file, but for those of the cut head."""
    for place, row in enumerate(WRITTEN):
        folder = tmp_path / str(place)
        folder.mkdir()
        _, tensors, _, found = written(row, folder, range(VOCAB_SIZE))
        layer = [tensor for name, tensor in found.items() if name.startswith(LAYER)]
        own = [name for name in ("shared_head.head.weight", "embed_tokens.weight") if name in tensors]
        numbers = sum(t.numel() for name, t in tensors.items() if name not in own)
        assert sum(int(tensor.n_elements) for tensor in layer) == numbers and "d2t" not in found


def test_experts_are_stacked(tmp_path):
    _, tensors, _, found = written(ROWS[0], tmp_path)
    for part in ("gate", "up", "down"):
        names = [f"layers.0.mlp.experts.{expert}.{part}_proj.weight" for expert in range(4)]
        assert np.array_equal(
            found[f"{LAYER}ffn_{part}_exps.weight"].data, torch.stack([tensors[n] for n in names]).numpy()
        )
    shared = tensors["layers.0.mlp.shared_expert.up_proj.weight"]
    assert np.array_equal(found[f"{LAYER}ffn_up_shexp.weight"].data, shared.numpy())


def test_keys_and_values_of_latents_are_apart(tmp_path):
    """For every head, keys are 8 rows and values 6 rows of the same matrix over 8 latents."""
    row = next(row for row in ROWS if row.model_type == "glm4_moe_lite")
    _, tensors, reader, found = written(row, tmp_path)
    rows = tensors["self_attn.kv_b_proj.weight"].reshape(4, 14, 8)
    assert np.array_equal(found[f"{LAYER}attn_k_b.weight"].data, rows[:, :8].transpose(1, 2).numpy())
    assert np.array_equal(found[f"{LAYER}attn_v_b.weight"].data, rows[:, 8:].numpy())
    keys = {
        key: reader.get_field(f"deepseek2.attention.{key}").contents()
        for key in ("key_length", "value_length", "key_length_mla", "value_length_mla", "head_count_kv")
    }
    assert list(keys.values()) == [12, 8, 12, 6, 1]


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in REFUSED], ids=lambda row: row.name)
def test_what_llama_cpp_has_no_layer_for_is_said(row, tmp_path):
    target, _, files = made(row, tmp_path)
    assert sidecar_objections(files, target) == [REFUSED[row.name]]


def test_layers_of_another_kind_than_the_architecture_has_are_refused(tmp_path):
    dense = MtpRow("dense", "glm4_moe", {key: v for key, v in GLM.items() if key != "n_routed_experts"})
    target, _, files = made(dense, tmp_path)
    assert "its glm4moe has an MTP layer with experts only" in sidecar_objections(files, target)


def test_quantised_and_missing_weights_are_named(tmp_path):
    target, _, files = made(ROWS[0], tmp_path)
    fuse, expert = files.tensors["fc.weight"], "layers.0.mlp.experts.1.up_proj.weight"
    as_fp8 = replace(files, tensors={**files.tensors, "fc.weight": replace(fuse, dtype="F8_E4M3")})
    assert sidecar_objections(as_fp8, target) == ["it does not read fc.weight, stored as F8_E4M3"]
    without = replace(files, tensors={n: t for n, t in files.tensors.items() if n != expert})
    with pytest.raises(CheckpointError, match=r"mlp\.experts\.1\.up_proj\.weight of an expert"):
        write_mtp_gguf(without, target, tmp_path / "draft.gguf")


def test_stretched_rope_is_refused_where_it_was_not_compared(tmp_path):
    target, _, _ = made(ROWS[1], tmp_path)
    values = json.loads((tmp_path / "draft" / "config.json").read_text())
    values["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    (tmp_path / "draft" / "config.json").write_text(json.dumps(values))
    assert sidecar_objections(open_mtp(tmp_path / "draft"), target) == [
        "its linear rope was not compared with that of others"
    ]


def test_a_sidecar_is_cut_further(tmp_path):
    _, _, _, found = written(ROWS[1], tmp_path)
    cut_gguf(tmp_path / "draft.gguf", vocab_of([1, 96]), tmp_path / "smaller.gguf")
    again = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "smaller.gguf").tensors}
    assert again["d2t"].data.tolist() == [1, 96] and again["output.weight"].shape.tolist() == [HIDDEN, 2]
    assert np.array_equal(again["output.weight"].data, found["output.weight"].data[[1, 5]])
