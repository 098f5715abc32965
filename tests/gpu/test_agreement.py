"""How far verification and plain decoding differ in bfloat16, and that graphs and loops do not."""

import numpy as np
import pytest
import torch

from bench.config import PairConfig
from bench.decoding.torch_engine import TorchEngine
from bench.device.graphs import shared_capture
from bench.runs.pair import load_pair
from bench.variant import Variant

pytestmark = pytest.mark.gpu

PROMPTS = [list(range(first, first + 64)) for first in (100, 2000, 4000)]

MAX_NEW, NUM_VERIFIED, NUM_ANSWERS = 96, 4, 8

# Of logits, over the whole text; rounding to bfloat16 is 0.4% each time.
MOST_ERROR = 0.05

MOST_CHANGED = 0.05


@pytest.fixture(scope="module")
def pair(device):
    config = PairConfig("smollm2-135m", "smollm2-135m-instruct", "smollm2-135m-eagle3")
    return load_pair(config, device, "bfloat16")


@torch.inference_mode()
def logits_of(target, prompt, answer, length):
    """Logits `(places, vocab)` of an answer that is read so many tokens at a time."""
    cache, rows = target.new_cache(), []
    ids = torch.tensor([[*prompt, *answer]], device=target.device)
    target.forward(ids[:, : len(prompt)], cache)
    for start in range(len(prompt), ids.shape[1], length):
        rows.append(target.lm_head(target.forward(ids[:, start : start + length], cache).hidden)[0].float())
    return torch.cat(rows)


def test_bfloat16_changes_few_tokens_and_moves_logits_little(device, pair, page):
    engine = TorchEngine(device, pair.target, pair.draft, MAX_NEW, 0)
    singles, blocks = [], []
    for prompt in PROMPTS:
        answer = engine.decode(engine.prepare(prompt), Variant(engine.full_size, 0)).token_ids
        singles.append(logits_of(pair.target, prompt, answer, 1))
        blocks.append(logits_of(pair.target, prompt, answer, NUM_VERIFIED))
    single, block = torch.cat(singles), torch.cat(blocks)
    error = float((block - single).norm() / single.norm())
    changed = (single.argmax(-1) != block.argmax(-1)).cpu().numpy()
    best = single.topk(2).values
    margins = (best[:, 0] - best[:, 1]).cpu().numpy()
    section = f"bfloat16: {NUM_VERIFIED} tokens verified at once against one by one"
    page.note(section, "relative error of logits", f"{error:.4f} (bound {MOST_ERROR})")
    page.note(
        section, "best tokens that change", f"{changed.sum()} of {len(changed)} (bound {MOST_CHANGED:.0%})"
    )
    page.note(
        section, "largest margin between the best two among these", f"{margins[changed].max(initial=0):.3f}"
    )
    page.note(section, "median margin of all", f"{np.median(margins):.3f}")
    assert error < MOST_ERROR and changed.mean() <= MOST_CHANGED


@pytest.mark.parametrize("gamma", [1, 3])
def test_graphs_and_loops_agree_as_often_as_rounding_lets_them(device, pair, page, gamma):
    what = (device, pair.target, pair.draft, MAX_NEW, 0)
    eager, graph = TorchEngine(*what), TorchEngine(*what, None, shared_capture(device))
    variant, same = Variant(eager.full_size, gamma), []
    for first in range(NUM_ANSWERS):
        prompt = PROMPTS[0][first:]
        answers = []
        for engine in (eager, graph):
            prepared = engine.prepare(prompt)
            engine.load(variant, [prepared])
            answers.append(engine.decode(prepared, variant).token_ids)
        num = min(map(len, answers))
        differ = np.flatnonzero(np.array(answers[0][:num]) != np.array(answers[1][:num]))
        same.append((differ[0] if len(differ) else num) / num)
    page.note(
        "Graphs against loops, bfloat16", f"gamma = {gamma}", f"equal for {np.mean(same):.0%} of a text"
    )
    assert np.mean(same) > 0.3
