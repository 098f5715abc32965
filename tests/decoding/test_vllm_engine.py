"""The protocol with a vLLM process, against a stand-in for vLLM; tests/vllm/ runs the real one."""

import stat
import sys
from pathlib import Path

import pytest

from bench.decoding.vllm_engine import VllmError, python_of_environment, vllm_process, vllm_settings

# Every request takes rounds of 3 tokens after a first of 1, and its tokens count up from its prompt's last.
STAND_IN = """
from types import SimpleNamespace as Thing
__version__ = "9.9"
sampling_params = Thing(RequestOutputKind=Thing(CUMULATIVE="all"))
SamplingParams = lambda **values: Thing(**values)

class LLM:
    def __init__(self, **settings):
        if settings["model"] == "absent":
            raise ValueError("no model absent")
        self.settings, self.llm_engine, self.rounds = settings, self, 0
        self.running, self.most = {}, 0

    def add_request(self, name, prompt, sampling):
        self.running[name] = (prompt["prompt_token_ids"], [], sampling)
        self.most = max(self.most, len(self.running))
        if self.most > self.settings["max_num_seqs"]:
            raise RuntimeError("too many at a time")

    def step(self):
        found = []
        for name, (prompt, tokens, sampling) in list(self.running.items()):
            if prompt == [666]:
                import os
                print("RuntimeError: out of luck", flush=True)
                os._exit(3)
            self.rounds += bool(tokens)
            for _ in range(3 if tokens else 1):
                tokens.append(prompt[-1] + len(tokens) + 1)
            del tokens[sampling.max_tokens:]
            done = len(tokens) == sampling.max_tokens
            if done:
                del self.running[name]
            found.append(Thing(request_id=name, outputs=[Thing(token_ids=list(tokens))], finished=done))
        return found

    def collective_rpc(self, name):
        if name == "start_scopes":
            return ["this vLLM has no scopes"] if self.settings["model"] == "old" else [""]
        return [5] if name == "num_compute_threads" else [[{"num_tokens": 3, "forward": 2.5}]]

    def get_metrics(self):
        return [
            Thing(name="vllm:spec_decode_num_drafts", value=self.rounds),
            Thing(name="vllm:spec_decode_num_accepted_tokens_per_pos", values=[self.rounds, self.rounds]),
            Thing(name="vllm:other", value=1),
        ]
"""


@pytest.fixture
def python(tmp_path):
    (tmp_path / "vllm.py").write_text(STAND_IN)
    script = tmp_path / "bin" / "python"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def settings(model: str = "here") -> dict:
    return vllm_settings(Path(model), "float32", 100, 2, None, is_on_cpu=True)


def test_prompts_are_answered_in_their_order_so_many_at_a_time(python):
    with vllm_process(settings(), python) as engine:
        assert engine.version == "9.9"
        first = engine.decode([[5], [7, 9], [20]], concurrency=2, max_new_tokens=6)
        again = engine.decode([[5]], concurrency=1, max_new_tokens=4)
    assert [request.token_ids[0] for request in first.requests] == [6, 10, 21]
    assert first.requests[0].token_ids == [6, 7, 8, 9, 10, 11]
    # A token of the prefill, a whole round, and one that the length of the answer cuts.
    assert all(request.num_new == [1, 3, 2] for request in first.requests)
    assert all(request.at_ms == sorted(request.at_ms) for request in first.requests)
    assert first.wall_ms >= max(request.at_ms[-1] for request in first.requests)
    assert first.counters == {
        "vllm:spec_decode_num_drafts": 6,
        "vllm:spec_decode_num_accepted_tokens_per_pos": [6, 6],
    }
    # Counters are of one call.
    assert again.counters["vllm:spec_decode_num_drafts"] == 1


def test_steps_in_parts_come_with_the_time_between_arrivals(python):
    with vllm_process(settings(), python) as engine:
        parts = engine.parts([[5], [7]], max_new_tokens=6)
    assert (
        parts.num_threads == 5 and parts.reason == "" and parts.steps == [{"num_tokens": 3, "forward": 2.5}]
    )
    # Each of the two answers arrives in three pieces.
    assert len(parts.round_ms) == 4 and min(parts.round_ms) >= 0


def test_a_version_without_parts_says_why(python):
    with vllm_process(settings("old"), python) as engine:
        assert engine.parts([[5]], 6).reason == "this vLLM has no scopes"
        assert engine.decode([[5]], 1, 4).requests[0].token_ids == [6, 7, 8, 9]


def test_a_model_that_cannot_be_loaded_is_named(python):
    with pytest.raises(VllmError, match="no model absent"), vllm_process(settings("absent"), python):
        pass


def test_a_process_that_dies_says_its_last_words(python):
    with vllm_process(settings(), python) as engine:
        assert engine.decode([[1]], 1, 2).requests[0].token_ids == [2, 3]
        with pytest.raises(VllmError, match="exit code 3.*out of luck"):
            engine.decode([[666]], 1, 2)


def test_without_an_environment_the_command_that_makes_it_is_named(tmp_path):
    with pytest.raises(VllmError, match="make setup-vllm"):
        python_of_environment(tmp_path)
