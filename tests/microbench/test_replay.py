"""What a replay costs against one evaluation of the draft with its whole LM head at the same places."""

import time
from statistics import median

import pytest
import torch

from bench.config import DomainSource, MeasureConfig, PairConfig, Source, VocabConfig
from bench.decoding.decoder import Decoder
from bench.decoding.replay import CHAINS, LOGIT_ROWS, read_answer, replay
from bench.decoding.rounds import Timeline
from bench.device import CpuDevice
from bench.runs.pair import load_pair
from bench.runs.workloads import count_answers, held_out_prompts, make_rankings
from bench.text import load_prompts

LONGEST = 6
MOST_RATIO = 1.3


@torch.inference_mode()
def evaluate(draft, head, prompt_ids, text, longest):
    """The draft's own choice at every place and depth: a replay without what it is for."""
    token_ids = torch.cat([prompt_ids, text.token_ids])
    first, num_starts = len(prompt_ids) - 1, text.num_tokens - 1
    unroll, chosen = draft.unroll(token_ids, text.features[:, : len(token_ids) - 1]), []
    for begin in range(0, num_starts, CHAINS):
        end = min(begin + CHAINS, num_starts)
        for hidden in unroll.chains(first + begin, first + end, longest):
            for rows in hidden[0, : end - begin].split(LOGIT_ROWS):
                chosen.append(head.select(head.logits(draft.normed(rows))))
    return torch.cat(chosen)


@pytest.fixture(scope="module")
def case():
    pair = load_pair(
        PairConfig("smollm2-135m", "smollm2-135m-instruct", "smollm2-135m-eagle3"), CpuDevice(), "float32"
    )
    source, vocab = (
        DomainSource("code", Source.human_eval, max_prompt_tokens=256),
        VocabConfig(sizes=["full"]),
    )
    prompts = load_prompts(source)
    orders = make_rankings(pair, {"code": count_answers(pair, source, prompts, vocab)})
    measure = MeasureConfig(draft_lengths=[LONGEST], num_prompts=1, max_new_tokens=64)
    (prompt,) = held_out_prompts(pair, source, prompts, vocab, measure.num_prompts)
    decoder, silent = Decoder(pair.target, measure.max_new_tokens), Timeline(lambda: None)
    prefill = decoder.prefill(prompt.token_ids)
    text = read_answer(pair.target, prefill, decoder.plain(prefill, silent).token_ids, LONGEST)
    head = pair.draft.full_head()
    order = orders["code"].order
    return (pair.draft, head, prefill.prompt_ids, text), order


@pytest.mark.parametrize("num_orders", [1, 4])
def test_replay(benchmark, case, num_orders):
    benchmark.group = "replay"
    what, order = case
    orders = {str(index): order for index in range(num_orders)}
    found = benchmark.pedantic(replay, (*what, orders, LONGEST), rounds=7, warmup_rounds=1)
    assert len(found) == num_orders


def test_one_evaluation(benchmark, case):
    benchmark.group = "replay"
    what, _ = case
    chosen = benchmark.pedantic(evaluate, (*what, LONGEST), rounds=7, warmup_rounds=1)
    assert len(chosen) == LONGEST * (what[3].num_tokens - 1)


def test_replay_costs_about_one_evaluation(case):
    what, order = case
    orders, took_s = {str(index): order for index in range(4)}, {replay: [], evaluate: []}
    for _ in range(8):
        for work, arguments in ((replay, (*what, orders, LONGEST)), (evaluate, (*what, LONGEST))):
            start = time.perf_counter()
            work(*arguments)
            took_s[work].append(time.perf_counter() - start)
    ratio = median(took_s[replay][1:]) / median(took_s[evaluate][1:])
    print(f"\nreplay / one full-vocabulary evaluation: {ratio:.2f}")
    assert ratio <= MOST_RATIO
