"""Checkpoints in any number and kind of files are read, and what is wrong with one is named."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import AssetError, CheckpointError
from bench.export.checkpoint import (
    read_head,
    read_offsets,
    read_tensors,
    read_trimmed,
)
from bench.models.draft_config import Layout
from tests.conftest import VOCAB_SIZE
from tests.export.conftest import HEAD, trim


def test_offsets_of_a_trimmed_draft_are_found_in_any_file(source, tmp_path):
    assert read_offsets(source) is None
    with pytest.raises(AssetError, match="holds neither"):
        read_offsets(tmp_path)
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
    assert all(torch.equal(read_tensors(pickled)[name].tensor(), tensors[name]) for name in names)
    for shard, held in shards.items():
        torch.save({name: tensors[name] for name in held}, pickled / shard)
    (pickled / "pytorch_model.bin").rename(pickled / "other.bin")
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index).replace(".safetensors", ".bin"))
    for shard in shards:
        (pickled / shard).rename((pickled / shard).with_suffix(".bin"))
    assert all(torch.equal(read_tensors(pickled)[name].tensor(), tensors[name]) for name in names)
    (pickled / "b.bin").unlink()
    with pytest.raises(CheckpointError, match=r"names b\.bin, which is not there"):
        read_tensors(pickled)


def test_heads_of_large_models_and_of_wrappers_are_found(tmp_path):
    save_file({"model.embed_tokens.weight": HEAD + 1}, tmp_path / "a.safetensors")
    save_file({"lm_head.weight": HEAD, "other": HEAD + 2}, tmp_path / "b.safetensors")
    weight_map = {
        "model.embed_tokens.weight": "a.safetensors",
        **dict.fromkeys(["lm_head.weight", "other"], "b.safetensors"),
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    head = read_head(tmp_path)
    assert head.keys() == {"lm_head.weight"} and torch.equal(head["lm_head.weight"].tensor(), HEAD)
    (tmp_path / "vlm").mkdir()
    save_file({"language_model.lm_head.weight": HEAD}, tmp_path / "vlm" / "model.safetensors")
    assert torch.equal(read_head(tmp_path / "vlm")["lm_head.weight"].tensor(), HEAD)
    (tmp_path / "tied").mkdir()
    save_file({"model.language_model.embed_tokens.weight": HEAD}, tmp_path / "tied" / "model.safetensors")
    assert torch.equal(read_head(tmp_path / "tied")["lm_head.weight"].tensor(), HEAD)


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


@pytest.fixture
def full_draft(source, tmp_path):
    """A folder with the configuration of a full draft, and a way to give it a head."""
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())

    def with_head(**head):
        tensors = {name.replace("__", "."): tensor for name, tensor in head.items()}
        rest = load_file(source / "model.safetensors")
        save_file({**rest, **tensors}, folder / "model.safetensors")
        return folder

    return with_head


CODES = (
    torch.arange(VOCAB_SIZE * 32, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(VOCAB_SIZE, 32)
)
SCALES = torch.linspace(0.1, 2, VOCAB_SIZE)[:, None]
QUANTISED = {
    "fp8 by channel": {
        "lm_head__weight": CODES.view(torch.float8_e4m3fn),
        "lm_head__weight_scale": SCALES,
        "lm_head__input_scale": torch.tensor(0.5),
    },
    "int4 by group": {
        "lm_head__weight_packed": CODES[:, :16].contiguous().view(torch.int32),
        "lm_head__weight_scale": SCALES.bfloat16().repeat(1, 4),
        "lm_head__weight_shape": torch.tensor([VOCAB_SIZE, 32]),
    },
    "mxfp4": {
        "lm_head__weight": CODES[:, :16].contiguous(),
        "lm_head__weight_scale": CODES[:, :1].contiguous(),
    },
    "biased": {"lm_head__weight": HEAD, "lm_head__bias": HEAD[:, 0].contiguous()},
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_rows_of_a_quantised_head_are_taken_with_their_scales_bit_by_bit(full_draft, tmp_path, kind):
    ids = [0, 4, 50, VOCAB_SIZE - 1]
    out = load_file(
        trim(full_draft(**QUANTISED[kind]), ids, tmp_path / "out", head=None) / "model.safetensors"
    )
    assert len(QUANTISED[kind]) == sum(name.startswith("lm_head.") for name in out)
    for name, tensor in QUANTISED[kind].items():
        found = out[name.replace("__", ".")]
        if name.endswith("shape"):
            assert found.tolist() == [len(ids), 32]
            continue
        expected = tensor[ids] if tensor.ndim else tensor
        assert found.dtype == tensor.dtype and found.shape == expected.shape
        assert torch.equal(found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))


def test_a_head_in_blocks_of_rows_is_refused_by_name(full_draft, tmp_path):
    head = {"lm_head__weight": HEAD, "lm_head__weight_scale_inv": torch.ones(2, 1)}
    with pytest.raises(
        CheckpointError, match=r"lm_head\.weight_scale_inv of shape \(2, 1\) does not have one row for"
    ):
        trim(full_draft(**head), [4], tmp_path / "out", head=None)
    other = {"lm_head__weight__absmax": torch.ones(4), "lm_head__codebook": torch.ones(16)}
    with pytest.raises(CheckpointError, match=r"stored as lm_head\.codebook, lm_head\.weight\.absmax, whose"):
        trim(full_draft(**other), [4], tmp_path / "out", head=None)
    assert not (tmp_path / "out").exists()


def test_tensors_of_any_name_and_type_are_kept(full_draft, tmp_path):
    odd = {
        "mask_hidden": torch.randn(1, 3, generator=torch.Generator().manual_seed(0)),
        "layers__0__self_attn__k_scale": torch.tensor(2.0),
        "counts": torch.arange(5, dtype=torch.int16),
        "empty": torch.zeros(0, 4),
        "fp8": CODES.view(torch.float8_e5m2),
    }
    out = load_file(
        trim(full_draft(lm_head__weight=HEAD, **odd), [4, 9], tmp_path / "out") / "model.safetensors"
    )
    out = {name.replace("midlayer.", "layers.0."): tensor for name, tensor in out.items()}
    for name, tensor in odd.items():
        found = out[name.replace("__", ".")]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


PEAK = """
import sys, threading, time
from pathlib import Path
import numpy as np
from bench.export.checkpoint import trim_eagle3
from bench.models.draft_config import Layout
from bench.vocab.draft_vocab import DraftVocab

