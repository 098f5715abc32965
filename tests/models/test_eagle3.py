import numpy as np
import torch

from bench.models.draft import DraftHead
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import HIDDEN, VOCAB_SIZE


@torch.inference_mode()
def test_extend_in_one_go_equals_extend_in_pieces(draft):
    ids = torch.randint(2, 90, (9,))
    features = torch.randn(1, 9, 3 * HIDDEN)
    whole = draft.extend(ids, features)
    draft.reset()
    draft.extend(ids[:4], features[:, :4])
    draft.extend(ids[4:5], features[:, 4:5])
    torch.testing.assert_close(draft.extend(ids[5:], features[:, 5:]), whole)


@torch.inference_mode()
def test_a_rewound_chain_leaves_no_trace(draft):
    ids = torch.randint(2, 90, (6,))
    features = torch.randn(1, 6, 3 * HIDDEN)
    draft.extend(ids[:4], features[:, :4])
    expected = draft.extend(ids[4:], features[:, 4:])
    draft.reset()
    hidden = draft.extend(ids[:4], features[:, :4])
    for token in (3, 5, 7):
        hidden = draft.step(torch.tensor([token]), hidden)
    assert draft.length == 7
    draft.rewind(4)
    torch.testing.assert_close(draft.extend(ids[4:], features[:, 4:]), expected)


@torch.inference_mode()
def test_a_trimmed_head_is_the_full_head_restricted(draft):
    ids = np.array([1, 4, 40, 96])
    head, full = draft.head(DraftVocab(ids, VOCAB_SIZE)), draft.head(draft.vocab)
    hidden = torch.randn(5, HIDDEN)
    full_logits = full.logits(hidden)
    torch.testing.assert_close(head.logits(hidden), full_logits[:, ids])
    best = torch.from_numpy(ids)[full_logits[:, ids].argmax(-1)]
    assert torch.equal(head.select(head.logits(hidden)), best)


def test_among_equal_logits_the_lowest_target_id_wins_at_any_size():
    weight = torch.zeros(4, HIDDEN)
    trimmed = DraftHead(weight, torch.tensor([3, 8, 20, 90]))
    assert trimmed.select(torch.tensor([1.0, 7.0, 7.0, 2.0])) == 8
    assert DraftHead(weight, None).select(torch.tensor([1.0, 7.0, 7.0, 2.0])) == 1
