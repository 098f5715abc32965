"""Compiled functions and fused layers against torch's operations, one by one and as whole passes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.decoding.decoder import Decoder
from bench.decoding.replay import read_answer, replay
from bench.decoding.rounds import Timeline
from bench.decoding.torch_engine import TorchEngine
from bench.device.cpu import CpuDevice
from bench.models import fused
from bench.models.draft import DraftHead
from bench.models.kernels import MOST_FUSED_ROWS, RmsNorm, best_ids
from bench.models.target import Target
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab, choose_vocab
from tests.conftest import VOCAB_SIZE, make_decoder_lm, make_draft, make_llama, make_target

pytest.importorskip("numba", reason="without it no layer is fused")

DTYPES = [torch.float32, torch.bfloat16]

# What rounding leaves of one function; of eight layers it is ten times as much.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def numbers(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def close(found, expected, times=1):
    most = times * TOLERANCE[expected.dtype] * float(expected.float().abs().max())
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=most)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_round_as_torch_rounds_them(dtype):
    ops, norm = fused.fused_ops(dtype), RmsNorm(torch.ones(8, dtype=dtype), 1e-5)
    special = [0.0, -0.0, float("inf"), float("nan"), 1 + 2**-8, 1 + 3 * 2**-8, 3e38, 1e-40]
    x = torch.cat([numbers(400, 8, dtype=dtype) * 3, torch.tensor([special]).to(dtype)])
    y = torch.cat(
        [numbers(400, 8, dtype=dtype, seed=1), torch.tensor([[0, 0, 1, 1, 2**-8, 0, 3e38, 0]]).to(dtype)]
    )
    expected, out, total = x + y, torch.empty_like(x), y.clone()
    scales = fused.FusedNorm(ops, norm)
    at = x.data_ptr(), total.data_ptr(), scales.weight, out.data_ptr()
    ops.kernels.add_and_norm(ops.like, *at, len(x), 8, 1e-5)
    torch.testing.assert_close(total, expected, rtol=0, atol=0, equal_nan=True)
    close(out[:400], norm(expected[:400]))


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_functions_are_those_of_torch(dtype):
    ops, kernels = fused.fused_ops(dtype), fused.fused_ops(dtype).kernels
    # SiLU also where e^-x is beyond float32.
    gate_up = torch.cat([numbers(3, 40, dtype=dtype) * 8, torch.full((1, 40), -100.0, dtype=dtype)])
    gate_up[1, 0] = 100
    out = torch.empty(4, 20, dtype=dtype)
    kernels.gated(ops.like, gate_up.data_ptr(), out.data_ptr(), 4, 20)
    gate, up = gate_up.chunk(2, dim=-1)
    close(out, F.silu(gate) * up)

    norms = [RmsNorm(1 + numbers(6, dtype=dtype, seed=seed) / 4, 1e-5) for seed in (1, 2)]
    table, hidden, ids = numbers(9, 6, dtype=dtype), numbers(1, 3, 6, dtype=dtype), torch.tensor([8, 0, 8])
    close(fused.FusedNorm(ops, norms[0])(hidden), norms[0](hidden))
    entry = fused.FusedEntry(ops, table, *norms)
    close(entry(ids, hidden), torch.cat([norms[0](table[ids])[None], norms[1](hidden)], dim=-1))
    with pytest.raises(IndexError, match="without an embedding"):
        entry(torch.tensor([1, 9, 1]), hidden)


@pytest.mark.parametrize("dtype", DTYPES)
def test_among_equal_logits_the_lowest_id_is_best(dtype):
    ops, names = fused.fused_ops(dtype), torch.arange(600) * 3
    logits = numbers(5, 600, dtype=dtype)
    logits[1, [599, 300, 40]] = 9.0
    logits[2], logits[3, 599] = -1.0, 50.0
    assert ops.best(logits).tolist() == best_ids(logits).tolist()
    assert ops.best(logits).tolist()[1:4] == [40, 0, 599]
    assert ops.best(logits[1:4], names).tolist() == [120, 0, 1797]
    weight = numbers(600, 4, dtype=dtype)
    hidden = numbers(1, 2, 4, dtype=dtype, seed=3)
    eager, compiled = (DraftHead(weight, names, ops=which) for which in (None, ops))
    assert torch.equal(compiled.select(eager.logits(hidden)), eager.select(eager.logits(hidden)))


class Passes:
    """The same passes of one model, fused and not, after a text of 40 tokens."""

    def __init__(self, run, fuse, new_cache):
        self._run, self._fuse, self._new_cache = run, fuse, new_cache
        self.ids = torch.randint(2, VOCAB_SIZE, (400,), generator=torch.Generator().manual_seed(4))

    def outputs(self, is_fused, pieces, first=40):
        cache = self._new_cache()
        self._fuse(False)
        self._run(self.ids[:first], cache)
        self._fuse(is_fused)
        found = []
        for start, stop, kept in pieces:
            found.append(self._run(self.ids[start:stop], cache))
            cache.rewind(kept)
        return found


PIECES = [
    (40, 41, 41),
    (41, 45, 43),
    (43, 43 + MOST_FUSED_ROWS, 50),
    (50, 80, 80),
    (80, 81, 81),
    (81, 83, 83),
]


@pytest.mark.parametrize("most_products", [2**20, 0], ids=["compiled", "attention by torch"])
@torch.inference_mode()
def test_passes_over_few_tokens_are_those_of_torch(most_products, monkeypatch):
    run = fused.FusedStack.run
    monkeypatch.setattr(fused.FusedStack, "run", lambda *given, **_: run(*given, most_products=most_products))
    target = make_target()
    target.keep_features((0, 1, 5, 8))
    passes = Passes(lambda ids, cache: target.forward(ids[None], cache), target.fuse, target.new_cache)
    fused_ones, expected = (passes.outputs(is_fused, PIECES) for is_fused in (True, False))
    for found, wanted in zip(fused_ones, expected, strict=True):
        # Results stay although later passes write to the same memory.
        close(found.hidden, wanted.hidden, 10)
        close(found.features, wanted.features, 10)


@torch.inference_mode()
def test_bfloat16_is_as_near_to_float32_as_torchs_is():
    model = make_llama()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(1 + numbers(*parameter.shape) / 4)
    exact = Target(copy.deepcopy(model), None)
    target = Target(model.to(torch.bfloat16), None)
    ids = torch.arange(60)[None] * 7 % VOCAB_SIZE
    truth = exact.forward(ids, exact.new_cache()).hidden[:, 40:]
    errors = {}
    for is_fused in (False, True):
        target.fuse(is_fused)
        # What is freed by now is written over.
        _clobbered = [
            torch.full((size,), float("nan")) for size in (8, 16, 32, 32, 32, 48, 64) for _ in range(50)
        ]
        cache = target.new_cache()
        target.forward(ids[:, :40], cache)
        pieces = [target.forward(ids[:, at : at + 4], cache).hidden for at in range(40, 60, 4)]
        errors[is_fused] = float((torch.cat(pieces, dim=1).float() - truth).norm() / truth.norm())
    assert 0 < errors[False] < 0.2 and errors[True] < 1.25 * errors[False]


@torch.inference_mode()
def test_a_cache_grows_under_fused_passes(monkeypatch):
    monkeypatch.setattr("bench.models.layers._GROWTH", 20)
    target = make_target()
    cache, ids = target.new_cache(), torch.arange(256)[None] * 7 % VOCAB_SIZE
    target.forward(ids[:, :3], cache)
    room = cache.layers[0].key_buffer.shape[2]
    assert 3 + MOST_FUSED_ROWS < room < 256
    target.fuse(True)
    found = [target.forward(ids[:, at : at + 11], cache).hidden for at in range(3, 256, 11)]
    assert cache.length == 256 and cache.layers[0].key_buffer.shape[2] > room
    target.fuse(False)
    close(torch.cat(found, dim=1), target.forward(ids, target.new_cache()).hidden[:, 3:], 10)


def silent():
    return Timeline(lambda: None)


PROMPTS = [[5, 9, 33, 7, 60, 2], [8, 8, 8, 40], [0, 31, 32, 33, 34, 35, 36]]


@pytest.mark.parametrize("make", [make_draft, lambda _: make_decoder_lm()], ids=["EAGLE-3", "decoder LM"])
@torch.inference_mode()
def test_texts_and_accepted_counts_are_those_of_the_eager_loop(make):
    target = make_target()
    draft = make(target)
    answers = {}
    for compiled in (False, True):
        engine = TorchEngine(CpuDevice(), target, draft, 30, seed=0, compiled=compiled)
        assert engine.facts["execution"] == ("compiled" if compiled else "eager")
        for prompt in PROMPTS:
            prepared = engine.prepare(prompt)
            found = [engine.decode(prepared, Variant(size, 3)) for size in (VOCAB_SIZE, 40)]
            plain = engine.decode(prepared, Variant(VOCAB_SIZE, 0))
            assert all(decoded.token_ids == plain.token_ids for decoded in found)
            answers[compiled, tuple(prompt)] = [(one.token_ids, one.accepted) for one in (*found, plain)]
    for prompt in PROMPTS:
        assert answers[True, tuple(prompt)] == answers[False, tuple(prompt)]


@torch.inference_mode()
def test_replay_counts_what_a_compiled_decode_accepts():
    target = make_target()
    draft = make_draft(target)
    engine = TorchEngine(CpuDevice(), target, draft, 24, seed=0, compiled=True)
    decoder, num_accepted = Decoder(target, 24), 0
    for prompt in PROMPTS:
        prefill = engine.prepare(prompt)
        answer = decoder.plain(prefill, silent()).token_ids
        # The tokens of the answer enter first, so that a random draft is right now and then.
        order = np.concatenate([np.unique(answer), np.setdiff1d(np.arange(VOCAB_SIZE), answer)])
        text = read_answer(target, prefill, answer, 3)
        found = replay(draft, draft.full_head(), prefill.prompt_ids, text, {"o": order}, 3)["o"]
        for size in (4, len(set(answer)), VOCAB_SIZE):
            head = draft.head(choose_vocab(order, [], size, VOCAB_SIZE))
            decoded = decoder.speculative(prefill, draft, head, 3, silent())
            assert decoded.token_ids == answer
            assert decoded.accepted == found.accepted_by_round(Variant(size, 3))
            num_accepted += sum(decoded.accepted)
    assert num_accepted > 0


def test_an_engine_that_is_not_compiled_turns_fused_layers_off():
    target = make_target()
    draft = make_draft(target)
    TorchEngine(CpuDevice(), target, draft, 8, seed=0, compiled=True)
    assert target._lean._fused and draft._fused
    TorchEngine(CpuDevice(), target, draft, 8, seed=0)
    assert not target._lean._fused and not draft._fused
    assert not any(getattr(module, "fused", None) for module in draft.body.modules())


def test_the_whole_vocabulary_is_a_head_like_any_other():
    target = make_target()
    draft = make_draft(target)
    draft.fuse(True)
    hidden = numbers(1, 1, 32)
    for head in (draft.full_head(), draft.head(DraftVocab(np.arange(3, 60), VOCAB_SIZE))):
        logits = head.logits(hidden)
        ids = np.arange(VOCAB_SIZE) if head.target_ids is None else head.target_ids.numpy()
        assert head.select(logits).item() == ids[logits[0, 0].argmax()]
