"""Rounds in memory that stays give the answers of the plain loops."""

import numpy as np
import pytest
import torch

from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline
from bench.decoding.rules import GreedyRule, SampledRule, Sampler
from bench.decoding.static import StaticDecoder, needed_room
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE, make_draft, make_target

TARGET = make_target()
DRAFT = make_draft(TARGET)
MAX_NEW = 30

# The second ends its answer early; the third has nothing before its last token.
PROMPTS = [[5, 9, 33, 7, 60, 2], [8, 8, 8], [11]]


def silent():
    return Timeline(lambda: None)


def rule_of(temperature):
    return SampledRule(Sampler(temperature, top_p=0.9), torch.device("cpu")) if temperature else GreedyRule()


def static_decoder(rule, room=256):
    width = TARGET.config.hidden_size * len(TARGET.feature_layers)
    return StaticDecoder(TARGET, DRAFT, rule, MAX_NEW, room, width, capture=lambda call: call)


def head_of(size):
    return DRAFT.head(DraftVocab(np.arange(VOCAB_SIZE - size, VOCAB_SIZE), VOCAB_SIZE))


def both(rule, eager, static, prefill, head, gamma):
    """The answer of the loops and that of static rounds, from the same random numbers."""
    static.load(head, gamma)
    rule.reseed(2)
    if head is None:
        expected = eager.plain(prefill, silent())
    else:
        expected = eager.speculative(prefill, DRAFT, head, gamma, silent())
    rule.reseed(2)
    return expected, static.decode(prefill, head, gamma, silent())


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_answers_and_accepted_counts_are_those_of_the_loops(temperature):
    rule = rule_of(temperature)
    eager, static = Decoder(TARGET, MAX_NEW, rule), static_decoder(rule)
    num_accepted = 0
    for prompt in PROMPTS:
        rule.reseed(1)
        prefill = eager.prefill(prompt)
        for head, gamma in ((None, 0), (head_of(VOCAB_SIZE), 1), (head_of(40), 3), (head_of(VOCAB_SIZE), 4)):
            expected, found = both(rule, eager, static, prefill, head, gamma)
            assert found == expected, (prompt, gamma)
            num_accepted += sum(found.accepted)
    assert num_accepted


def test_heads_of_one_size_are_told_apart_and_forgotten_one_by_one():
    static, captured = static_decoder(GreedyRule()), []
    static._capture = lambda call: captured.append(call) or call
    last, first = head_of(40), DRAFT.head(DraftVocab(np.arange(40), VOCAB_SIZE))
    for head in (last, first, last):
        static.load(head, 2)
    # A chain each, and the verification, which is the same.
    assert len(captured) == 3
    static.forget([last])
    static.load(first, 2)
    assert len(captured) == 3
    static.load(last, 2)
    assert len(captured) == 4
    prefill = Decoder(TARGET, MAX_NEW).prefill(PROMPTS[0])
    expected = Decoder(TARGET, MAX_NEW).speculative(prefill, DRAFT, first, 2, silent())
    assert static.decode(prefill, first, 2, silent()) == expected


def test_a_probe_stops_after_its_rounds_and_laps_are_those_of_calls():
    static, head = static_decoder(GreedyRule()), head_of(40)
    static.load(head, 2)
    prefill = Decoder(TARGET, MAX_NEW).prefill(PROMPTS[0])
    ticks = iter(range(1000))
    timeline = Timeline(lambda: next(ticks))
    found = static.decode(prefill, head, 2, timeline, max_rounds=3)
    assert len(found.accepted) == 3
    laps = timeline.laps_ms(lambda start, end: end - start)
    assert {name: len(samples) for name, samples in laps.items()} == {
        "draft_prefill": 1,
        "draft": 3,
        "verify": 3,
        "other": 3,
    }


def test_room_is_for_the_longest_answer_and_what_is_written_beyond_it():
    assert needed_room(100, 64, 3) == 256
    assert needed_room(200, 64, 3) == 512
    # The last position that can be written: of a round that begins one token before the end.
    assert needed_room(186, 64, 3) == 512 and needed_room(185, 64, 3) == 256


def test_texts_up_to_the_last_position_of_the_room(monkeypatch):
    """What is drafted and padded beyond the end of the answer is still inside."""
    prompt = list(range(2, 2 + 60))
    rule = GreedyRule()
    eager = Decoder(TARGET, MAX_NEW, rule)
    monkeypatch.setattr(eager, "_stop", frozenset())
    prefill = eager.prefill(prompt)
    head = head_of(VOCAB_SIZE)
    static = static_decoder(rule, room=len(prompt) + MAX_NEW + 2 * 4 + 1)
    monkeypatch.setattr(static, "_stop", frozenset())
    static.load(head, 4)
    expected = eager.speculative(prefill, DRAFT, head, 4, silent())
    assert len(expected.token_ids) == MAX_NEW
    assert static.decode(prefill, head, 4, silent()) == expected
