"""The tiny pair on the pretend device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.models.draft_config import default_feature_layers
from bench.models.eagle import EagleDraft
from bench.models.target import Target
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE, make_body, make_llama
from tests.pretend.cuda import CUDA, pretend_cuda


@pytest.fixture
def gpu():
    with pretend_cuda() as world:
        yield world


def pretend_pair(dtype: torch.dtype = torch.float32, eos: int = 1) -> tuple[Target, EagleDraft]:
    """Not packed for a CPU, as on a GPU."""
    model = make_llama(eos=eos).to(dtype).to(CUDA)
    target = Target(model, SimpleNamespace(eos_token_id=eos, all_special_ids=[0, 1]))
    target.keep_features(default_feature_layers(8))
    body = make_body().eval().requires_grad_(False).to(dtype).to(CUDA)
    vocab = DraftVocab(np.arange(VOCAB_SIZE), VOCAB_SIZE)
    draft = EagleDraft(vocab, target.head_weight, body, target.embedding_weight, target.feature_layers)
    return target, draft
