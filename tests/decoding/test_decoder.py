import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cost.shape import DraftShape
from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline
from bench.models.decoder_lm import DecoderLM
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE, make_decoder_lm, make_draft, make_llama, make_target

TARGET = make_target()
DRAFT = make_draft(TARGET)
DRAFTS = {"eagle3": DRAFT, "decoder_lm": make_decoder_lm()}


def silent() -> Timeline:
    return Timeline(lambda: None)


def head_of(size: int):
    return DRAFT.head(DraftVocab(np.arange(size), VOCAB_SIZE))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(DRAFTS)),
    prompt=st.lists(st.integers(2, 96), min_size=2, max_size=12),
    size=st.integers(2, VOCAB_SIZE),
    draft_length=st.integers(1, 6),
    max_new_tokens=st.integers(2, 30),
)
def test_speculation_is_lossless(kind, prompt, size, draft_length, max_new_tokens):
    decoder = Decoder(TARGET, max_new_tokens)
    prefill = decoder.prefill(prompt)
    plain = decoder.plain(prefill, silent()).token_ids
    draft = DRAFTS[kind]
    fast = decoder.speculative(prefill, draft, draft.head_of_size(size), draft_length, silent())
    assert fast.token_ids == plain
    assert all(0 <= count <= draft_length for count in fast.accepted)


def test_plain_equals_generate():
    prompt = [5, 9, 33]
    ids = torch.tensor([prompt])
    expected = TARGET.model.generate(ids, max_new_tokens=20, do_sample=False)[0, 3:].tolist()
    decoder = Decoder(TARGET, 20)
    assert decoder.plain(decoder.prefill(prompt), silent()).token_ids == expected


def test_a_target_that_drafts_for_itself_is_always_right():
    draft = DecoderLM(make_llama(), DraftShape.from_config(TARGET.config.to_dict(), "tiny"))
    decoder = Decoder(TARGET, 13)
    decoded = decoder.speculative(decoder.prefill([5, 9, 33, 7]), draft, draft.full_head(), 3, silent())
    assert len(decoded.token_ids) == 13 and decoded.accepted == [3, 3, 3]


class Oracle:
    """A draft that knows the answer, and its own head."""

    size = VOCAB_SIZE

    def __init__(self, answer: list[int], num_prompt: int, wrong_at: frozenset[int] = frozenset()):
        self.answer, self.base, self.wrong_at = answer, num_prompt, wrong_at
        self.length = 0

    def rewind(self, length):
        self.length = length

    def prefill(self, prompt_ids, next_id, features):
        self.length = 0
        return self.extend(prompt_ids, features)

    def extend(self, next_ids, features):
        assert features.shape[1] == len(next_ids)
        self.length += len(next_ids)
        return torch.zeros(1, 1, 1)

    def step(self, next_id, hidden):
        self.length += 1
        return hidden

    def normed(self, hidden):
        return hidden

    def logits(self, hidden):
        return hidden

    def select(self, logits):
        place = self.length - self.base + 1
        known = place < len(self.answer) and place not in self.wrong_at
        return torch.tensor([self.answer[place] if known else 0])


def test_accepted_counts_and_rollback_with_a_draft_that_knows_the_answer():
    prompt = [5, 9, 33, 7]
    decoder = Decoder(TARGET, 13)
    answer = decoder.plain(decoder.prefill(prompt), silent()).token_ids
    assert len(answer) == 13 and 0 not in answer
    right = Oracle(answer, len(prompt))
    decoded = decoder.speculative(decoder.prefill(prompt), right, right, 3, silent())
    assert decoded.token_ids == answer
    assert decoded.accepted == [3, 3, 3]
    # The second drafted token of the first round is wrong: one accepted, then all again.
    wrong = Oracle(answer, len(prompt), frozenset({2}))
    decoded = decoder.speculative(decoder.prefill(prompt), wrong, wrong, 3, silent())
    assert decoded.token_ids == answer
    assert decoded.accepted == [1, 3, 3, 2]


def test_laps_cover_every_round():
    ticks = iter(range(10_000))
    timeline = Timeline(lambda: next(ticks))
    decoder = Decoder(TARGET, 10)
    decoded = decoder.speculative(decoder.prefill([5, 9, 33]), DRAFT, head_of(VOCAB_SIZE), 3, timeline)
    laps = timeline.laps_ms(lambda start, end: float(end - start))
    rounds = len(decoded.accepted)
    assert len(laps["draft_prefill"]) == 1
    assert len(laps["verify"]) == len(laps["other"]) == rounds
    assert len(laps["lm_head"]) == len(laps["select"]) == 3 * rounds
    assert len(laps["layer"]) == 2 * rounds
    assert len(laps["extend"]) == rounds - 1
    assert sum(map(sum, laps.values())) == timeline.total_ms(lambda start, end: float(end - start))


@pytest.mark.parametrize("draft_length", [0, 3])
def test_an_answer_that_ends_at_once_is_one_token(draft_length):
    prompt = [5, 9, 33]
    first = int(Decoder(TARGET, 2).prefill(prompt).first_id)
    target = make_target(eos=first)
    decoder = Decoder(target, 8)
    if draft_length:
        decoded = decoder.speculative(decoder.prefill(prompt), DRAFT, head_of(9), draft_length, silent())
    else:
        decoded = decoder.plain(decoder.prefill(prompt), silent())
    assert decoded.token_ids == [first]
    assert decoded.accepted == []
