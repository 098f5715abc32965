"""Trimmed checkpoints: composition of slices, both layouts, and loading as an engine would."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bench.errors import CheckpointError
from bench.export.checkpoint import Layout, read_tensors, read_trimmed, trim_eagle3, trim_lm_head
from bench.models.checkpoint import load_draft, save_body
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import HIDDEN, VOCAB_SIZE, make_body, make_target

HEAD = torch.randn(VOCAB_SIZE, HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()


def vocab_of(ids) -> DraftVocab:
    return DraftVocab(np.array(sorted(ids), dtype=np.int64), VOCAB_SIZE)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A full draft that leaves its LM head to the target."""
    folder = tmp_path_factory.mktemp("source")
    save_body(make_body(), folder, {})
    return folder


def trim(source, ids, out, layout=Layout.SAFEAILAB, head=HEAD):
    trim_eagle3(source, vocab_of(ids), head, layout, out, "target-name")
    return out


def test_head_maps_and_size_of_a_trimmed_draft(source, tmp_path):
    out = trim(source, [3, 8, 90], tmp_path / "out")
    tensors = load_file(out / "model.safetensors")
    assert torch.equal(tensors["lm_head.weight"], HEAD[[3, 8, 90]])
    assert (torch.arange(3) + tensors["d2t"]).tolist() == [3, 8, 90]
    assert tensors["t2d"].nonzero().flatten().tolist() == [3, 8, 90]
    assert json.loads((out / "config.json").read_text())["draft_vocab_size"] == 3
    full, trimmed = (
        json.loads((source / "config.json").read_text()),
        json.loads((out / "config.json").read_text()),
    )
    assert {**full, "draft_vocab_size": 3} == trimmed
    for name, tensor in load_file(source / "model.safetensors").items():
        assert torch.equal(tensors[name], tensor)


def test_a_trimmed_draft_runs_as_the_full_one_restricted_to_its_tokens(source, tmp_path):
    target, ids = make_target(), [0, 1, 5, 40, 96]
    head = target.head_weight.detach().clone()
    trimmed = load_draft(trim(source, ids, tmp_path / "out", head=head), target)
    full = load_draft(source, target)
    assert trimmed.vocab.target_ids.tolist() == ids
    assert torch.equal(trimmed.head_weight, full.head_weight[ids])
    hidden = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(2))
    restricted = (hidden @ full.head_weight.T)[:, ids].argmax(-1)
    assert torch.equal((hidden @ trimmed.head_weight.T).argmax(-1), restricted)


def test_a_full_vocabulary_has_no_maps(source, tmp_path):
    tensors = load_file(trim(source, range(VOCAB_SIZE), tmp_path / "out") / "model.safetensors")
    assert "d2t" not in tensors and "t2d" not in tensors
    assert torch.equal(tensors["lm_head.weight"], HEAD)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_slicing_twice_equals_slicing_once(source, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("slices")
    large = data.draw(st.sets(st.integers(0, VOCAB_SIZE - 1), min_size=2))
    small = data.draw(st.sets(st.sampled_from(sorted(large)), min_size=1))
    layouts = data.draw(st.tuples(*[st.sampled_from(list(Layout))] * 2))
    trim(source, large, folder / "large", layouts[0])
    trim(folder / "large", small, folder / "twice", layouts[1], head=None)
    trim(source, small, folder / "once", layouts[1])
    twice, once = (load_file(folder / name / "model.safetensors") for name in ("twice", "once"))
    assert twice.keys() == once.keys()
    assert all(torch.equal(twice[name], once[name]) for name in once)
    vocab, head = read_trimmed(folder / "twice", VOCAB_SIZE)
    assert set(vocab.target_ids.tolist()) == small and torch.equal(head, HEAD[vocab.target_ids])


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
    restored = load_draft(back, make_target())
    assert restored.vocab.target_ids.tolist() == [2]
    assert not restored.draft.body.config.norm_before_residual


def test_tokens_that_a_trimmed_draft_lacks_are_counted_and_named(source, tmp_path):
    trim(source, [1, 2, 3], tmp_path / "three")
    with pytest.raises(CheckpointError, match=r"lacks 2 of the 3 tokens asked for, such as 7, 9"):
        trim(tmp_path / "three", [1, 7, 9], tmp_path / "out", head=None)


def test_a_draft_that_leaves_its_head_to_the_target_needs_it(source, tmp_path):
    with pytest.raises(CheckpointError, match="leaves its LM head to the target"):
        trim(source, [1], tmp_path / "out", head=None)


@pytest.mark.parametrize(
    ("d2t", "reason"), [([0, -1], "strictly increasing"), ([0, 200], "outside the target's vocabulary")]
)
def test_a_checkpoint_with_a_broken_map_is_named(source, tmp_path, d2t, reason):
    tensors = load_file(trim(source, [1, 2], tmp_path / "out") / "model.safetensors")
    tensors["d2t"] = torch.tensor(d2t)
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"out: d2t is not a vocabulary map: .*{reason}"):
        read_trimmed(tmp_path / "out", VOCAB_SIZE)


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


def test_the_output_head_of_a_decoder_lm(tmp_path):
    folder, out = tmp_path / "lm", tmp_path / "out"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": HEAD}, folder / "model.safetensors")
    trim_lm_head(folder, vocab_of([4, 50]), out)
    vocab, head = read_trimmed(out, VOCAB_SIZE)
    assert vocab.target_ids.tolist() == [4, 50] and torch.equal(head, HEAD[[4, 50]])
    with pytest.raises(CheckpointError, match=f"has {VOCAB_SIZE} rows, the vocabulary is one of 200"):
        trim_lm_head(folder, DraftVocab(np.array([4]), 200), out)
