"""Drafts as llama.cpp reads them. The layout was compared bit by bit with what its own converter writes."""

import json

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from bench.cost.config_json import DraftKind
from bench.errors import CheckpointError
from bench.export.gguf_files import cut_gguf, read_gguf_vocab, unknown_tensors, write_eagle3_gguf
from bench.models.eagle_files import open_eagle
from tests.conftest import HIDDEN, VOCAB_SIZE
from tests.export.conftest import trim, vocab_of


def written(folder, path, **changed):
    if changed:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))
    files = open_eagle(folder, DraftKind.EAGLE3)
    assert not unknown_tensors(files)
    write_eagle3_gguf(files, (2, 4, 5), path)
    reader = gguf.GGUFReader(path)
    return reader, {tensor.name: tensor for tensor in reader.tensors}


def said(reader, key):
    return reader.get_field(key).contents()


def as_float(tensor):
    return gguf.dequantize(tensor.data, tensor.tensor_type)


def test_a_trimmed_draft_is_written_with_absolute_ids(trimmed, tmp_path):
    reader, tensors = written(trimmed, tmp_path / "draft.gguf")
    source = load_file(trimmed / "model.safetensors")
    assert tensors["d2t"].data.tolist() == [1, 2, 5] and tensors["d2t"].tensor_type is Type.I64
    assert np.array_equal(as_float(tensors["output.weight"]), source["lm_head.weight"].float().numpy())
    norm = tensors["blk.0.attn_norm_2.weight"]
    assert norm.tensor_type is Type.F32
    assert np.array_equal(norm.data, source["midlayer.hidden_norm.weight"].float().numpy())
    assert said(reader, "eagle3.target_layers") == [2, 4, 5]
    assert said(reader, "eagle3.vocab_size") == VOCAB_SIZE
    assert said(reader, "eagle3.target_hidden_size") == HIDDEN
    assert read_gguf_vocab(tmp_path / "draft.gguf", VOCAB_SIZE).target_ids.tolist() == [1, 2, 5]
    assert "rope_freqs.weight" not in tensors


def test_rows_that_are_rotated_stand_in_pairs(trimmed, tmp_path):
    """llama.cpp rotates rows 2i and 2i + 1 of a head, this package rows i and i + 4."""
    _, tensors = written(trimmed, tmp_path / "draft.gguf")
    rows = load_file(trimmed / "model.safetensors")["midlayer.self_attn.q_proj.weight"].float().numpy()
    found = as_float(tensors["blk.0.attn_q.weight"])
    for head in range(4):
        for i in range(4):
            assert np.array_equal(found[8 * head + 2 * i], rows[8 * head + i])
            assert np.array_equal(found[8 * head + 2 * i + 1], rows[8 * head + i + 4])


def test_a_whole_head_has_no_map(source, tmp_path):
    reader, tensors = written(trim(source, range(VOCAB_SIZE), tmp_path / "whole"), tmp_path / "draft.gguf")
    assert "d2t" not in tensors and len(as_float(tensors["output.weight"])) == VOCAB_SIZE
    assert said(reader, "general.architecture") == "eagle3"


def test_scaled_rope_is_written_as_divisors(trimmed, tmp_path):
    """Linear scaling divides every frequency alike."""
    scaling = {"rope_type": "linear", "factor": 4.0}
    _, tensors = written(trimmed, tmp_path / "draft.gguf", rope_scaling=scaling)
    assert tensors["rope_freqs.weight"].data.tolist() == [4.0] * 4


def test_what_llama_cpp_does_not_read_is_named(trimmed):
    tensors = load_file(trimmed / "model.safetensors")
    assert unknown_tensors(open_eagle(trimmed, DraftKind.EAGLE3, may_be_quantised=True)) == []
    tensors["fc.weight"] = tensors["fc.weight"].to(torch.float8_e4m3fn)
    tensors["fc.weight_scale"] = torch.ones(1)
    save_file(tensors, trimmed / "model.safetensors")
    found = unknown_tensors(open_eagle(trimmed, DraftKind.EAGLE3, may_be_quantised=True))
    assert found == [
        "it does not read fc.weight, stored as F8_E4M3",
        "it does not read fc.weight_scale, stored as F32",
    ]


# Files of any quantisation, cut.

WIDTH = 256
KINDS = [kind for kind in Type if kind.name not in ("I8", "I16", "I32", "I64", "F64")]


