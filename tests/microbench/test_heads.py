"""How the draft's parts scale, as ratios in one run: `make microbench`."""

import numpy as np
import pytest
import torch

from bench.models.draft import DraftHead
from bench.models.kernels import PackedLinear

HIDDEN, VOCAB_SIZE = 576, 49152


@pytest.fixture(scope="module")
def weight():
    return torch.randn(VOCAB_SIZE, HIDDEN, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [49152, 16384, 4096, 1024])
@torch.inference_mode()
def test_lm_head(benchmark, weight, size):
    ids = torch.from_numpy(np.arange(size))
    head, hidden = DraftHead(weight[:size].contiguous(), ids), torch.randn(1, 1, HIDDEN)
    chosen = benchmark(lambda: head.select(head.logits(hidden)))
    assert chosen.shape == (1, 1)


@pytest.mark.parametrize("kernel", ["packed", "stock"])
@pytest.mark.parametrize("rows", [1, 4])
@torch.inference_mode()
def test_verification_head(benchmark, weight, kernel, rows):
    x = torch.randn(1, rows, HIDDEN)
    packed = PackedLinear(weight)
    layer = packed if kernel == "packed" else lambda x: torch.nn.functional.linear(x, weight)
    logits = benchmark(layer, x)
    assert logits.shape == (1, rows, VOCAB_SIZE)
