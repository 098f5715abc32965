"""On the real pair, in float32, the replay counts what every trimmed decode counts, round by round."""

import pytest

from bench.config import DomainSource, MeasureConfig, PairConfig, Source, VocabConfig
from bench.decoding.decoder import Decoder
from bench.decoding.replay import read_answer, replay
from bench.decoding.rounds import Timeline
from bench.device import CpuDevice
from bench.runs.pair import load_pair
from bench.runs.workloads import count_answers, held_out_prompts, make_rankings
from bench.text import load_prompts
from bench.variant import Variant
from bench.vocab.draft_vocab import choose_vocab

pytestmark = pytest.mark.slow

DOMAINS = {"code": Source.human_eval, "function_calling": Source.bfcl, "writing": Source.writing_bench}
GRID = [(49152, 3), (16384, 6), (4096, 2), (2048, 3), (1024, 1), (1024, 5), (256, 4), (3, 2)]
LONGEST = 6

DRAFTS = ["smollm2-135m-eagle3", "smollm2-135m-mtp", "smollm2-135m-sibling"]


@pytest.fixture(scope="module", params=DRAFTS)
def pair(request):
    config = PairConfig("smollm2-135m", "smollm2-135m-instruct", request.param)
    return load_pair(config, CpuDevice(), "float32")


def silent() -> Timeline:
    return Timeline(lambda: None)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("domain", DOMAINS)
def test_replay_equals_decoding(pair, domain):
    measure = MeasureConfig(draft_lengths=[LONGEST], num_prompts=2, max_new_tokens=24)
    source = DomainSource(domain, DOMAINS[domain], max_prompt_tokens=256)
    vocab, prompts = VocabConfig(sizes=["full"]), load_prompts(source)
    counts = count_answers(pair, source, prompts, vocab)
    orders = {name: ranking.order for name, ranking in make_rankings(pair, {domain: counts}).items()}
    decoder, draft = Decoder(pair.target, measure.max_new_tokens), pair.draft
    accepted = 0
    for prompt in held_out_prompts(pair, source, prompts, vocab, measure.num_prompts):
        prefill = decoder.prefill(prompt.token_ids)
        answer = decoder.plain(prefill, silent()).token_ids
        text = read_answer(pair.target, prefill, answer, LONGEST)
        head = draft.head(draft.vocab)
        found = replay(draft, head, prefill.prompt_ids, text, orders, LONGEST)[domain]
        for size, draft_length in GRID:
            trimmed = draft.head(choose_vocab(orders[domain], [], size, pair.target.vocab_size))
            decoded = decoder.speculative(prefill, draft, trimmed, draft_length, silent())
            case = (prompt.prompt_id, size, draft_length)
            assert found.accepted_by_round(Variant(size, draft_length)) == decoded.accepted, case
            accepted += sum(decoded.accepted)
    assert accepted > 0
