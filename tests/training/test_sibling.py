"""The trainer of a decoder LM: what it sees is what a real draft sees."""

import pytest
import torch
from safetensors.torch import load_file

from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.models.target import load_target
from bench.training.collect import CONTEXT_TOKENS
from bench.training.data import Sequence, make_batch
from bench.training.sibling import Sibling, SiblingObjective
from tests.conftest import HIDDEN, VOCAB_SIZE
from tests.zoo.targets import Row

NUM_CONTEXT, NUM_ANSWER = 7, 9


@pytest.fixture
def folder(tmp_path):
    Row("target", "llama", {"tie_word_embeddings": True}).write(tmp_path)
    return tmp_path


def weights_of(folder):
    return {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}


def made(folder, *items):
    batch = make_batch(list(items) or [sequence(seed, NUM_CONTEXT) for seed in range(2, 12)], HIDDEN)
    return Sibling(folder, mlp_size=20).begin(weights_of(folder), [batch, batch])


def sequence(seed: int, num_context: int) -> Sequence:
    generator = torch.Generator().manual_seed(seed)
    length = num_context + NUM_ANSWER
    tokens = torch.randint(2, VOCAB_SIZE, (length,), generator=generator)
    return Sequence("code", tokens, torch.randn(length - 1, HIDDEN, generator=generator), num_context)


def test_it_begins_as_the_targets_first_layers_with_the_channels_of_the_largest_weights(folder):
    target, own = weights_of(folder), made(folder).state_dict()
    for index in (0, 1):
        for name in ("self_attn.q_proj", "self_attn.o_proj", "input_layernorm", "post_attention_layernorm"):
            key = f"model.layers.{index}.{name}.weight"
            assert torch.equal(own[key], target[key])
        gate, up, down = (
            target[f"model.layers.{index}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
        )
        size = [float(gate[i].norm() * up[i].norm() * down[:, i].norm()) for i in range(48)]
        kept = sorted(sorted(range(48), key=lambda i: -size[i])[:20])
        assert torch.equal(own[f"model.layers.{index}.mlp.gate_proj.weight"], gate[kept])
        is_fitted = not torch.equal(own[f"model.layers.{index}.mlp.down_proj.weight"], down[:, kept])
        assert is_fitted is (index == 1)
    assert not any("embed" in name or "lm_head" in name for name in own)


def test_its_last_matrix_is_fitted_to_the_targets_hidden_states(folder):
    """Twenty channels fit the states of fewer places, up to the ridge."""
    item, embedding = sequence(0, NUM_CONTEXT), weights_of(folder)["model.embed_tokens.weight"]
    batch = make_batch([item], HIDDEN)
    with torch.no_grad():
        hidden = made(folder, item).read(batch, embedding)[
            0, CONTEXT_TOKENS : CONTEXT_TOKENS + NUM_ANSWER - 1
        ]
    wanted = batch.hidden[0, CONTEXT_TOKENS : CONTEXT_TOKENS + NUM_ANSWER - 1]
    alike = torch.nn.functional.cosine_similarity(hidden, wanted, dim=-1)
    assert len(alike) == NUM_ANSWER - 1 and alike.min() > 0.95


def test_every_place_of_the_training_equals_a_real_draft_read_back(folder):
    sibling, outputs = made(folder), []

    class Spy(SiblingObjective):
        def _judge(self, truth, hidden, head, depth):
            outputs.append(hidden.detach())
            return super()._judge(truth, hidden, head, depth)

    target = load_target(folder, torch.device("cpu"), torch.float32)
    items = [sequence(0, NUM_CONTEXT), sequence(1, NUM_CONTEXT + 4)]
    for parameter in sibling.parameters():
        # The file is in bfloat16.
        parameter.data = parameter.data.bfloat16().float()
    objective = Spy(sibling, target.embedding_weight, target.head_weight)
    (result,) = objective(make_batch(items, HIDDEN), torch.arange(VOCAB_SIZE))
    result.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in sibling.parameters())
    sibling.save(folder, folder / "draft", {"format": "pt"})
    draft = load_draft(folder / "draft", Placement.beside(target))
    assert draft.head_weight.data_ptr() == target.embedding_weight.data_ptr()
    assert draft.shape.num_layers == 2 and draft.shape.intermediate_size == 20
    for row, item in enumerate(items):
        with torch.inference_mode():
            first = item.num_context
            hidden = draft.prefill(item.tokens[:first], item.tokens[first : first + 1], torch.empty(0))
            for place in range(NUM_ANSWER - 1):
                torch.testing.assert_close(outputs[0][row, place], hidden[0, 0], atol=1e-4, rtol=1e-4)
                hidden = draft.step(item.tokens[first + place + 1 : first + place + 2], hidden)
    assert items[0].num_context < CONTEXT_TOKENS
