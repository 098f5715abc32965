"""Checkpoints in any number and kind of files are read, and what is wrong with one is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import CheckpointError
from bench.export.checkpoint import (
    read_head,
    read_offsets,
    read_tensors,
    read_trimmed,
    read_weight_file,
    trim_lm_head,
)
from bench.export.layouts import Layout
from tests.conftest import VOCAB_SIZE
from tests.export.conftest import HEAD, trim, vocab_of


def test_offsets_of_a_trimmed_draft_are_found_in_any_file(source, tmp_path):
    assert read_offsets(source) is None and read_offsets(tmp_path) is None
    trimmed = trim(source, [3, 8, 90], tmp_path / "out")
    assert read_offsets(trimmed).tolist() == [3, 7, 88]
    (tmp_path / "pickled").mkdir()
    torch.save(load_file(trimmed / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    assert read_offsets(tmp_path / "pickled").tolist() == [3, 7, 88]


@pytest.mark.parametrize("pickled", [False, True])
def test_offsets_in_a_rounding_format_are_named(tmp_path, pickled):
    tensors = {"d2t": torch.tensor([1.0]).bfloat16()}
    if pickled:
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="d2t is not a vocabulary map: .* flat list of integers"):
        read_offsets(tmp_path)


def test_sharded_and_pickled_checkpoints_are_read(source, tmp_path):
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_tensors(tmp_path).keys() == tensors.keys()
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save(tensors, pickled / "pytorch_model.bin")
    assert all(torch.equal(read_tensors(pickled)[name], tensors[name]) for name in names)


def test_of_a_large_model_only_the_head_is_read(tmp_path, monkeypatch):
    save_file({"model.embed_tokens.weight": HEAD + 1}, tmp_path / "a.safetensors")
    save_file({"lm_head.weight": HEAD, "other": HEAD + 2}, tmp_path / "b.safetensors")
    weight_map = {
        "model.embed_tokens.weight": "a.safetensors",
        **dict.fromkeys(["lm_head.weight", "other"], "b.safetensors"),
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    read = []

    def spy(path, only=None):
        found = read_weight_file(path, only)
        read.extend(found)
        return found

    monkeypatch.setattr("bench.export.checkpoint.read_weight_file", spy)
    assert torch.equal(read_head(tmp_path), HEAD) and read == ["lm_head.weight"]


@pytest.mark.parametrize("index", ["[]", "{}", "{", '{"weight_map": 3}'])
def test_a_broken_index_is_named(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: "):
        read_tensors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello world", bytes(64)])
@pytest.mark.parametrize("name", ["model.safetensors", "lm_head.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="the weights cannot be read") as caught:
        read_trimmed(tmp_path, VOCAB_SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("text", ["[1]", "{", '{"speculators_model_type": "eagle3"}'])
def test_a_broken_configuration_is_named(trimmed, tmp_path, layout, text):
    (trimmed / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        trim(trimmed, [1], tmp_path / "out", layout, head=None)


@pytest.mark.parametrize("other", ["lm_head.bias", "lm_head.weight_scale"])
def test_a_head_that_is_more_than_a_matrix_is_not_cut(source, tmp_path, other):
    folder = tmp_path / "lm"
    folder.mkdir()
    save_file({"lm_head.weight": HEAD, other: HEAD[:, 0].contiguous()}, folder / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(CheckpointError, match=f"the LM head holds {other} beside its matrix"):
        trim_lm_head(folder, vocab_of([4]), tmp_path / "out")
    with pytest.raises(CheckpointError, match=f"the LM head holds {other} beside its matrix"):
        trim(folder, [4], tmp_path / "out", head=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"d2t": torch.tensor([1.0, 1.0, 3.0])}, "flat list of integers"),
        ({"d2t": torch.tensor([1, 1, 3]).bfloat16()}, "flat list of integers"),
        ({"t2d": torch.tensor([0, 1, 1, 0, 0, 1]).bool()}, "name different tokens"),
        ({"lm_head.weight": HEAD[:2]}, "has 2 rows, its vocabulary 3 tokens"),
    ],
)
def test_maps_and_head_that_do_not_fit_are_refused(trimmed, changed, reason):
    path = trimmed / "model.safetensors"
    save_file({**load_file(path), **changed}, path)
    with pytest.raises(CheckpointError, match=reason):
        read_trimmed(trimmed, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("d2t", "reason"), [([0, -1], "strictly increasing"), ([0, 200], "outside the target's vocabulary")]
)
def test_a_checkpoint_with_a_broken_map_is_named(source, tmp_path, d2t, reason):
    tensors = load_file(trim(source, [1, 2], tmp_path / "out") / "model.safetensors")
    tensors["d2t"] = torch.tensor(d2t)
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"out: d2t is not a vocabulary map: .*{reason}"):
        read_trimmed(tmp_path / "out", VOCAB_SIZE)


def test_a_trimmed_head_without_its_map_is_refused(trimmed):
    path = trimmed / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if n not in ("d2t", "t2d")}, path)
    with pytest.raises(CheckpointError, match=f"has 3 rows, its vocabulary {VOCAB_SIZE} tokens"):
        read_trimmed(trimmed, VOCAB_SIZE)


def test_ids_that_are_not_what_the_header_states_are_refused(trimmed):
    path = trimmed / "model.safetensors"
    save_file(load_file(path), path, metadata={"content_hash": "0"})
    with pytest.raises(CheckpointError, match="content_hash"):
        read_trimmed(trimmed, VOCAB_SIZE)
