"""Captured rounds on a real GPU: the same answers, sooner, with one wait of the host a round."""

import warnings

import numpy as np
import pytest
import torch

from bench.config import PairConfig
from bench.decoding.rules import Sampler
from bench.decoding.torch_engine import TorchEngine
from bench.device.graphs import shared_capture
from bench.models.layers import KVCache, StaticCache
from bench.runs.pair import load_pair
from bench.variant import Variant

pytestmark = pytest.mark.gpu

MAX_NEW, PROMPTS = 64, (list(range(100, 164)), list(range(4000, 4230)))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def pair(request, device):
    config = PairConfig("smollm2-135m", "smollm2-135m-instruct", "smollm2-135m-eagle3")
    return load_pair(config, device, request.param)


def engines(device, pair, sampler=None):
    what = (device, pair.target, pair.draft, MAX_NEW, 0, sampler)
    return TorchEngine(*what), TorchEngine(*what, shared_capture(device))


def variants(engine):
    full = engine.full_size
    return [Variant(full, 0), *(Variant(k, gamma) for k in (1024, full) for gamma in (1, 3, 5))]


def decoded(engine, prompt, variant):
    engine.reseed("prefill")
    prepared = engine.prepare(prompt)
    engine.load(variant, [prepared])
    engine.reseed("decode")
    return engine.decode(prepared, variant)


@pytest.mark.parametrize("sampler", [None, Sampler(0.8, top_p=0.95)])
def test_graphs_give_the_answers_of_the_loops(device, pair, sampler, page):
    eager, graph = engines(device, pair, sampler)
    same = []
    for prompt in PROMPTS:
        for variant in variants(eager):
            expected, found = (decoded(engine, prompt, variant) for engine in (eager, graph))
            same.append(expected.token_ids == found.token_ids and expected.accepted == found.accepted)
            assert found.token_ids[0] == expected.token_ids[0] and len(found.token_ids) > 1
    how = f"{pair.dtype}, {'greedy' if sampler is None else f'temperature {sampler.temperature}'}"
    page.note("Graphs against loops", how, f"{sum(same)} of {len(same)} answers the same")
    if pair.dtype is torch.float32:
        assert all(same)


def test_the_host_waits_once_a_round(device, pair):
    _, graph = engines(device, pair)
    for variant in variants(graph):
        prepared = graph.prepare(PROMPTS[0])
        graph.decode(prepared, variant)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = graph.decode(prepared, variant)
        torch.cuda.set_sync_debug_mode("default")
        rounds = len(found.accepted) or len(found.token_ids) - 1
        waits = sum("synchroniz" in str(warning.message) for warning in seen)
        # One more reads the first token.
        assert rounds <= waits <= rounds + 1, (variant, waits, rounds)


def test_rounds_are_shorter_as_graphs(device, pair, page):
    eager, graph = engines(device, pair)
    for variant in variants(eager):
        per_round = {}
        for name, engine in (("eager", eager), ("graph", graph)):
            prepared = engine.prepare(PROMPTS[1])
            engine.decode(prepared, variant)
            found = [engine.decode(prepared, variant) for _ in range(2)]
            rounds = [len(f.accepted) or len(f.token_ids) - 1 for f in found]
            per_round[name] = np.median([f.decode_ms / n for f, n in zip(found, rounds, strict=True)])
        page.note(
            "Rounds",
            f"{pair.dtype}, k = {variant.vocab_size}, gamma = {variant.draft_length}",
            f"{per_round['eager']:.3f} ms in loops, {per_round['graph']:.3f} as graphs",
        )
        assert per_round["graph"] < per_round["eager"]


@torch.inference_mode()
@pytest.mark.parametrize("num_new", [1, 2, 4, 7])
def test_attention_up_to_a_length_on_the_device_is_causal(device, num_new):
    torch.manual_seed(0)
    like = torch.zeros(1, device=device.torch_device, dtype=torch.bfloat16)
    q = torch.randn(1, num_new, 9, 64, device=like.device).to(like).transpose(1, 2)
    before = [torch.randn(1, 3, 300, 64, device=like.device).to(like) for _ in range(2)]
    new = [torch.randn(1, 3, num_new, 64, device=like.device).to(like) for _ in range(2)]
    growing, static = KVCache(1), StaticCache(1, 3, 64, 512, like)
    growing.update(*before, 0)
    static.load(growing, 300)
    assert static.uses_flash
    expected = growing.window(num_new).attend(0, q, *new).float()
    found = static.window(num_new).attend(0, q, *new).float()
    error = float((found - expected).norm() / expected.norm())
    print(f"\nn={num_new}: relative error {error:.1e}")
    assert error < 1e-2
