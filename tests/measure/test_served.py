"""Which variant a fresh process decodes when, and what a process that fails costs."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from bench.decoding.vllm_engine import Parts, Request, Served, VllmError
from bench.measure.served import ServedPlan, Setting, with_context
from bench.measure.workload import EncodedPrompt, Workload
from bench.records import FailureRecord, ServedPartsRecord, ServedRecord
from bench.records.store import Done
from bench.variant import Variant

PLAIN, FULL, TRIMMED = Variant(100, 0), Variant(100, 3), Variant(10, 2)
VARIANTS = [PLAIN, FULL, TRIMMED]


@pytest.fixture
def workload():
    prompts = [EncodedPrompt("a", [1, 2]), EncodedPrompt("b", [3])]
    return Workload("code", prompts, "code", {"code": np.arange(100)}, 20)


class Engines:
    """Starts processes, notes which, and lets one variant fail."""

    def __init__(self, failing: Variant | None = None):
        self.started: list[Variant] = []
        self.calls: list[object] = []
        self.failing = failing
        self.version, self.load_s = "1.0", 2.0

    @contextmanager
    def start(self, workload, variant):
        self.started.append(variant)
        if variant == self.failing:
            raise VllmError("vLLM ended with exit code 1: no memory")
        yield self

    def warm_up(self, prompts):
        self.calls.append("warm-up")

    def decode(self, prompts, concurrency, max_new_tokens, temperature=0.0, seed=0):
        self.calls.append((len(prompts), concurrency))
        return Served(5.0, [Request([7], [1], [1.0]) for _ in prompts], {})

    def parts(self, prompts, max_new_tokens):
        self.calls.append("parts")
        return Parts("", [2.0], [{"num_tokens": 4, "forward": 1.5}, {"num_tokens": 3, "draft": 0.25}])


def plan() -> ServedPlan:
    return ServedPlan([1, 4], 2, 16, 0.0, 0)


def test_every_second_pass_goes_backwards(workload):
    engines = Engines()
    records = list(plan().run(engines.start, workload, VARIANTS, Done()))
    assert engines.started == [*VARIANTS, *VARIANTS[::-1]]
    assert len(records) == plan().num_steps(3) == len({record.identity for record in records})
    assert engines.calls[:4] == ["warm-up", (2, 1), (2, 4), "parts"]


def test_what_is_known_is_not_decoded_again(workload):
    records = list(plan().run(Engines().start, workload, VARIANTS, Done()))
    lost = [r for r in records if r.variant == FULL and r.process == 1 and getattr(r, "concurrency", 4) == 4]
    engines = Engines()
    again = list(plan().run(engines.start, workload, VARIANTS, Done([r for r in records if r not in lost])))
    assert [record.identity for record in again] == [record.identity for record in lost]
    assert engines.started == [FULL] and engines.calls == ["warm-up", (2, 4), "parts"]


def test_every_process_says_what_its_steps_consist_of(workload):
    records = list(plan().run(Engines().start, workload, [FULL], Done()))
    (first, second) = (record for record in records if isinstance(record, ServedPartsRecord))
    assert (first.process, second.process) == (0, 1) and first.num_tokens == [4, 3]
    assert first.parts_ms == {"forward": [1.5, 0.0], "draft": [0.0, 0.25]} and first.round_ms == [2.0]


def test_settings_have_records_of_their_own(workload):
    settings = [Setting(), Setting(temperature=0.7), Setting(context_tokens=9)]
    wanted = replace(plan(), settings=settings, in_parts=False, engine="vllm serve")
    engines = Engines()
    records = list(wanted.run(engines.start, workload, [FULL], Done()))
    assert len(records) == wanted.num_steps(1) == 2 * 3 * 2
    assert len({record.identity for record in records}) == len(records)
    found = [(r.temperature, r.context_tokens, r.concurrency) for r in records[:6]]
    assert found == [
        (None, None, 1),
        (None, None, 4),
        (0.7, None, 1),
        (0.7, None, 4),
        (None, 9, 1),
        (None, 9, 4),
    ]
    assert {record.engine for record in records} == {"vllm serve"} and "parts" not in engines.calls
    assert list(wanted.run(engines.start, workload, [FULL], Done(records))) == []


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [
        (None, [[1, 2], [3], [4, 5, 6]]),
        (3, [[6, 1, 2], [1, 2, 3], [4, 5, 6]]),
        (5, [[4, 5, 6, 1, 2], [5, 6, 1, 2, 3], [2, 3, 4, 5, 6]]),
        (8, [[5, 6, 3, 4, 5, 6, 1, 2], [1, 2, 4, 5, 6, 1, 2, 3], [2, 3, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_contexts_are_the_prompts_before(num_tokens, expected):
    prompts = [EncodedPrompt("a", [1, 2]), EncodedPrompt("b", [3]), EncodedPrompt("c", [4, 5, 6])]
    assert with_context(prompts, num_tokens) == expected


def test_a_prompt_alone_repeats_before_itself():
    assert with_context([EncodedPrompt("a", [1, 2])], 5) == [[2, 1, 2, 1, 2]]


def test_a_process_that_fails_is_recorded_and_the_others_go_on(workload):
    records = list(plan().run(Engines(failing=FULL).start, workload, VARIANTS, Done()))
    failures = [record for record in records if isinstance(record, FailureRecord)]
    assert [failure.case for failure in failures] == [["served", "vllm", "code", 100, 3, i] for i in (0, 1)]
    assert "no memory" in failures[0].message
    assert {r.variant for r in records if isinstance(r, ServedRecord)} == {PLAIN, TRIMMED}
