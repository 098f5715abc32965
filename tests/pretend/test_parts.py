"""Parts on their own on a pretend GPU: what a graph of them costs, without its launch."""

import numpy as np
import pytest
import torch

from bench.config import TimingConfig
from bench.config.run import Execution
from bench.decoding.engine import PartKey
from bench.device import open_device
from bench.measure.isolated import time_parts
from bench.records.store import Done
from bench.variant import SELECT
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
