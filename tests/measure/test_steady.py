"""Windows of steady decoding: their order, their phases, and what is left out."""

import math

import pytest

from bench.config import MeasureConfig
from bench.decoding.torch_engine import TorchEngine
from bench.device import CpuDevice
from bench.measure.campaign import Campaign
from bench.measure.session import _wait_for_phase, in_windows
from bench.measure.workload import EncodedPrompt, Workload
from bench.records import DecodeRecord, SteadyRecord
from bench.records.store import Done
from bench.variant import Variant

PLANNED = [Variant(97, 0), Variant(97, 2), Variant(40, 2), Variant(40, 3)]


def test_every_variant_has_two_windows_that_lie_about_the_same_middle():
    order = in_windows(PLANNED, 0, "code")
    assert sorted(order) == sorted([(v, w) for v in PLANNED for w in (0, 1)])
    places = {v: sum(i for i, (other, _) in enumerate(order) if other == v) for v in PLANNED}
    assert set(places.values()) == {7}  # of 0 to 7, whatever the order
    assert in_windows(PLANNED, 0, "code") == order
    firsts = {tuple(v for v, w in in_windows(PLANNED, seed, "code") if w == 0) for seed in range(20)}
    assert len(firsts) > 5 and any(first[0] != Variant(97, 0) for first in firsts)


@pytest.mark.parametrize(("window", "phase_s"), [(0, 0.0), (1, 0.05)])
def test_windows_begin_at_other_phases_of_the_sensors(window, phase_s):
    now = 1000.037

    def sleep(seconds):
        nonlocal now
        assert 0 <= seconds < 0.1
        now += seconds

    start_s = _wait_for_phase(window, lambda: now, sleep)
    assert (start_s - phase_s) / 0.1 == pytest.approx(round((start_s - phase_s) / 0.1), abs=1e-6)


@pytest.fixture
def measured(target, draft):
    """A campaign that has proved two prompts, and how it goes on."""
    engine = TorchEngine(CpuDevice(), target, draft, 12, seed=0)
    config = MeasureConfig(draft_lengths=[1, 2], num_prompts=2, max_new_tokens=12, bootstrap_samples=100)
    prompts = [EncodedPrompt(f"p{i}", [5 + i, 6, 7, 8]) for i in range(2)]
    workload = Workload("code", prompts, "code", {"code": draft.vocab.target_ids}, 40)

    def make(done=None):
        campaign = Campaign(engine, [40, 97], config, done=done)
        return campaign, list(campaign.run([workload])), workload

    return make


def test_each_planned_variant_decodes_twice_and_what_is_there_is_not_measured_again(measured):
    campaign, records, workload = measured()
    planned = {(r.vocab_size, r.draft_length) for r in records if isinstance(r, DecodeRecord)}
    steady = list(campaign.run_steadily(workload, 0.01))
    assert all(isinstance(record, SteadyRecord) for record in steady)
    assert sorted((r.vocab_size, r.draft_length, r.window) for r in steady) == sorted(
        (*variant, window) for variant in planned for window in (0, 1)
    )
    for record in steady:
        assert record.num_tokens > 0 and record.end_s - record.start_s >= 0.01
    again, repeated, _ = measured(Done([*records, *steady[1:]]))
    assert repeated == []
    assert [record.identity for record in again.run_steadily(workload, 0.01)] == [steady[0].identity]


def test_decodes_that_are_long_enough_for_the_counters_are_enough(measured):
    campaign, records, workload = measured()
    shortest_s = min(r.wall_ms for r in records if isinstance(r, DecodeRecord)) / 1e3
    assert list(campaign.run_steadily(workload, 0.01, enough_s=shortest_s)) == []
    assert list(campaign.run_steadily(workload, 0.01, enough_s=math.nextafter(shortest_s, 1.0))) != []
