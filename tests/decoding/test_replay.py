"""One replay must count what every decode counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.decoding import replay as replay_module
from bench.decoding.decoder import Decoder
from bench.decoding.replay import read_answer, replay
from bench.decoding.rounds import Timeline
from bench.models.draft import DraftHead
from bench.variant import Variant
from bench.vocab.draft_vocab import choose_vocab
from tests.conftest import VOCAB_SIZE, make_decoder_lm, make_draft, make_target

TARGET = make_target()
DRAFT = make_draft(TARGET)
DRAFTS = {"eagle3": DRAFT, "decoder_lm": make_decoder_lm()}
LONGEST = 4


def silent() -> Timeline:
    return Timeline(lambda: None)


def replayed(decoder, prompt, orders, draft=DRAFT):
    prefill = decoder.prefill(prompt)
    answer = decoder.plain(prefill, silent()).token_ids
    text = read_answer(TARGET, prefill, answer, LONGEST)
    return prefill, replay(draft, draft.full_head(), prefill.prompt_ids, text, orders, LONGEST)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(DRAFTS)),
    prompt=st.lists(st.integers(2, 96), min_size=2, max_size=12),
    seed=st.integers(0, 1000),
    max_new_tokens=st.integers(2, 20),
    size=st.integers(1, VOCAB_SIZE),
    draft_length=st.integers(1, LONGEST),
)
def test_accepted_counts_equal_those_of_a_decode(kind, prompt, seed, max_new_tokens, size, draft_length):
    orders = {name: np.random.default_rng(seed + i).permutation(VOCAB_SIZE) for i, name in enumerate("ab")}
    decoder, draft = Decoder(TARGET, max_new_tokens), DRAFTS[kind]
    prefill, found = replayed(decoder, prompt, orders, draft)
    for name, order in orders.items():
        head = draft.head(choose_vocab(order, [], size, VOCAB_SIZE))
        decoded = decoder.speculative(prefill, draft, head, draft_length, silent())
        assert found[name].num_tokens == len(decoded.token_ids)
        assert found[name].accepted_by_round(Variant(size, draft_length)) == decoded.accepted


def test_small_blocks_change_nothing(monkeypatch):
    decoder, orders = Decoder(TARGET, 30), {"a": np.random.default_rng(1).permutation(VOCAB_SIZE)}
    _, whole = replayed(decoder, [5, 9, 33], orders)
    monkeypatch.setattr(replay_module, "CHAINS", 4)
    monkeypatch.setattr(replay_module, "LOGIT_ROWS", 3)
    _, parts = replayed(decoder, [5, 9, 33], orders)
    assert (whole["a"].low == parts["a"].low).all() and (whole["a"].high == parts["a"].high).all()
    assert (whole["a"].low[:, 0] < whole["a"].high[:, 0]).any()


def test_logits_are_made_a_few_rows_at_a_time(monkeypatch):
    """However long the answer is: a row takes V numbers, and its rivals as many at most."""
    seen, logits_of = [], DraftHead.logits

    def logits(head, hidden):
        seen.append(len(hidden))
        return logits_of(head, hidden)

    monkeypatch.setattr(DraftHead, "logits", logits)
    monkeypatch.setattr(replay_module, "LOGIT_ROWS", 5)
    prefill = Decoder(TARGET, 2).prefill([5, 9, 33])
    text = read_answer(TARGET, prefill, [7] * 40, LONGEST)
    replay(DRAFT, DRAFT.full_head(), prefill.prompt_ids, text, {"a": np.arange(VOCAB_SIZE)}, LONGEST)
    assert max(seen) == 5 and sum(seen) >= 39


def test_there_is_one_empty_interval():
    _, found = replayed(
        Decoder(TARGET, 30), [5, 9, 33], {"a": np.random.default_rng(1).permutation(VOCAB_SIZE)}
    )
    low, high = found["a"].low, found["a"].high
    is_empty = low >= high
    assert 0 < is_empty.sum() < is_empty.size
    assert set(low[is_empty]) == {VOCAB_SIZE + 1} and set(high[is_empty]) == {0}


def test_bounds_by_hand_with_ties():
    head = DraftHead(torch.zeros(5, 2), None)
    # Tokens enter as 3, 1, 4, 0, 2, so their ranks are 4, 2, 5, 1, 3.
    ranks = replay_module._Ranks(head, {"a": np.array([3, 1, 4, 0, 2])}, torch.tensor([2, 2, 2, 2]))
    logits = torch.tensor([
        [0.0, 0.0, 9.0, 0.0, 0.0],  # nothing beats token 2: right from its rank on
        [0.0, 8.0, 7.0, 0.0, 8.0],  # beaten by 1 and 4, of which rank 2 comes first
        [7.0, 0.0, 7.0, 0.0, 0.0],  # token 0 ties and has the lower id, so it wins
        [0.0, 0.0, 7.0, 7.0, 0.0],  # token 3 ties and has the higher id, so it loses
    ])  # fmt: skip
    low, high = ranks.bounds(logits, torch.arange(4))
    assert low.tolist() == [[5, 5, 5, 5]]
    assert high.tolist() == [[6, 2, 4, 6]]


def test_equal_logits_go_to_the_lowest_id_in_decode_and_replay():
    # Rows 40.. repeat rows 0..: every token has a twin with exactly the same logit.
    weight = TARGET.head_weight.clone()
    weight[40:80] = weight[:40]
    twins = make_draft(TARGET, head=weight)
    order = np.random.default_rng(3).permutation(VOCAB_SIZE)
    decoder = Decoder(TARGET, 24)
    for prompt in ([7, 8], [60, 61, 62], [11, 90]):
        prefill, found = replayed(decoder, prompt, {"a": order}, twins)
        for size in (20, 60, VOCAB_SIZE):
            head = twins.head(choose_vocab(order, [], size, VOCAB_SIZE))
            decoded = decoder.speculative(prefill, twins, head, 3, silent())
            assert found["a"].accepted_by_round(Variant(size, 3)) == decoded.accepted


def test_a_draft_that_lacks_tokens_never_drafts_them():
    vocab = choose_vocab(np.arange(VOCAB_SIZE)[::-1].copy(), [], 50, VOCAB_SIZE)
    trimmed = make_draft(TARGET, head=TARGET.head_weight[47:], vocab=vocab)
    order = np.random.default_rng(2).permutation(vocab.target_ids)
    decoder = Decoder(TARGET, 20)
    prefill, found = replayed(decoder, [3, 4, 5], {"a": order}, trimmed)
    for size in (5, 30, 50):
        head = trimmed.head(choose_vocab(order, [], size, VOCAB_SIZE))
        decoded = decoder.speculative(prefill, trimmed, head, 2, silent())
        assert found["a"].accepted_by_round(Variant(size, 2)) == decoded.accepted


@pytest.mark.parametrize("longest", [1, 3])
def test_text_goes_on_past_the_end_as_the_target_would(longest):
    decoder = Decoder(TARGET, 6)
    prefill = decoder.prefill([5, 9, 33])
    answer = decoder.plain(prefill, silent()).token_ids
    text = read_answer(TARGET, prefill, answer, longest)
    further = Decoder(TARGET, 6 + longest - 1)
    expected = further.plain(further.prefill([5, 9, 33]), silent()).token_ids
    assert text.token_ids.tolist() == expected
    assert text.num_tokens == 6
