"""A draft step over k, a verification over gamma, mapping, and a report, as a user's run has them."""

import io

import numpy as np
import pytest
from rich.console import Console

from bench.config import PairConfig
from bench.decoding.engine import PartKey
from bench.decoding.torch_engine import TorchEngine
from bench.device import open_device
from bench.report.tasks import render
from bench.runs.pair import load_pair
from bench.variant import HEAD, LAYER, SELECT, VERIFY
from bench.vocab.draft_vocab import DraftVocab
from tests.report.synthetic import write_run

SIZES, DRAFT_LENGTHS, FULL = [1024, 4096, 16384, 49152], [1, 3, 5], 49152


@pytest.fixture(scope="module")
def parts():
    device = open_device("auto")
    config = PairConfig("smollm2-135m", "smollm2-135m-instruct", "smollm2-135m-eagle3")
    pair = load_pair(config, device, "auto")
    engine = TorchEngine(device, pair.target, pair.draft, 8, seed=0)
    return engine.parts(engine.prepare(list(range(100, 164))), SIZES, DRAFT_LENGTHS)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_draft_step(benchmark, parts, size):
    benchmark.group = f"k = {size:,}"
    step = [parts[PartKey(LAYER)], *(parts[PartKey(part, vocab_size=size)] for part in (HEAD, SELECT))]
    benchmark(lambda: [part() for part in step])


@pytest.mark.slow
@pytest.mark.parametrize("gamma", DRAFT_LENGTHS)
def test_verification(benchmark, parts, gamma):
    benchmark.group = "verification"
    benchmark(parts[PartKey(VERIFY, num_tokens=gamma + 1)])


@pytest.mark.parametrize("size", SIZES)
def test_mapping(benchmark, size):
    """Offsets and mask of a vocabulary, as checkpoints have them."""
    benchmark.group = f"k = {size:,}"
    ids = np.sort(np.random.default_rng(0).permutation(FULL)[:size])
    vocab = DraftVocab(ids, FULL)
    offsets, mask = benchmark(lambda: (vocab.d2t, vocab.t2d))
    assert np.array_equal(np.arange(size) + offsets, ids) and mask.sum() == size


def test_report(benchmark, tmp_path):
    benchmark.group = "report"
    folder = write_run(tmp_path / "results" / "runs" / "a")
    console = Console(file=io.StringIO())
    benchmark.pedantic(render, (folder, console), rounds=6)
