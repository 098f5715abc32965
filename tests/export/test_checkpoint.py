"""Trimmed checkpoints: composition of slices, and loading as an engine would."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bench.errors import CheckpointError
from bench.export.checkpoint import read_trimmed, trim_eagle3, trim_lm_head
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.models.draft_config import Layout
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import HIDDEN, VOCAB_SIZE, make_target
from tests.export.conftest import HEAD, trim, vocab_of


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
    trimmed = load_draft(trim(source, ids, tmp_path / "out", head=head), Placement.beside(target))
    full = load_draft(source, Placement.beside(target))
    assert trimmed.vocab.target_ids.tolist() == ids
    assert torch.equal(trimmed.head_weight, full.head_weight[ids])
    hidden = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(2))
    restricted = (hidden @ full.head_weight.T)[:, ids].argmax(-1)
    assert torch.equal((hidden @ trimmed.head_weight.T).argmax(-1), restricted)


@settings(deadline=None, max_examples=15)
@given(st.sets(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=VOCAB_SIZE - 1))
def test_logits_scattered_as_vllm_does_are_the_full_heads(source, tmp_path_factory, ids):
    tensors = load_file(trim(source, ids, tmp_path_factory.mktemp("v") / "out") / "model.safetensors")
    hidden = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(3))
    places = torch.arange(len(ids)) + tensors["d2t"]
    scattered = torch.full((2, VOCAB_SIZE), -torch.inf)
    scattered[:, places] = hidden @ tensors["lm_head.weight"].float().T
    full, kept = hidden @ HEAD.float().T, sorted(ids)
    assert torch.allclose(scattered[:, kept], full[:, kept], atol=1e-5)
    assert int(torch.isinf(scattered).sum()) == 2 * (VOCAB_SIZE - len(ids))
    # SGLang names the same tokens `hot_token_id`, and takes them from the same offsets.
    assert places.tolist() == kept and tensors["lm_head.weight"].dtype == HEAD.dtype


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


def test_tokens_that_a_trimmed_draft_lacks_are_counted_and_named(source, tmp_path):
    trim(source, [1, 2, 3], tmp_path / "three")
    with pytest.raises(CheckpointError, match=r"lacks 2 of the 3 requested tokens, such as 7, 9"):
        trim(tmp_path / "three", [1, 7, 9], tmp_path / "out", head=None)


def test_a_draft_that_leaves_its_head_to_the_target_needs_it(source, tmp_path):
    with pytest.raises(CheckpointError, match="has no LM head, and the head of the target"):
        trim(source, [1], tmp_path / "out", head=None)


def test_the_output_head_of_a_decoder_lm(tmp_path):
    folder, out = tmp_path / "lm", tmp_path / "out"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": HEAD}, folder / "model.safetensors")
    trim_lm_head(folder, vocab_of([4, 50]), out)
    vocab, head = read_trimmed(out, VOCAB_SIZE)
    assert vocab.target_ids.tolist() == [4, 50] and torch.equal(head, HEAD[[4, 50]])
    with pytest.raises(CheckpointError, match=f"has {VOCAB_SIZE} rows, none for id 150 of the vocabulary"):
        trim_lm_head(folder, DraftVocab(np.array([4, 150]), 200), out)


@pytest.mark.parametrize("size", [VOCAB_SIZE - 1, VOCAB_SIZE + 31])
def test_a_target_that_is_padded_to_another_size_is_no_other_target(source, tmp_path, size):
    vocab = DraftVocab(np.array([4, 50]), size)
    for layout in Layout:
        out = tmp_path / layout.value
        trim_eagle3(source, vocab, HEAD, layout, out, "v")
        tensors = load_file(out / "model.safetensors")
        assert torch.equal(tensors["lm_head.weight"], HEAD[[4, 50]])
        assert tensors["t2d"].shape == (VOCAB_SIZE,) and tensors["t2d"].nonzero().flatten().tolist() == [
            4,
            50,
        ]
    folder = tmp_path / "lm"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": HEAD}, folder / "model.safetensors")
    trim_lm_head(folder, vocab, tmp_path / "head")
    assert torch.equal(load_file(tmp_path / "head" / "lm_head.safetensors")["lm_head.weight"], HEAD[[4, 50]])


def test_an_embedding_is_written_where_it_is_given(source, tmp_path):
    vocab, embedding = vocab_of([4, 9]), HEAD + 1
    for layout in Layout:
        out = tmp_path / layout.value
        trim_eagle3(source, vocab, HEAD, layout, out, "v", target_embedding=embedding)
        assert torch.equal(load_file(out / "model.safetensors")["embed_tokens.weight"], embedding)
    assert load_draft(tmp_path / "safeailab", Placement.beside(make_target())).vocab.target_ids.tolist() == [
        4,
        9,
    ]
    kept = load_file(trim(tmp_path / "safeailab", [4], tmp_path / "kept", head=None) / "model.safetensors")
    assert torch.equal(kept["embed_tokens.weight"], embedding)
    with pytest.raises(CheckpointError, match="the input embedding has 5 rows"):
        trim_eagle3(source, vocab, HEAD, Layout.SAFEAILAB, tmp_path / "x", "v", target_embedding=HEAD[:5])


def test_a_head_of_another_width_is_refused(source, tmp_path):
    with pytest.raises(CheckpointError, match=f"are 3 wide, the draft's hidden size is {HIDDEN}"):
        trim(source, [4], tmp_path / "out", head=HEAD[:, :3])


def test_a_trimmed_draft_of_another_target_is_refused(trimmed, tmp_path):
    with pytest.raises(CheckpointError, match=f"outside the target's vocabulary of {VOCAB_SIZE} tokens"):
        other = DraftVocab(np.array([1, 150]), 200)
        trim_eagle3(trimmed, other, None, Layout.SAFEAILAB, tmp_path / "out", "v")


def test_a_pickled_checkpoint_of_shared_and_turned_tensors_is_written(source, tmp_path):
    folder, tensors = tmp_path / "pickled", load_file(source / "model.safetensors")
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    turned = tensors["fc.weight"].T.contiguous().T
    tied = {"embed_tokens.weight": HEAD, "lm_head.weight": HEAD, "rows": HEAD[:3], "fc.weight": turned}
    torch.save({**tensors, **tied}, folder / "pytorch_model.bin")
    out = load_file(trim(folder, [4, 9], tmp_path / "out", head=None) / "model.safetensors")
    assert torch.equal(out["lm_head.weight"], HEAD[[4, 9]])
    assert torch.equal(out["embed_tokens.weight"], HEAD) and torch.equal(out["rows"], HEAD[:3])
    assert torch.equal(out["fc.weight"], tensors["fc.weight"])
