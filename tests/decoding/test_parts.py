"""Parts of rounds as calls: those of a pair, and those of a draft that has no target."""

from functools import partial

import numpy as np
import pytest
import torch

from bench.decoding.decoder import Decoder
from bench.decoding.engine import PartKey
from bench.decoding.parts import draft_parts, isolated_parts
from bench.decoding.rounds import Timeline
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE, make_draft, make_target
from tests.models import test_decoder_lm as lone

TARGET = make_target()
DRAFT = make_draft(TARGET)
HEADS = {size: DRAFT.head(DraftVocab(np.arange(size), VOCAB_SIZE)) for size in (9, VOCAB_SIZE)}
PROMPT = [5, 9, 33, 7]
LONE_SIZES, CONTEXT = (9, lone.VOCAB_SIZE), 12


@pytest.fixture
def prefill():
    return Decoder(TARGET, 20).prefill(PROMPT)


def parts_of(prefill, draft_lengths=(2, 4), room=None):
    return isolated_parts(TARGET, DRAFT, HEADS, draft_lengths, prefill, room)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def lone_draft(request):
    return lone.make_draft(request.param)


def lone_parts_of(draft):
    return draft_parts(draft, {size: draft.head_of_size(size) for size in LONE_SIZES}, CONTEXT, seed=0)


def test_there_is_a_part_for_everything_whose_cost_varies(prefill, lone_draft):
    assert set(parts_of(prefill)) == {
        PartKey("layer"),
        *(PartKey(part, vocab_size=k) for part in ("lm_head", "select") for k in (9, VOCAB_SIZE)),
        *(PartKey("extend", num_tokens=n) for n in (1, 2, 3, 4, 5)),
        *(PartKey("verify", num_tokens=n) for n in (1, 3, 5)),
    }
    names = ("lm_head", "select", "draft_step")
    assert set(lone_parts_of(lone_draft)) == {
        PartKey("layer"),
        *(PartKey(name, vocab_size=k) for name in names for k in LONE_SIZES),
    }


def test_parts_are_named_as_the_laps_of_a_real_round(prefill):
    timeline = Timeline(lambda: 0)
    Decoder(TARGET, 20).speculative(prefill, DRAFT, HEADS[9], 3, timeline)
    laps = set(timeline.laps_ms(lambda start, end: 0.0)) - {"draft_prefill", "other"}
    assert {key.part for key in parts_of(prefill)} == laps


def test_labels_tell_the_parts_apart(prefill):
    labels = [key.label for key in parts_of(prefill)]
    assert len(set(labels)) == len(labels)
    assert PartKey("lm_head", vocab_size=9).label == "lm_head k=9"
    assert PartKey("verify", num_tokens=3).label == "verify n=3"
    assert PartKey("layer").label == "layer"


def test_every_part_does_the_same_work_again_and_again(prefill, lone_draft):
    for parts in (parts_of(prefill), lone_parts_of(lone_draft)):
        first = {key: part() for key, part in parts.items()}
        for _ in range(3):
            for key, part in reversed(parts.items()):
                assert torch.equal(part(), first[key]), key


@torch.inference_mode()
def test_parts_compute_what_a_round_computes(prefill):
    parts = parts_of(prefill)
    draft, head = make_draft(TARGET), HEADS[9]
    hidden = draft.extend(torch.cat([prefill.prompt_ids[1:], prefill.first_id]), prefill.features)
    logits = head.logits(draft.normed(hidden))
    assert torch.equal(parts[PartKey("lm_head", vocab_size=9)](), logits)
    assert torch.equal(parts[PartKey("select", vocab_size=9)](), head.select(logits))
    assert torch.equal(parts[PartKey("layer")](), draft.step(prefill.first_id, hidden))
    draft.rewind(len(PROMPT))
    features = prefill.features[:, -1:].repeat(1, 3, 1)
    expected = draft.extend(prefill.first_id.repeat(3), features)
    assert torch.equal(parts[PartKey("extend", num_tokens=3)](), expected)
    output = TARGET.forward(prefill.first_id[None], prefill.restart())
    best = TARGET.lm_head(output.hidden)[0].argmax(-1)
    assert torch.equal(parts[PartKey("verify", num_tokens=1)](), best)


def test_verification_counts_the_drafted_tokens_that_hold(prefill):
    with torch.inference_mode():
        ids = prefill.first_id.repeat(5)
        best = TARGET.lm_head(TARGET.forward(ids[None], prefill.restart()).hidden)[0].argmax(-1)
    expected = 0
    while expected < 4 and int(best[expected]) == int(prefill.first_id):
        expected += 1
    assert int(parts_of(prefill)[PartKey("verify", num_tokens=5)]()) == expected


def test_decodes_in_between_neither_disturb_nor_are_disturbed(prefill):
    decoder = Decoder(TARGET, 20)

    def decode():
        return decoder.speculative(prefill, DRAFT, HEADS[9], 3, Timeline(lambda: None))

    undisturbed = decode()
    parts = parts_of(prefill)
    first = {key: part() for key, part in parts.items()}
    assert decode() == undisturbed
    assert all(torch.equal(part(), first[key]) for key, part in parts.items())


def test_a_cache_of_fixed_room_gives_the_same_verification(prefill):
    growing, fixed = parts_of(prefill), parts_of(prefill, room=64)
    for num_tokens in (1, 3, 5):
        key = PartKey("verify", num_tokens=num_tokens)
        for _ in range(2):
            assert torch.equal(fixed[key](), growing[key]())


def test_calls_keep_their_addresses_as_graphs_need(prefill):
    parts = parts_of(prefill)
    held = [cell.cell_contents for cell in parts[PartKey("verify", num_tokens=5)].__wrapped__.__closure__]
    cache = next(value.keywords["cache"] for value in held if isinstance(value, partial) and value.keywords)
    before = [layer.key_buffer.data_ptr() for layer in cache.layers]
    for part in parts.values():
        part()
    assert [layer.key_buffer.data_ptr() for layer in cache.layers] == before


def test_a_whole_step_of_a_draft_is_its_parts_one_after_the_other(lone_draft):
    parts = lone_parts_of(lone_draft)
    for size in LONE_SIZES:
        logits = parts[PartKey("lm_head", vocab_size=size)]()
        assert logits.shape == (1, 1, size)
        selected = parts[PartKey("select", vocab_size=size)]()
        assert selected.tolist() == logits.argmax(-1).tolist()
        assert torch.equal(parts[PartKey("draft_step", vocab_size=size)](), selected)


@torch.inference_mode()
def test_a_step_of_a_draft_continues_its_context(lone_draft):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(lone.VOCAB_SIZE, (CONTEXT + 1,), generator=generator)
    expected = lone_draft.fork().prefill(ids[:-1], ids[-1:], lone.NO_FEATURES)
    layer = lone_parts_of(lone_draft)[PartKey("layer")]()
    torch.testing.assert_close(layer, expected, rtol=1e-4, atol=1e-4)
