"""What a replay of sampled answers expects is what sampled decoding accepts, on average over texts."""

import numpy as np
import pytest
import torch

from bench.decoding.decoder import Decoder
from bench.decoding.replay import read_answer, replay_sampled
from bench.decoding.rounds import Timeline
from bench.decoding.rules import SampledRule, Sampler
from bench.vocab.draft_vocab import choose_vocab
from tests.conftest import VOCAB_SIZE, make_draft, make_target

TARGET = make_target()
DRAFT = make_draft(TARGET)
LONGEST, SIZES = 3, np.array([1, 10, 50, VOCAB_SIZE])
ORDER = np.random.default_rng(0).permutation(VOCAB_SIZE)


def replayed(decoder, sampler, prefill):
    answer = decoder.plain(prefill, Timeline(lambda: None)).token_ids
    text = read_answer(TARGET, prefill, answer, LONGEST, decoder.rule, sampler.target_probs)
    head = DRAFT.head(DRAFT.vocab)
    orders = {"a": ORDER}
    found = replay_sampled(DRAFT, head, prefill.prompt_ids, text, orders, SIZES, sampler, LONGEST)
    return text, found["a"]


def decoder_at(sampler, max_new_tokens):
    rule = SampledRule(sampler, torch.device("cpu"))
    rule.reseed(0)
    return Decoder(TARGET, max_new_tokens, rule)


def test_ratios_by_the_draft_itself():
    sampler = Sampler(0.8, top_p=0.9)
    decoder = decoder_at(sampler, 10)
    prefill = decoder.prefill([5, 9, 33])
    text, found = replayed(decoder, sampler, prefill)
    assert text.target_probs.min() > 0
    for index, size in enumerate(SIZES[1:], start=1):
        vocab = choose_vocab(ORDER, [], int(size), VOCAB_SIZE)
        head = DRAFT.head(vocab)
        DRAFT.reset()
        with torch.inference_mode():
            next_ids = torch.cat([prefill.prompt_ids[1:], text.token_ids[:1]])
            hidden = DRAFT.extend(next_ids, prefill.features)
            for depth in range(LONGEST):
                probs = sampler.draft_probs(head.logits(DRAFT.normed(hidden))[0, 0])
                token = int(text.token_ids[depth + 1])
                own = (
                    float(probs[vocab.target_ids.tolist().index(token)]) if token in vocab.target_ids else 0.0
                )
                expected = min(1.0, own / float(text.target_probs[depth]))
                assert found.ratios[0, depth, index] == pytest.approx(expected, abs=1e-5)
                hidden = DRAFT.step(text.token_ids[depth + 1 : depth + 2], hidden)


def test_expected_acceptance_is_that_of_decoding():
    # A warm target, so that draft and target overlap enough for something to be accepted.
    sampler, runs = Sampler(3.0), 120
    decoder = decoder_at(sampler, 8)
    prefill = decoder.prefill([5, 9, 33])
    walks = [replayed(decoder, sampler, prefill)[1].walk(2) for _ in range(runs)]
    for index, size in enumerate(SIZES[1:], start=1):
        head = DRAFT.head(choose_vocab(ORDER, [], int(size), VOCAB_SIZE))
        accepted = [
            sum(decoder.speculative(prefill, DRAFT, head, 2, Timeline(lambda: None)).accepted)
            for _ in range(runs)
        ]
        expected = np.array([walk.accepted_at[:, index].sum() for walk in walks])
        # Both are means of independent texts; four standard errors of their difference.
        error = np.sqrt((np.var(accepted) + np.var(expected)) / runs)
        assert abs(np.mean(accepted) - expected.mean()) < 4 * error
        if size == VOCAB_SIZE:
            assert np.mean(accepted) > 0.5


def test_greedy_answers_are_refused():
    decoder = Decoder(TARGET, 4)
    prefill = decoder.prefill([5, 9])
    text = read_answer(TARGET, prefill, decoder.plain(prefill, Timeline(lambda: None)).token_ids, 2)
    with pytest.raises(ValueError, match="greedy"):
        replay_sampled(
            DRAFT,
            DRAFT.head(DRAFT.vocab),
            prefill.prompt_ids,
            text,
            {"a": ORDER},
            SIZES,
            Sampler(1.0),
            2,
        )
