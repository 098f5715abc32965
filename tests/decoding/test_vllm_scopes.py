"""Parts of vLLM's steps, with a runner and a draft that only wait."""

import sys
import time
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import pytest

from bench.decoding.vllm_scopes import Scopes

# Seconds, far enough apart to be told from each other.
HEAD, REST_OF_LOGITS, CHOICE, FORWARD = 0.004, 0.002, 0.001, 0.008


class Draft:
    def __init__(self):
        self.logits_processor = SimpleNamespace(forward=lambda hidden: time.sleep(HEAD) or hidden)

    def compute_logits(self, hidden):
        time.sleep(REST_OF_LOGITS)
        return self.logits_processor.forward(hidden)


class Drafter:
    def __init__(self):
        self.model = Draft()

    def _greedy_sample(self, hidden):
        time.sleep(CHOICE)
        return self.model.compute_logits(hidden)


class Runner:
    def __init__(self, drafter=None):
        self.device = SimpleNamespace(type="cpu")
        if drafter:
            self.drafter = drafter

    def execute_model(self, scheduled):
        with sys.modules["vllm.v1.worker.gpu_model_runner"].record_function_or_nullcontext(
            "gpu_model_runner: forward"
        ):
            time.sleep(FORWARD)

    def sample_tokens(self, grammar):
        return [self.drafter._greedy_sample(hidden) for hidden in (1, 2)] if hasattr(self, "drafter") else []


@pytest.fixture
def module(monkeypatch):
    module = ModuleType("vllm.v1.worker.gpu_model_runner")
    module.GPUModelRunner = Runner
    module.record_function_or_nullcontext = lambda name: nullcontext()
    worker = ModuleType("vllm.v1.worker")
    worker.gpu_model_runner = module
    for name, found in (("vllm", ModuleType("vllm")), ("vllm.v1", ModuleType("vllm.v1"))):
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.setitem(sys.modules, "vllm.v1.worker", worker)
    monkeypatch.setitem(sys.modules, "vllm.v1.worker.gpu_model_runner", module)
    return module


def scopes(runner) -> Scopes:
    found = Scopes()
    found.model_runner = runner
    return found


def test_every_step_has_its_parts_one_in_the_other(module):
    runner = Runner(Drafter())
    timed = scopes(runner)
    assert timed.start_scopes() == ""
    for num_tokens in (40, 0, 4):
        runner.execute_model(SimpleNamespace(total_num_scheduled_tokens=num_tokens))
    assert runner.sample_tokens(None) == [1, 2]
    first, last = timed.end_scopes()
    assert (first["num_tokens"], last["num_tokens"]) == (40, 4)
    assert "draft_head" not in first
    # Two drafted tokens; sleeping takes at least the time that was asked for.
    assert last["draft_head"] >= 2 * HEAD * 1e3
    assert last["draft_logits"] >= last["draft_head"] + 2 * REST_OF_LOGITS * 1e3
    assert last["draft_token"] >= last["draft_logits"] + 2 * CHOICE * 1e3
    assert last["sample_tokens"] >= last["draft_token"]
    assert last["execute_model"] >= last["forward"] >= FORWARD * 1e3


def test_plain_decoding_has_no_draft(module):
    timed = scopes(Runner())
    assert timed.start_scopes() == ""
    timed.model_runner.execute_model(SimpleNamespace(total_num_scheduled_tokens=1))
    timed.model_runner.sample_tokens(None)
    assert set(timed.end_scopes()[0]) == {"num_tokens", "forward", "execute_model", "sample_tokens"}


def test_what_another_version_lacks_is_named(module):
    drafter = Drafter()
    drafter.model.logits_processor = None
    assert "no forward" in scopes(Runner(drafter)).start_scopes()
    assert "Namespace, which has no scopes" in scopes(SimpleNamespace(device=None)).start_scopes()
    del module.record_function_or_nullcontext
    assert scopes(Runner()).start_scopes() == "this vLLM has no scopes for profilers"
