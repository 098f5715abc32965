"""Parts on their own, of a device whose times are a script: each part takes what is scripted for it."""

from dataclasses import replace
from functools import partial

import pytest

from bench.config import CacheState, MeasureConfig, TimingConfig
from bench.config.run import Execution
from bench.decoding.torch_engine import TorchEngine
from bench.device import ScriptedDevice
from bench.errors import DeviceError
from bench.measure import isolated
from bench.measure.campaign import Campaign
from bench.measure.timing import time_variants
from bench.measure.workload import EncodedPrompt, Workload
from bench.records import FailureRecord, IsolatedRecord
from bench.records.store import Done
from bench.telemetry.samples import offset_s
from tests.conftest import VOCAB_SIZE, make_draft, make_target

TARGET = make_target()
DRAFT = make_draft(TARGET)
ORDER = DRAFT.vocab.target_ids
WORKLOAD = Workload("code", [EncodedPrompt("p", [5, 9, 33, 7])], "code", {"code": ORDER}, VOCAB_SIZE)
MEASURE = MeasureConfig(draft_lengths=[1], num_prompts=1, max_new_tokens=8)
PARTS = {
    ("layer", None, None), ("lm_head", VOCAB_SIZE, None), ("select", VOCAB_SIZE, None),
    ("extend", None, 1), ("extend", None, 2), ("verify", None, 1), ("verify", None, 2),
}  # fmt: skip
TIMING = TimingConfig(min_sample_ms=0.0, min_warmup_s=0.0)
EAGERLY = replace(TIMING, execution=Execution.eager)


class Bench:
    """A scripted GPU on which 2 ms of work takes 5 ms to launch, and 0.01 ms as a graph."""

    def __init__(self, monkeypatch, **options):
        self.device = ScriptedDevice(**{"has_graphs": True, **options})
        self.fails_to_prepare: set = set()
        self.fails_to_run: set = set()
        self.prepared: list = []
        monkeypatch.setattr(isolated, "execute_as", self.execute_as)
        monkeypatch.setattr(isolated, "time_variants", partial(time_variants, clock_ns=self.device.clock_ns))

    def execute_as(self, device, call, execution):
        part = call.__qualname__.split(".")[1]
        self.prepared.append((part, execution))
        if (part, execution) in self.fails_to_prepare:
            raise DeviceError("this cannot run as a CUDA graph: no; use timing.execution=eager")
        host_ms = 0.01 if execution is Execution.graph else 5.0

        def work():
            if (part, execution) in self.fails_to_run:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            self.device.work(2.0, host_ms=host_ms)

        return work

    def isolate(self, timing=TIMING, done=()):
        engine = TorchEngine(self.device, TARGET, DRAFT, 8, seed=0)
        campaign = Campaign(engine, [VOCAB_SIZE], MEASURE, done=Done(done))
        return list(campaign.isolate(WORKLOAD, self.device, timing))


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def named(records):
    return {(r.part, r.vocab_size, r.num_tokens, r.cache, r.execution) for r in records}


def test_a_gpu_has_every_part_timed_as_a_graph(bench):
    found = bench.isolate()
    assert named(found) == {(*part, cache, "graph") for part in PARTS for cache in ("cold", "warm")}
    assert len(found) == 2 * len(PARTS)
    for record in [*found, *bench.isolate(EAGERLY)]:
        many = record.execution == "graph" and record.cache == "warm"
        assert record.calls_per_sample % 16 == 0 if many else record.calls_per_sample == 1
        # From idle to idle; on the device's clock launches hide behind each other, where they are short.
        num_calls = 16 if many else 1
        expected = 7.0 if record.execution == "eager" else round(2.01 / num_calls, 5)
        assert set(record.wall_ms) == {expected}
        assert record.device_ms[-1] == (5.0 if record.execution == "eager" else 2.0 / num_calls)


def test_a_cpu_has_them_timed_eagerly(monkeypatch):
    found = Bench(monkeypatch, has_graphs=False, asynchronous=False).isolate()
    assert named(found) == {(*part, cache, "eager") for part in PARTS for cache in ("cold", "warm")}
    assert named(Bench(monkeypatch, has_graphs=False, cache_bytes=None).isolate()) == {
        (*part, "warm", "eager") for part in PARTS
    }


def test_what_is_done_is_not_timed_again(bench):
    first = bench.isolate()
    kept = [r for r in first if (r.part, r.cache, r.execution) != ("lm_head", "cold", "graph")]
    (again,) = bench.isolate(done=kept)
    assert again.identity == ("isolated", "lm_head", VOCAB_SIZE, None, "cold", "graph")
    # A part that could not be captured in an earlier session was timed eagerly.
    eagerly = [
        IsolatedRecord(*part, c.value, [1.0], [1.0], 1, "precise", 0.0) for part in PARTS for c in CacheState
    ]
    assert bench.isolate(done=eagerly) == []


def test_a_part_that_cannot_be_prepared_or_runs_out_of_memory_fails_alone(bench):
    bench.fails_to_prepare = {("verify", Execution.graph)}
    bench.fails_to_run = {("lm_head", Execution.graph)}
    found = bench.isolate()
    failures = [r for r in found if isinstance(r, FailureRecord)]
    assert {tuple(f.case) for f in failures} == {
        ("isolated", "verify", None, 1, "graph"),
        ("isolated", "verify", None, 2, "graph"),
        ("isolated", "lm_head", VOCAB_SIZE, None, "cold", "graph"),
    }
    assert {f.error for f in failures} == {"DeviceError", "RuntimeError"}
    # A graph was only tried: the part is timed eagerly.
    assert {f.was_asked_for for f in failures if f.error == "DeviceError"} == {False}
    assert {f.was_asked_for for f in failures if f.error == "RuntimeError"} == {True}
    measured = named(r for r in found if isinstance(r, IsolatedRecord))
    assert len(measured) == 2 * len(PARTS) - 1
    assert {part for part, *_, how in measured if how == "eager"} == {"verify"}


def test_a_graph_that_was_asked_for_fails_the_run(bench):
    bench.fails_to_prepare = {("verify", Execution.graph)}
    found = bench.isolate(TimingConfig(min_sample_ms=0.0, min_warmup_s=0.0, execution=Execution.graph))
    assert [f.was_asked_for for f in found if isinstance(f, FailureRecord)] == [True, True]


def test_parts_that_cannot_even_be_built_are_one_failure(bench, monkeypatch):
    def starved(*_):
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr(TorchEngine, "parts", starved)
    (failure,) = bench.isolate()
    assert failure == FailureRecord(["isolated"], "RuntimeError", "CUDA out of memory.")


def test_graphs_are_refused_where_there_are_none(monkeypatch):
    timing = TimingConfig(execution=Execution.graph)
    with pytest.raises(DeviceError, match="has no CUDA graphs"):
        Bench(monkeypatch, has_graphs=False).isolate(timing)


def test_records_keep_what_was_known_of_a_series(bench):
    record = next(r for r in bench.isolate() if r.part == "layer")
    assert record.warmup_stable and record.num_warmup >= 16
    assert len(record.block_start_s) == len(record.device_ms) // 5 == 6
    assert record.block_start_s == sorted(record.block_start_s)
    # The scripted clock began at zero.
    assert 0 < record.block_start_s[0] - offset_s() < 10


def test_a_warm_up_that_did_not_settle_is_said(monkeypatch):
    timing = replace(EAGERLY, max_warmup_s=0.02)
    records = Bench(monkeypatch).isolate(timing)
    # Three calls of 7 ms are fewer than two windows of eight.
    assert {r.warmup_stable for r in records} == {False}
