"""Captured rounds on a pretend GPU: the loops' answers, what a round costs the host, and planted faults."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.config.run import Execution
from bench.decoding import static as static_module
from bench.decoding.rules import Sampler
from bench.decoding.static import StaticDecoder
from bench.decoding.torch_engine import TorchEngine
from bench.device import open_device
from bench.device.graphs import capture, shared_capture
from bench.errors import DeviceError
from bench.models.draft import DraftHead
from bench.models.layers import StaticCache, StaticWindow
from bench.runs import pair as runs_pair
from bench.runs.pair import open_engine
from bench.variant import Variant
from tests.conftest import VOCAB_SIZE
from tests.pretend.conftest import pretend_pair
from tests.pretend.cuda import CUDA

PROMPT, MAX_NEW = [5, 9, 33, 7], 16
VARIANTS = [Variant(VOCAB_SIZE, 0), Variant(40, 3), Variant(VOCAB_SIZE, 2)]


class Rounds:
    """The tiny pair in both executions."""

    def __init__(self, gpu, dtype=torch.float32, sampler=None):
        self.gpu, self.device = gpu, open_device("cuda:0")
        what = (self.device, *pretend_pair(dtype), MAX_NEW, 0, sampler)
        self.eager, self.graph = TorchEngine(*what), TorchEngine(*what, shared_capture(self.device))

    def decode(self, engine, variant, **options):
        engine.reseed("prompt")
        prepared = engine.prepare(PROMPT)
        engine.load(variant, [prepared])
        engine.reseed("decode")
        self.gpu.forget()
        found = engine.decode(prepared, variant, **options)
        return found, len(found.accepted) or len(found.token_ids) - 1

    def check(self):
        """Raises where a captured round gives other answers or costs the host more than it may."""
        for variant in VARIANTS:
            expected, _ = self.decode(self.eager, variant)
            found, rounds = self.decode(self.graph, variant)
            assert (found.token_ids, found.accepted) == (expected.token_ids, expected.accepted), variant
            # Two synchronisations frame the decode, and one wait reads the first token.
            assert self.gpu.num_waits == rounds + 3, dict(self.gpu.waits)
            assert self.gpu.num_replays == rounds * (1 if variant.is_plain else 2)
            assert self.gpu.marks_elsewhere == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampler", [None, Sampler(0.8, top_k=50, top_p=0.95)])
def test_graphs_give_the_answers_of_the_loops_with_one_wait_a_round(gpu, dtype, sampler):
    Rounds(gpu, dtype, sampler).check()


@pytest.mark.parametrize(("sampler", "most"), [(None, 0), (Sampler(0.8), 5)])
def test_a_round_launches_graphs_and_random_numbers_alone_and_allocates_nothing(gpu, sampler, most):
    rounds = Rounds(gpu, sampler=sampler)
    for variant in VARIANTS:
        made = []
        for most_rounds in (1, 3):
            _, num = rounds.decode(rounds.graph, variant, max_rounds=most_rounds)
            made.append((num, gpu.num_launches, gpu.num_allocations))
        (few, launches_few, allocated_few), (many, launches_many, allocated_many) = made
        assert (few, many) == (1, 3) and allocated_many == allocated_few
        assert launches_many - launches_few == most * (many - few)


def test_the_host_waits_once_a_round_of_the_loops_too_sampled_or_not(gpu):
    for sampler in (None, Sampler(0.8, top_p=0.9)):
        rounds = Rounds(gpu, sampler=sampler)
        for variant in VARIANTS:
            _, num = rounds.decode(rounds.eager, variant)
            assert gpu.num_waits == num + 3, dict(gpu.waits)


def test_a_token_of_plain_decoding_launches_no_more_than_it_did(gpu):
    rounds = Rounds(gpu)
    _, num = rounds.decode(rounds.eager, VARIANTS[0])
    # 17 a layer, and embedding, features, last norm, LM head and choice.
    assert gpu.num_launches <= num * (17 * 8 + 5)


def test_graphs_hide_the_launches_that_the_loops_wait_for(gpu):
    rounds = Rounds(gpu)
    for variant in VARIANTS:
        eager, graph = (rounds.decode(engine, variant)[0] for engine in (rounds.eager, rounds.graph))
        assert graph.decode_ms < 0.7 * eager.decode_ms


def to_cpu(self, logits):
    return self.target_ids.cpu()[logits.argmax(-1).cpu()].to(CUDA) if self.target_ids is not None else None


def waits(self, logits):
    int(logits.argmax())
    return logits.argmax(-1) if self.target_ids is None else self.target_ids[logits.argmax(-1)]


def decided_by_python(self, logits):
    self.calls = getattr(self, "calls", 0) + 1
    best = logits.argmax(-1) * 0 + self.calls
    return best if self.target_ids is None else self.target_ids[best % self.size]


def another_device(self, logits):
    return torch.arange(self.size)[logits.argmax(-1).long()]


def stays_where_it_was_captured(cache, num_new):
    window = StaticWindow(cache, num_new)
    if cache.length.inner.numel():  # a number of the host's, as a slice would have it
        start = int(cache.length.inner)
        window._positions = torch.arange(start, start + num_new, device=CUDA)
    return window


def sees_what_was_not_accepted(self, groups, dtype):
    return torch.zeros(groups * self._num_new, self.reach, dtype=dtype, device=CUDA)


def forgets_to_advance(self, head, state, proposals, draws):
    before = self._length.clone()
    KEPT_VERIFY(self, head, state, proposals, draws)
    self._length.copy_(before)


def keeps_old_features(self, head, state, proposals, draws):
    before = state.features.clone()
    KEPT_VERIFY(self, head, state, proposals, draws)
    state.features.copy_(before)


def does_not_run_the_chain_before_the_warm_up(self, head, draft_length):
    self._capture = captured_only(self._capture)
    KEPT_LOAD(self, head, draft_length)


def captured_only(capture_call):
    def call(fn):
        graph = capture_call(fn)
        calls = iter([lambda: None])
        return lambda: next(calls, graph)()

    return call


def reads_a_token_at_a_time(self, prefill, head, draft_length, timeline, max_rounds=None):
    found = KEPT_DECODE(self, prefill, head, draft_length, timeline, max_rounds)
    for _ in found.token_ids[1:]:
        int(self._length)
    return found


KEPT_VERIFY, KEPT_LOAD, KEPT_DECODE = StaticDecoder._verify, StaticDecoder.load, StaticDecoder.decode

FAULTS = [
    (DraftHead, "select", to_cpu),
    (DraftHead, "select", waits),
    (DraftHead, "select", decided_by_python),
    (DraftHead, "select", another_device),
    (StaticCache, "window", stays_where_it_was_captured),
    (StaticWindow, "_added_mask", sees_what_was_not_accepted),
    (StaticDecoder, "_verify", forgets_to_advance),
    (StaticDecoder, "_verify", keeps_old_features),
    (StaticDecoder, "load", does_not_run_the_chain_before_the_warm_up),
    (StaticDecoder, "decode", reads_a_token_at_a_time),
]


@pytest.mark.parametrize(("owner", "name", "fault"), FAULTS, ids=[fault.__name__ for *_, fault in FAULTS])
def test_planted_faults_are_seen(gpu, monkeypatch, owner, name, fault):
    monkeypatch.setattr(owner, name, fault)
    with pytest.raises((AssertionError, DeviceError, RuntimeError, IndexError, ValueError)):
        Rounds(gpu).check()


def test_a_mark_on_another_stream_is_seen(gpu):
    device = open_device("cuda:0")
    with torch.cuda.stream(torch.cuda.Stream()):
        device.mark()
    assert gpu.marks_elsewhere == 1


def test_a_failed_capture_leaves_stream_and_device_as_they_were(gpu):
    device, x = open_device("cuda:0"), torch.ones(4, device=CUDA)
    with pytest.raises(DeviceError, match="use timing.execution"):
        capture(device, lambda: x.sum().item())
    with pytest.raises(DeviceError, match="use measure.execution=eager"):
        shared_capture(device)(lambda: x.sum().item())
    device.mark()
    assert gpu.marks_elsewhere == 0 and torch.equal((x + 1).cpu(), torch.full((4,), 2.0))


def test_a_replay_does_the_same_on_the_memory_of_now(gpu):
    device = open_device("cuda:0")
    x, times = torch.ones(3, device=CUDA), [2]

    def call():
        x.add_(1)
        return x * times[0]

    graph = capture(device, call)
    # Three calls warm it up; the capture itself does nothing, and what it made means nothing.
    assert x.tolist() == [4.0] * 3 and np.isnan(graph.output.tolist()).all()
    times[0] = 100
    assert graph().tolist() == [10.0] * 3
    x.fill_(0)
    assert graph().tolist() == [2.0] * 3


def test_rooms_are_shared_by_prompts_of_similar_length(gpu):
    rounds = Rounds(gpu)
    for prompt in ([1, 2, 3], list(range(60))):
        rounds.graph.decode(rounds.graph.prepare(prompt), VARIANTS[1])
    assert list(rounds.graph._static) == [static_module.needed_room(3, MAX_NEW, 3)]


def test_rounds_that_cannot_be_captured_run_eagerly_and_not_as_functions_for_cpus(gpu, monkeypatch):
    target, draft = pretend_pair()
    pair = SimpleNamespace(target=target, draft=draft, dtype=torch.float32)
    device = open_device("cuda:0")
    assert open_engine(pair, device, 8, seed=0)[0].execution is Execution.graph
    monkeypatch.setattr(runs_pair, "capture_obstacle", lambda *_: "no")
    engine, how = open_engine(pair, device, 8, seed=0)
    assert engine.execution is Execution.eager and "not_compiled" not in how
    with pytest.raises(DeviceError, match="compiled layers are for CPUs"):
        open_engine(pair, device, 8, seed=0, wanted=Execution.compiled)
