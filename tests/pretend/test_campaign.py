"""A whole domain on a pretend GPU: replays, probes, plan, decodes, energy windows, parts, baseline."""

from collections import Counter

import numpy as np

from bench.config import MeasureConfig, TimingConfig
from bench.decoding.torch_engine import TorchEngine
from bench.device import open_device
from bench.device.graphs import shared_capture
from bench.measure.campaign import Campaign
from bench.measure.workload import EncodedPrompt, Workload
from bench.records import DecodeRecord, FailureRecord, ProbeRecord
from tests.conftest import VOCAB_SIZE
from tests.pretend.conftest import pretend_pair

SIZES = [20, VOCAB_SIZE]
MEASURE = {
    "draft_lengths": [1, 2], "num_prompts": 1, "max_new_tokens": 6, "warmup_rounds": 1,
    "probe_rounds": 2, "bootstrap_samples": 100,
}  # fmt: skip
TIMING = TimingConfig(
    budget_s=0.002, min_samples=6, max_samples=6, max_warmup_s=0.002, min_warmup_s=0.0, samples_per_block=6
)


def workload():
    rng = np.random.default_rng(0)
    prompts = [EncodedPrompt(f"p{i}", rng.integers(2, VOCAB_SIZE, 12).tolist()) for i in range(1)]
    orders = {"d": np.arange(VOCAB_SIZE), "pooled": np.arange(VOCAB_SIZE)[::-1].copy()}
    return Workload("d", prompts, "d", orders, 40)


def measured(as_graphs):
    """What a run measures of one domain."""
    device = open_device("cuda:0")
    target, draft = pretend_pair()
    capture = shared_capture(device) if as_graphs else None
    engine = TorchEngine(device, target, draft, MEASURE["max_new_tokens"], 0, None, capture)
    campaign = Campaign(engine, SIZES, MeasureConfig(**MEASURE))
    work = workload()
    found = [*campaign.run([work]), *campaign.run_steadily(work, 0.01)]
    if not as_graphs:
        # Parts and the reference are the same however rounds are executed.
        found += [*campaign.isolate(work, device, TIMING), *campaign.compare_with_reference(work)]
    return found


def test_a_domain_is_measured_and_graphs_give_the_same_answers(gpu):
    answers = []
    for as_graphs in (False, True):
        gpu.forget()
        records = measured(as_graphs)
        assert not [record for record in records if isinstance(record, FailureRecord)]
        kinds = Counter(type(record).__name__ for record in records)
        assert {"DecodeRecord", "ProbeRecord", "PlanRecord", "SteadyRecord"} <= set(kinds)
        assert as_graphs or {"IsolatedRecord", "BaselineRecord"} <= set(kinds)
        assert gpu.marks_elsewhere == 0
        probes = [r for r in records if isinstance(r, ProbeRecord) and r.draft_length]
        assert all(("draft" in probe.laps_ms) == as_graphs for probe in probes)
        decodes = [record for record in records if isinstance(record, DecodeRecord)]
        answers.append({(r.prompt_id, r.variant): (r.token_ids, r.accepted) for r in decodes})
    eager, graph = answers
    both = eager.keys() & graph.keys()
    assert both and all(len(tokens) > 1 for tokens, _ in graph.values())
    assert all(eager[case] == graph[case] for case in both)
