"""Trimmed checkpoints: composition of slices, both layouts, and loading as an engine would."""

import json
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bench.errors import CheckpointError, OutputError
from bench.export.atomic import replace_folder
from bench.export.checkpoint import (
    Layout,
    read_offsets,
    read_tensors,
    read_trimmed,
    trim_eagle3,
    trim_lm_head,
)
from bench.export.weight_files import save_pickled, save_tensors
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


def test_offsets_of_a_trimmed_draft_are_found_in_any_file(source, tmp_path):
    assert read_offsets(source) is None and read_offsets(tmp_path) is None
    trimmed = trim(source, [3, 8, 90], tmp_path / "out")
    assert read_offsets(trimmed).tolist() == [3, 7, 88]
    (tmp_path / "pickled").mkdir()
    torch.save(load_file(trimmed / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    assert read_offsets(tmp_path / "pickled").tolist() == [3, 7, 88]


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


@pytest.fixture
def trimmed(source, tmp_path):
    """A draft of the tokens 1, 2 and 5."""
    return trim(source, [1, 2, 5], tmp_path / "trimmed")


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


def test_a_trimmed_draft_of_another_target_is_refused(trimmed, tmp_path):
    with pytest.raises(CheckpointError, match=f"a target of {VOCAB_SIZE} tokens, .* one of 200"):
        other = DraftVocab(np.array([1, 2]), 200)
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


def test_a_disk_that_is_full_is_an_error_of_one_line(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with (
            pytest.raises(OutputError, match="cannot write") as first,
            replace_folder(tmp_path / "a", "m") as out,
        ):
            save_tensors({"a": torch.zeros(9999)}, out / "a.safetensors", {})
        with (
            pytest.raises(OutputError, match="cannot write") as second,
            replace_folder(tmp_path / "b", "m") as out,
        ):
            save_pickled(list(range(9999)), out / "b.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, was)
    assert "\n" not in f"{first.value}{second.value}"
    assert not list(tmp_path.iterdir())
