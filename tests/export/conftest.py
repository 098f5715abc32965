"""A full draft as it ships, and ways to trim it."""

import numpy as np
import pytest
import torch

from bench.export.checkpoint import trim_eagle3
from bench.models.draft_config import Layout
from bench.models.eagle import save_body
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import HIDDEN, VOCAB_SIZE, make_body

HEAD = torch.randn(VOCAB_SIZE, HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()


def vocab_of(ids) -> DraftVocab:
    return DraftVocab(np.array(sorted(ids), dtype=np.int64), VOCAB_SIZE)


def trim(source, ids, out, layout=Layout.SAFEAILAB, head=HEAD):
    trim_eagle3(source, vocab_of(ids), head, layout, out, "target-name")
    return out


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A full draft that leaves its LM head to the target."""
    folder = tmp_path_factory.mktemp("source")
    save_body(make_body(), folder, {})
    return folder


@pytest.fixture
def trimmed(source, tmp_path):
    """A draft of the tokens 1, 2 and 5."""
    return trim(source, [1, 2, 5], tmp_path / "trimmed")
