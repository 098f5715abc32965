import torch

from bench.decoding.answers import Sampling, generate_batch
from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline

PROMPTS = [[5, 9, 33, 8], [7, 2], [60, 61, 62, 63, 64, 65], [11, 12, 13]]


def test_greedy_batch_equals_one_by_one(target):
    decoder = Decoder(target, 24)
    expected = [decoder.plain(decoder.prefill(p), Timeline(lambda: None)).token_ids for p in PROMPTS]
    assert generate_batch(target, PROMPTS, Sampling(24)) == expected


def test_each_temperature_gives_one_answer_and_the_greedy_one_is_greedy(target):
    answers = generate_batch(target, PROMPTS, Sampling(12, (0.0, 1.5), seed=1))
    assert len(answers) == 8
    assert answers[::2] == generate_batch(target, PROMPTS, Sampling(12))
    assert answers[1::2] != answers[::2]
    assert answers == generate_batch(target, PROMPTS, Sampling(12, (0.0, 1.5), seed=1))


def test_answers_end_at_the_end_token(target):
    for answer in generate_batch(target, PROMPTS, Sampling(60, (2.0,), seed=3)):
        assert 1 not in answer[:-1]
        assert len(answer) == 60 or answer[-1] == 1


def test_the_observer_sees_every_consumed_token(target):
    seen = {row: 0 for row in range(8)}
    passes = []

    def observe(rows, output):
        passes.append(output.hidden.shape[:2])
        if len(passes) > 1:
            for row in rows.tolist():
                seen[row] += 1

    answers = generate_batch(target, PROMPTS, Sampling(10, (0.0, 2.0)), observe)
    assert passes[0] == torch.Size([4, 6])
    for row, answer in enumerate(answers):
        assert seen[row] >= len(answer) - 1
