"""A decoder-LM draft alone on a GPU: the shape of Gemma 3 270M with random weights, which cost the same."""

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from bench.config import TimingConfig
from bench.config.run import Execution
from bench.cost.shape import DraftShape
from bench.decoding.parts import draft_parts
from bench.device.graphs import capture
from bench.measure.isolated import time_parts
from bench.models.decoder_lm import DecoderLM
from bench.records import IsolatedRecord
from bench.records.store import Done
from tests.cost.test_gemma3 import GEMMA_270M

pytestmark = pytest.mark.gpu

SIZES = (1024, 262144)


@pytest.fixture(scope="module")
def parts(device):
    sizes = {key: value for key, value in GEMMA_270M.items() if key not in ("architectures", "model_type")}
    torch.manual_seed(0)
    with device.torch_device:
        model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes)).to(torch.bfloat16).eval().requires_grad_(False)
    draft = DecoderLM(model, DraftShape.from_config(GEMMA_270M, "gemma3-270m"))
    return draft_parts(draft, {size: draft.head_of_size(size) for size in SIZES}, 256, seed=0)


def test_graphs_compute_what_the_parts_compute(device, parts):
    for key, part in parts.items():
        expected = part().clone()
        graph = capture(device, part)
        graph()
        device.synchronize()
        torch.testing.assert_close(graph.output, expected, rtol=2e-2, atol=2e-2, msg=key.label)


def test_a_whole_head_takes_longer_than_a_trimmed_one(device, parts):
    heads = {key: part for key, part in parts.items() if key.part == "lm_head"}
    times = {}
    # As graphs: eagerly a small head takes as long as its launch.
    for record in time_parts(device, heads, TimingConfig(budget_s=1.0, execution=Execution.graph), 0, Done()):
        assert isinstance(record, IsolatedRecord)
        times[record.vocab_size, record.cache] = float(np.median(record.device_ms))
    print(f"\n{device.name}: {times}")
    for cache in ("cold", "warm"):
        assert times[262144, cache] > 4 * times[1024, cache]
