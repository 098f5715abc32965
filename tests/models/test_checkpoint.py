import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.cost.config_json import DraftKind
from bench.errors import AssetError, CheckpointError
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.models.eagle import save_body
from bench.models.eagle_files import open_eagle
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import HIDDEN, VOCAB_SIZE, make_body


@pytest.fixture
def folder(tmp_path):
    save_body(make_body(3), tmp_path, {"format": "pt"})
    return tmp_path


def add_tensors(folder, **tensors):
    save_file({**load_file(folder / "model.safetensors"), **tensors}, folder / "model.safetensors")


def test_what_was_saved_loads_back_with_the_targets_embedding_and_head(folder, target):
    loaded = load_draft(folder, Placement.beside(target))
    assert loaded.vocab.is_full
    assert torch.equal(loaded.head_weight, target.head_weight)
    assert torch.equal(loaded.embedding, target.embedding_weight)
    expected = make_body(3).norm.weight
    assert torch.equal(loaded.body.norm.weight, expected)


def test_a_head_trimmed_before_is_trimmed_further(folder, target):
    first = np.array([0, 1, 5, 9, 60, 96])
    rows = torch.randn(6, HIDDEN)
    offsets = torch.from_numpy(DraftVocab(first, VOCAB_SIZE).d2t)
    add_tensors(folder, **{"lm_head.weight": rows, "d2t": offsets})
    loaded = load_draft(folder, Placement.beside(target))
    assert loaded.vocab.target_ids.tolist() == first.tolist()
    head = loaded.head(DraftVocab(np.array([1, 9, 96]), VOCAB_SIZE))
    hidden = torch.randn(1, HIDDEN)
    torch.testing.assert_close(head.logits(hidden), hidden @ rows[[1, 3, 5]].T)
    with pytest.raises(CheckpointError, match="lacks tokens"):
        loaded.head(DraftVocab(np.array([1, 7]), VOCAB_SIZE))


def test_broken_offsets_are_refused(folder, target):
    add_tensors(folder, **{"lm_head.weight": torch.randn(2, HIDDEN), "d2t": torch.tensor([5, 4])})
    with pytest.raises(CheckpointError, match="strictly increasing"):
        load_draft(folder, Placement.beside(target))


def test_a_head_of_another_size_than_its_vocabulary_is_refused(folder, target):
    add_tensors(folder, **{"lm_head.weight": torch.randn(3, HIDDEN)})
    with pytest.raises(CheckpointError, match="3 rows"):
        load_draft(folder, Placement.beside(target))


def test_a_draft_of_another_target_is_refused(folder, target):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "target_hidden_size": 50}))
    with pytest.raises(CheckpointError, match="for a target of hidden size 50; this target has 32"):
        load_draft(folder, Placement.beside(target))


def test_missing_tensors_and_files_are_named(folder, target):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("fc.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="fc.weight"):
        load_draft(folder, Placement.beside(target))
    (folder / "model.safetensors").unlink()
    with pytest.raises(AssetError, match="neither"):
        load_draft(folder, Placement.beside(target))


def test_a_config_without_a_shape_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    with pytest.raises(CheckpointError, match="needs intermediate_size, num_attention_heads, vocab_size"):
        open_eagle(tmp_path, DraftKind.EAGLE3)
