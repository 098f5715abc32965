"""A trimmed MTP module is a draft with the rows of the whole one; every other bit is unchanged."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.export.checkpoint import read_head, trim_mtp
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.models.mtp import has_own_head, load_mtp
from bench.models.target import load_target
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE
from tests.zoo.mtp_rows import ROWS

OWN = [row for row in ROWS if row.own_head][0]
SHARED = ROWS[1]


@pytest.mark.parametrize("row", [OWN, SHARED], ids=lambda row: row.name)
@torch.inference_mode()
def test_a_trimmed_module_is_a_draft_of_the_same_target(row, tmp_path):
    folder, out = tmp_path / "target", tmp_path / "draft"
    folder.mkdir()
    tensors = row.write(folder)
    assert has_own_head(folder) is row.own_head
    vocab = DraftVocab(np.array([0, 1, 5, 9, 40, 96]), VOCAB_SIZE)
    trim_mtp(folder, vocab, read_head(folder), out)
    written = load_file(out / "model.safetensors")
    for name, tensor in tensors.items():
        if not name.endswith("shared_head.head.weight"):
            assert torch.equal(written[name], tensor)
    target = load_target(folder, torch.device("cpu"), torch.float32)
    whole, trimmed = load_mtp(folder, Placement.beside(target)), load_draft(out, Placement.beside(target))
    assert trimmed.vocab.target_ids.tolist() == vocab.target_ids.tolist() and trimmed.kind is whole.kind
    assert torch.equal(trimmed.head_weight, whole.head_weight[vocab.target_ids])
    again = tmp_path / "again"
    smaller = DraftVocab(np.array([1, 9, 96]), VOCAB_SIZE)
    trim_mtp(out, smaller, None, again)
    assert torch.equal(
        load_draft(again, Placement.beside(target)).head_weight, whole.head_weight[smaller.target_ids]
    )