def held():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

seen, before = [], held()
def watch():
    while True:
        seen.append(held()); time.sleep(0.0005)
threading.Thread(target=watch, daemon=True).start()
size = int(sys.argv[3])
vocab = DraftVocab(np.arange(0, size, 2), size)
trim_eagle3(Path(sys.argv[1]), vocab, None, Layout.SAFEAILAB, Path(sys.argv[2]), "v")
print(max(seen) - before)
"""


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_trimming_needs_less_memory_than_one_and_a_half_heads(tmp_path, name):
    size, width = 16384, 2048
    head = torch.zeros(size, width, dtype=torch.bfloat16)
    tensors = {"lm_head.weight": head, "embed_tokens.weight": head.clone()}
    if name.endswith("bin"):
        torch.save(tensors, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    config = {"vocab_size": size, "hidden_size": width, "draft_vocab_size": size}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(tmp_path / "out"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5 * head.nbytes
    assert load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].shape == (size // 2, width)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"d2t": torch.tensor([1.0, 1.0, 3.0])}, "flat list of integers"),
        ({"d2t": torch.tensor([1, 1, 3]).bfloat16()}, "flat list of integers"),
        ({"t2d": torch.tensor([0, 1, 1, 0, 0, 1]).bool()}, "t2d has 6 entries, and vocab_size is 97"),
        ({"t2d": torch.zeros(VOCAB_SIZE).bool()}, "name different tokens"),
        ({"lm_head.weight": HEAD[:2]}, "has 2 rows, but its vocabulary has 3 tokens"),
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
    with pytest.raises(CheckpointError, match=f"has 3 rows, but its vocabulary has {VOCAB_SIZE} tokens"):
        read_trimmed(trimmed, VOCAB_SIZE)


def test_ids_that_are_not_what_the_header_states_are_refused(trimmed):
    path = trimmed / "model.safetensors"
    save_file(load_file(path), path, metadata={"content_hash": "0"})
    with pytest.raises(CheckpointError, match="content_hash"):
        read_trimmed(trimmed, VOCAB_SIZE)
