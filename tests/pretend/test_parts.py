"""Parts on their own on a pretend GPU: what a graph of them costs, without its launch."""

import numpy as np
import pytest
import torch

from bench.config import TimingConfig
from bench.config.run import Execution
from bench.decoding.engine import PartKey
from bench.decoding.torch_engine import TorchEngine
from bench.device import CpuDevice, open_device
from bench.device.graphs import shared_capture
from bench.measure.isolated import time_parts
from bench.measure.launches import LaunchFacts, launch_facts
from bench.records.store import Done
from bench.variant import SELECT, Variant
from tests.pretend.conftest import pretend_pair
from tests.pretend.cuda import CUDA

NUM_SAMPLES = 6


def test_a_graph_takes_its_kernels_with_a_cold_and_a_warm_cache_and_no_launch(gpu):
    device, x = open_device("cuda:0"), torch.ones(3, device=CUDA)

    def two_kernels():
        x.add_(1).mul_(2)

    timing = TimingConfig(
        execution=Execution.graph, min_samples=NUM_SAMPLES, max_samples=NUM_SAMPLES, samples_per_block=3,
        min_warmup_s=0.0, max_warmup_s=0.01, min_sample_ms=0.0,
    )  # fmt: skip
    cold, warm = sorted(
        time_parts(device, {PartKey(SELECT, vocab_size=9): two_kernels}, timing, 0, Done()),
        key=lambda record: record.cache,
    )
    kernels_us = 2 * (gpu.costs.kernel + gpu.costs.graph_gap)
    # Launched one by one a graph of two kernels would take its launch of 8 us.
    assert 1e3 * np.array(cold.device_ms) == pytest.approx(kernels_us, rel=0.05)
    assert 1e3 * np.array(warm.device_ms) == pytest.approx(kernels_us, rel=0.05)
    assert (cold.calls_per_sample, warm.calls_per_sample) == (1, 16)
    assert gpu.marks_elsewhere == 0


@pytest.mark.parametrize("as_graphs", [False, True])
def test_the_share_of_a_round_in_which_the_device_works(gpu, as_graphs):
    device = open_device("cuda:0")
    target, draft = pretend_pair()
    capture = shared_capture(device) if as_graphs else None
    engine = TorchEngine(device, target, draft, 16, 0, None, capture)
    prepared, variant = engine.prepare([5, 9, 33, 7]), Variant(20, 3)
    found = launch_facts(device, engine, prepared, variant, 4)
    assert found.launch_us == pytest.approx(gpu.costs.launch, rel=0.01) and found.reason is None
    assert (found.vocab_size, found.draft_length) == (20, 3)
    assert found.busy_share == pytest.approx(found.kernels_ms / found.round_ms)
    # Loops launch a kernel of 2 us in 5 us. Of graphs the host only launches two, and reads what they found.
    low, high = (0.85, 1.0) if as_graphs else (0.25, 0.45)
    assert low < found.busy_share < high
    per_round = []
    for num_rounds in (1, 2):
        gpu.forget()
        engine.queued_rounds_ms(prepared, variant, lambda: None, num_rounds)
        per_round.append((gpu.num_waits, gpu.num_replays, gpu.num_launches))
    assert as_graphs == (per_round[1][1] - per_round[0][1] == 2)
    # The host reads nothing between rounds.
    assert per_round[1][0] == per_round[0][0]


def test_a_device_that_does_not_run_behind_its_host_has_no_launches():
    found = launch_facts(CpuDevice(), None, None, Variant(20, 3), 4)
    assert found == LaunchFacts(reason="a call on this device returns when its work is done")
