"""On a pretend GPU whose times are known exactly, what a run chooses is what is fastest there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.config import AdviceRule, MeasureConfig
from bench.decoding.torch_engine import TorchEngine
from bench.device import open_device
from bench.device.graphs import shared_capture
from bench.measure.campaign import Campaign
from bench.measure.workload import EncodedPrompt, Workload
from bench.models.eagle import EagleDraft
from bench.models.target import Target
from bench.records import PlanRecord, ProbeRecord, ReplayRecord
from bench.surface.choice import OPTIMUM
from bench.surface.latency import RoundLatency
from bench.surface.predict import predict
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import HIDDEN, VOCAB_SIZE, make_body, make_llama
from tests.pretend.cuda import CUDA, Costs, pretend_cuda

SIZES, DRAFT_LENGTHS, NUM_PROMPTS, MAX_NEW = [8, 28, VOCAB_SIZE], [1, 2], 2, 12

# The whole head takes ten times the smallest kernel. Launches take less than any kernel, or more than most.
HOST_AHEAD = Costs(launch=0.2, view=0.05, graph_launch=1.0, wait=2.0, bytes_per_us=620.0)
LAUNCH_BOUND = Costs(launch=12.0, bytes_per_us=620.0)


def predictable_pair():
    """A target that walks through all tokens in a fixed order, and a draft that mostly knows the next one.

    No layer does anything; the heads are associative memories of the order, too narrow to be without error.
    """
    rng = np.random.default_rng(5)
    order = rng.permutation(np.arange(2, VOCAB_SIZE))
    following = np.arange(VOCAB_SIZE)
    following[order] = np.roll(order, -1)
    model = make_llama(tie_word_embeddings=False, num_hidden_layers=2)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_(), layer.mlp.down_proj.weight.zero_()
    embedding = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=-1)
    model.model.embed_tokens.weight.copy_(embedding)
    head = torch.zeros(VOCAB_SIZE, HIDDEN)
    head[following] = embedding
    model.lm_head.weight.copy_(head)
    target = Target(model.to(CUDA), SimpleNamespace(eos_token_id=1, all_special_ids=[0, 1]))
    target.keep_features((0, 1, 2))
    body = make_body().eval().requires_grad_(False)
    body.fc.weight.zero_()
    body.fc.weight[:, :HIDDEN] = torch.eye(HIDDEN)
    for layer in body.decoder_layers:
        layer.self_attn.o_proj.weight.zero_(), layer.mlp.down_proj.weight.zero_()
    # It reads the place before the newest token, and so proposes what comes two places later.
    drafted = torch.zeros(VOCAB_SIZE, HIDDEN)
    drafted[following[following]] = embedding + 0.15 * torch.randn(VOCAB_SIZE, HIDDEN)
    vocab = DraftVocab(np.arange(VOCAB_SIZE), VOCAB_SIZE)
    body = body.to(CUDA)
    draft = EagleDraft(vocab, drafted.to(CUDA), body, target.embedding_weight, target.feature_layers)
    return target, draft, following


class Model:
    """A pretend GPU, the pair on it, and what a run measures of both."""

    def __init__(self, as_graphs):
        device = open_device("cuda:0")
        capture = shared_capture(device) if as_graphs else None
        target, draft, following = predictable_pair()
        self.engine = TorchEngine(device, target, draft, MAX_NEW, 0, None, capture)
        rng = np.random.default_rng(1)
        prompts = [
            EncodedPrompt(f"p{i}", rng.integers(2, VOCAB_SIZE, 10).tolist()) for i in range(NUM_PROMPTS)
        ]
        # First the tokens of the answers, so that a small vocabulary covers them.
        answers = [prompt.token_ids[-1] for prompt in prompts]
        for _ in range(NUM_PROMPTS * (MAX_NEW + 2)):
            answers.append(int(following[answers[-NUM_PROMPTS]]))
        order = np.array(list(dict.fromkeys([*answers, *range(VOCAB_SIZE)])))
        measure = MeasureConfig(DRAFT_LENGTHS, NUM_PROMPTS, MAX_NEW, 1, probe_rounds=3, bootstrap_samples=100)
        work = Workload("d", prompts, "d", {"d": order}, 40)
        self.prompts = prompts
        self.records = list(Campaign(self.engine, SIZES, measure, AdviceRule.fastest).run([work]))
        self.engine.use_order(order)

    def of(self, kind):
        return [record for record in self.records if isinstance(record, kind)]

    def chosen(self):
        (plan,) = self.of(PlanRecord)
        return next(item.variant for item in plan.planned if OPTIMUM in item.role)

    def true_ms(self, variant):
        """Of all answers."""
        took_ms = 0.0
        for prompt in self.prompts:
            prepared = self.engine.prepare(prompt.token_ids)
            self.engine.load(variant, [prepared])
            took_ms += self.engine.decode(prepared, variant).decode_ms
        return took_ms

    def surface(self, laps_overlap):
        """Predictions of the probes before the plan."""
        replayed = {r.prompt_id: r.replayed() for r in self.of(ReplayRecord)}
        probes = [probe for probe in self.of(ProbeRecord) if not probe.is_check]
        latency = RoundLatency.from_probes(probes, laps_overlap=laps_overlap)
        return predict(replayed, latency, VOCAB_SIZE, [])


@pytest.mark.parametrize(
    ("costs", "as_graphs", "least_gain", "most_gain"),
    [(HOST_AHEAD, False, 1.01, 1.3), (LAUNCH_BOUND, False, 0.98, 1.003), (LAUNCH_BOUND, True, 1.01, 1.3)],
    ids=["host ahead", "launch-bound", "launch-bound, as graphs"],
)
def test_the_chosen_variant_is_the_fastest_and_gains_what_it_should(costs, as_graphs, least_gain, most_gain):
    with pretend_cuda(costs):
        model = Model(as_graphs)
        assert model.engine.laps_overlap is not as_graphs
        surface, chosen = model.surface(model.engine.laps_overlap), model.chosen()
        true_ms = {Variant(k, gamma): 0.0 for k in {*SIZES, 16, chosen.vocab_size} for gamma in DRAFT_LENGTHS}
        for variant in true_ms:
            true_ms[variant] = model.true_ms(variant)
            predicted_ms = surface.num_tokens / surface.at(variant) * 1e3
            assert predicted_ms == pytest.approx(true_ms[variant], rel=0.03), variant
    assert true_ms[chosen] <= 1.005 * min(true_ms.values())
    full_ms = min(true_ms[Variant(VOCAB_SIZE, gamma)] for gamma in DRAFT_LENGTHS)
    # Launches hide what a smaller head saves, and graphs show it again.
    assert least_gain < full_ms / min(true_ms.values()) < most_gain
