"""The parts of a draft that is measured alone."""

import pytest
import torch

from bench.decoding.engine import PartKey
from bench.decoding.parts import draft_parts
from bench.models.decoder_lm import DecoderLM
from tests.models.test_decoder_lm import NO_FEATURES, VOCAB_SIZE, make_draft

SIZES = (9, VOCAB_SIZE)
CONTEXT = 12


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def draft(request) -> DecoderLM:
    return make_draft(request.param)


@pytest.fixture
def parts(draft):
    return draft_parts(draft, {size: draft.head_of_size(size) for size in SIZES}, CONTEXT, seed=0)


def test_there_is_a_layer_and_three_parts_of_every_size(parts):
    names = ("lm_head", "select", "draft_step")
    assert set(parts) == {PartKey("layer"), *(PartKey(n, vocab_size=k) for n in names for k in SIZES)}


def test_every_part_does_the_same_work_again_and_again(parts):
    first = {key: part() for key, part in parts.items()}
    for _ in range(3):
        for key, part in reversed(parts.items()):
            assert torch.equal(part(), first[key]), key


def test_a_whole_step_is_its_parts_one_after_the_other(parts):
    for size in SIZES:
        logits = parts[PartKey("lm_head", vocab_size=size)]()
        assert logits.shape == (1, 1, size)
        selected = parts[PartKey("select", vocab_size=size)]()
        assert selected.tolist() == logits.argmax(-1).tolist()
        assert torch.equal(parts[PartKey("draft_step", vocab_size=size)](), selected)


@torch.inference_mode()
def test_a_step_continues_the_context(draft, parts):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCAB_SIZE, (CONTEXT + 1,), generator=generator)
    expected = draft.fork().prefill(ids[:-1], ids[-1:], NO_FEATURES)
    torch.testing.assert_close(parts[PartKey("layer")](), expected, rtol=1e-4, atol=1e-4)
