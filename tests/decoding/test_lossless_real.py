"""On the real pair, in float32, speculation gives plain decoding's output token for token."""

from importlib.util import find_spec

import pytest
import torch

from bench.config import DomainSource, MeasureConfig, PairConfig, Source, VocabConfig
from bench.config.run import Execution
from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline
from bench.device import CpuDevice
from bench.runs.pair import load_pair, open_engine
from bench.runs.workloads import count_answers, held_out_prompts, make_rankings
from bench.text import load_prompts
from bench.text.conversation import user_prompt
from bench.vocab.draft_vocab import choose_vocab

pytestmark = pytest.mark.slow

DOMAINS = {"code": Source.human_eval, "function_calling": Source.bfcl, "writing": Source.writing_bench}
DRAFTS = ["smollm2-135m-eagle3", "smollm2-135m-mtp", "smollm2-135m-sibling"]
SIZES = [49152, 16384, 8192, 4096, 2048, 1024, 512]


@pytest.fixture(scope="module", params=DRAFTS)
def pair(request):
    """As a run executes it: compiled, but for the MTP module, whose layer has no compiled functions."""
    pair = load_pair(
        PairConfig("smollm2-135m", "smollm2-135m-instruct", request.param), CpuDevice(), "float32"
    )
    engine, _ = open_engine(pair, CpuDevice(), 20, seed=0)
    is_compiled = not request.param.endswith("mtp") and find_spec("numba") is not None
    assert engine.execution is (Execution.compiled if is_compiled else Execution.eager)
    return pair


@pytest.mark.timeout(900)
@pytest.mark.parametrize("domain", DOMAINS)
def test_output_equals_plain_greedy(pair, domain):
    measure = MeasureConfig(draft_lengths=[3], num_prompts=2, max_new_tokens=20)
    vocab = VocabConfig(sizes=["full"])
    source = DomainSource(domain, DOMAINS[domain], max_prompt_tokens=256)
    prompts = load_prompts(source)
    counts = count_answers(pair, source, prompts, vocab)
    order = make_rankings(pair, {domain: counts})[domain].order
    heads = {size: pair.draft.head(choose_vocab(order, [], size, len(order))) for size in SIZES}
    decoder = Decoder(pair.target, measure.max_new_tokens)
    accepted = 0
    for prompt in held_out_prompts(pair, source, prompts, vocab, measure.num_prompts):
        prefill = decoder.prefill(prompt.token_ids)
        plain = decoder.plain(prefill, Timeline(lambda: None)).token_ids
        for place, size in enumerate(SIZES):
            # Draft lengths 1 to 5 all occur, and 3 with every size.
            for draft_length in (1 + place % 2, 3, 4 + place % 2):
                decoded = decoder.speculative(
                    prefill,
                    pair.draft,
                    heads[size],
                    draft_length,
                    Timeline(lambda: None),
                )
                assert decoded.token_ids == plain, (prompt.prompt_id, size, draft_length)
                accepted += sum(decoded.accepted)
    assert accepted > 0


@torch.inference_mode()
def test_the_lean_runner_equals_transformers_on_the_real_target(pair):
    assert pair.target.runner == "lean" and pair.target.notes == ()
    ids = torch.tensor([pair.target.encode(user_prompt("p", "Name three rivers in France."))])
    ours = pair.target.forward(ids, pair.target.new_cache())
    theirs = pair.target.forward_batch(ids, pair.target.new_cache())
    if pair.draft.feature_layers:
        scale = theirs.features.abs().max()
        assert (ours.features - theirs.features).abs().max() <= 1e-5 * scale
    torch.testing.assert_close(ours.hidden, theirs.hidden, atol=1e-3, rtol=1e-3)
