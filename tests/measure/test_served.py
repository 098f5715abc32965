"""Which variant a fresh process decodes when, and what a process that fails costs."""

from contextlib import contextmanager

import numpy as np
import pytest

from bench.decoding.vllm_engine import Request, Served, VllmError
from bench.measure.served import ServedPlan
from bench.measure.workload import EncodedPrompt, Workload
from bench.records import FailureRecord, ServedRecord
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
        self.calls: list[tuple[int, int]] = []
        self.failing = failing
        self.version, self.load_s = "1.0", 2.0

    @contextmanager
    def start(self, workload, variant):
        self.started.append(variant)
        if variant == self.failing:
            raise VllmError("vLLM ended with exit code 1: no memory")
        yield self

    def decode(self, prompts, concurrency, max_new_tokens, temperature=0.0, seed=0):
        self.calls.append((len(prompts), concurrency))
        return Served(5.0, [Request([7], [1], [1.0]) for _ in prompts], {})


def plan() -> ServedPlan:
    return ServedPlan([1, 4], 2, 16, 0.0, 0)


def test_every_second_pass_goes_backwards(workload):
    engines = Engines()
    records = list(plan().run(engines.start, workload, VARIANTS, Done()))
    assert engines.started == [*VARIANTS, *VARIANTS[::-1]]
    assert len(records) == plan().num_steps(3) == len({record.identity for record in records})
    # A short decode of one prompt first, which is not recorded.
    assert engines.calls[:3] == [(1, 1), (2, 1), (2, 4)]


def test_what_is_known_is_not_decoded_again(workload):
    records = list(plan().run(Engines().start, workload, VARIANTS, Done()))
    lost = [r for r in records if r.variant == FULL and r.process == 1 and r.concurrency == 4]
    engines = Engines()
    again = list(plan().run(engines.start, workload, VARIANTS, Done([r for r in records if r not in lost])))
    assert [record.identity for record in again] == [record.identity for record in lost]
    assert engines.started == [FULL]


def test_a_process_that_fails_is_recorded_and_the_others_go_on(workload):
    records = list(plan().run(Engines(failing=FULL).start, workload, VARIANTS, Done()))
    failures = [record for record in records if isinstance(record, FailureRecord)]
    assert [failure.case for failure in failures] == [["served", "vllm", "code", 100, 3, i] for i in (0, 1)]
    assert "no memory" in failures[0].message
    assert {r.variant for r in records if isinstance(r, ServedRecord)} == {PLAIN, TRIMMED}
