"""The training-time test must see what a real draft sees."""

import torch

from bench.training import trainer as objective_module
from bench.training.collect import CONTEXT_TOKENS
from bench.training.data import Sequence, make_batch
from bench.training.trainer import Objective
from tests.conftest import HIDDEN, VOCAB_SIZE, make_body, make_draft, make_target

NUM_CONTEXT, NUM_ANSWER = 7, 9


def sequence() -> Sequence:
    generator = torch.Generator().manual_seed(0)
    length = NUM_CONTEXT + NUM_ANSWER
    tokens = torch.randint(2, VOCAB_SIZE, (length,), generator=generator)
    states = torch.randn(length - 1, 4 * HIDDEN, generator=generator)
    return Sequence("code", tokens, states, NUM_CONTEXT)


def unrolled(monkeypatch, depths: int) -> list[torch.Tensor]:
    """Layer outputs of every depth, as the objective computes them."""
    outputs: list[torch.Tensor] = []

    class Spy(Objective):
        def _judge(self, truth, hidden, head, depth):
            outputs.append(hidden.detach())
            return super()._judge(truth, hidden, head, depth)

    target = make_target()
    spy = Spy(make_body(), target.embedding_weight, target.head_weight, depths)
    spy(make_batch([sequence()]), torch.arange(VOCAB_SIZE))
    return outputs


def test_every_depth_equals_a_real_chain(monkeypatch):
    target, item = make_target(), sequence()
    draft = make_draft(target)
    outputs = unrolled(monkeypatch, depths=3)
    tokens, features = item.tokens, item.states[None, :, : 3 * HIDDEN]
    with torch.inference_mode():
        # A chain may start at any answer place; its next tokens are those of the answer.
        for start in range(NUM_CONTEXT - 1, NUM_CONTEXT + NUM_ANSWER - 5):
            draft.reset()
            hidden = draft.extend(tokens[1 : start + 2], features[:, : start + 1])
            place = start - (NUM_CONTEXT - 1)
            torch.testing.assert_close(outputs[0][0, place], hidden[0, 0], atol=1e-5, rtol=1e-4)
            for depth in (1, 2):
                hidden = draft.step(tokens[start + depth + 1 : start + depth + 2], hidden)
                torch.testing.assert_close(outputs[depth][0, place], hidden[0, 0], atol=1e-5, rtol=1e-4)


def test_truth_is_the_targets_next_token_after_the_place(monkeypatch):
    target, item = make_target(), sequence()
    truth = objective_module._Truth(make_batch([item]), target.head_weight)
    assert truth.in_answer.sum() == NUM_ANSWER - 1
    assert truth.in_answer[0, : NUM_ANSWER - 1].all()
    # Place 0 predicts the second answer token, from the state that consumed the first.
    hidden = item.states[NUM_CONTEXT, 3 * HIDDEN :]
    assert truth.best[0] == (target.head_weight @ hidden).argmax()


def test_context_is_right_aligned_and_padding_masked():
    batch = make_batch([sequence()])
    assert batch.context_start.tolist() == [CONTEXT_TOKENS - NUM_CONTEXT]
    assert torch.equal(
        batch.tokens[0, CONTEXT_TOKENS : CONTEXT_TOKENS + NUM_ANSWER], sequence().tokens[NUM_CONTEXT:]
    )
