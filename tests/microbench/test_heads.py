"""How the draft's parts scale, as ratios in one run: `make microbench`."""

import numpy as np
import pytest
import torch

from bench.device import default_dtype, open_device
from bench.models.draft import DraftHead
from bench.models.kernels import PackedLinear

HIDDEN, VOCAB_SIZE = 576, 49152


@pytest.fixture(scope="module")
def device():
    return open_device("auto")


@pytest.fixture(scope="module")
def weight():
    return torch.randn(VOCAB_SIZE, HIDDEN, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [49152, 16384, 4096, 1024])
@torch.inference_mode()
def test_lm_head_and_selection(benchmark, device, weight, size):
    benchmark.group = f"k = {size:,}"
    like = {"device": device.torch_device, "dtype": default_dtype(device)}
    ids = torch.from_numpy(np.arange(size)).to(device.torch_device)
    head, hidden = DraftHead(weight[:size].to(**like).contiguous(), ids), torch.randn(1, 1, HIDDEN).to(**like)
    chosen = benchmark(lambda: head.select(head.logits(hidden)))
    assert chosen.shape == (1, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="weights are packed for CPUs alone")
@pytest.mark.parametrize("kernel", ["packed", "stock"])
@pytest.mark.parametrize("rows", [1, 4])
@torch.inference_mode()
def test_verification_head(benchmark, weight, kernel, rows):
    benchmark.group = f"LM head of the target, {rows} tokens"
    x = torch.randn(1, rows, HIDDEN)
    packed = PackedLinear(weight)
    layer = packed if kernel == "packed" else lambda x: torch.nn.functional.linear(x, weight)
    logits = benchmark(layer, x)
    assert logits.shape == (1, rows, VOCAB_SIZE)