def head_of(kind: Type):
    """Random bytes: a cut must not look into them."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    shape = (VOCAB_SIZE, WIDTH // block * size)
    return np.random.default_rng(kind.value).integers(0, 256, shape).astype(np.uint8)


def write_gguf(path, tensors, arch="eagle3", **keys):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(1)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_array("tokenizer.ggml.tokens", ["a", "ü"])
    writer.add_array("tokenizer.ggml.token_type", [1, 3])
    for key, value in keys.items():
        writer.add_uint32(f"{arch}.{key}", value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def cut(source, ids, out):
    cut_gguf(source, vocab_of(ids), out)
    reader = gguf.GGUFReader(out)
    return reader, {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_of_any_block_format_keep_their_bits(tmp_path, kind):
    head, norm = head_of(kind), np.arange(WIDTH, dtype=np.float32)
    source = write_gguf(
        tmp_path / "a.gguf", {"output_norm.weight": (norm, None), "output.weight": (head, kind)}
    )
    reader, tensors = cut(source, [0, 3, 96], tmp_path / "b.gguf")
    found = tensors["output.weight"]
    assert found.tensor_type is kind and found.shape.tolist() == [WIDTH, 3]
    assert found.data.view(np.uint8).reshape(3, -1).tobytes() == head[[0, 3, 96]].tobytes()
    assert tensors["d2t"].data.tolist() == [0, 3, 96]
    assert np.array_equal(tensors["output_norm.weight"].data, norm)
    assert said(reader, "tokenizer.ggml.tokens") == ["a", "ü"]
    assert said(reader, "tokenizer.ggml.token_type") == [1, 3]


def test_a_trimmed_file_is_trimmed_further(tmp_path):
    head = (head_of(Type.Q8_0), Type.Q8_0)
    whole = write_gguf(tmp_path / "a.gguf", {"output.weight": head})
    cut(whole, [2, 4, 8, 16], tmp_path / "b.gguf")
    _, tensors = cut(tmp_path / "b.gguf", [4, 16], tmp_path / "c.gguf")
    assert tensors["d2t"].data.tolist() == [4, 16]
    assert np.array_equal(tensors["output.weight"].data, head[0][[4, 16]])
    with pytest.raises(CheckpointError, match="lacks 1 of the 2 requested tokens, such as 5"):
        cut(tmp_path / "b.gguf", [4, 5], tmp_path / "d.gguf")


def test_a_sidecar_of_mtp_layers(tmp_path):
    """One with a head of its own, one that holds the model's, and one whose head is the embedding."""
    head = (head_of(Type.Q4_0), Type.Q4_0)
    sizes = {"nextn_predict_layers": 1}
    for name in ("blk.0.nextn.shared_head_head.weight", "output.weight", "token_embd.weight"):
        tensors = {name: head, "blk.0.nextn.eh_proj.weight": (np.zeros((2, 4), np.float32), None)}
        source = write_gguf(tmp_path / "a.gguf", tensors, "qwen35", **sizes)
        _, found = cut(source, [7], tmp_path / "b.gguf")
        place = "output.weight" if name.startswith("token") else name
        assert np.array_equal(found[place].data, head[0][[7]]) and found["d2t"].data.tolist() == [7]
        assert "token_embd.weight" not in found or len(found["token_embd.weight"].data) == VOCAB_SIZE


def test_a_target_and_other_files_are_refused(tmp_path):
    head = (head_of(Type.Q8_0), Type.Q8_0)
    target = write_gguf(tmp_path / "a.gguf", {"output.weight": head, "blk.0.ffn_up.weight": head}, "llama")
    with pytest.raises(CheckpointError, match="holds a whole llama model, whose LM head is not a draft's"):
        cut(target, [1], tmp_path / "b.gguf")
    headless = write_gguf(tmp_path / "a.gguf", {"fc.weight": head})
    with pytest.raises(CheckpointError, match="has no LM head of its own"):
        cut(headless, [1], tmp_path / "b.gguf")
    small = write_gguf(tmp_path / "a.gguf", {"output.weight": (head[0][:90], Type.Q8_0)})
    with pytest.raises(CheckpointError, match="has 90 rows for a vocabulary of 97 tokens"):
        cut(small, [1], tmp_path / "b.gguf")
    for content in (b"", b"GGUF", b"no gguf, but long enough for a header", small.read_bytes()[:100]):
        (tmp_path / "a.gguf").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a GGUF file that can be read"):
            cut(tmp_path / "a.gguf", [1], tmp_path / "b.gguf")
