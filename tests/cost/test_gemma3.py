"""Gemma 3 as a draft: figures by hand for the 270M model, and torch's own count on a small random one."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from bench.cost.shape import DraftKind, DraftShape, Pass, total_cost

GEMMA_270M = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262144,
}


@pytest.fixture(scope="module")
def model() -> Gemma3ForCausalLM:
    config = Gemma3TextConfig(
        vocab_size=101,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        sliding_window=32,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return Gemma3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def shape(model) -> DraftShape:
    return DraftShape.from_config(model.config.to_dict(), "config.json")


def weight_bytes(*modules: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def test_the_270m_model_by_hand():
    shape = DraftShape.from_config(GEMMA_270M, "config.json")
    assert shape.kind is DraftKind.DECODER_LM and shape.tied_head and shape.gated_mlp
    flops = shape.token_flops(262144)
    # 18 layers; q and o are 640 x 1024, k and v 640 x 256; gate, up and down 640 x 2048.
    assert flops.attention == 18 * 2 * 640 * (2 * 1024 + 2 * 256)
    assert flops.mlp == 18 * 2 * 3 * 640 * 2048
    assert flops.lm_head == 2 * 640 * 262144
    assert (flops.fc, flops.total) == (0, 536_084_480)
    assert round(flops.lm_head_share, 4) == 0.6259
    reduction = shape.latency_reduction(np.array([512, 8192, 131072]))
    assert [round(r, 4) for r in reduction.tolist()] == [0.6247, 0.6064, 0.3130]


@pytest.mark.parametrize("batch, num_tokens", [(1, 1), (1, 5), (2, 5)])
def test_a_whole_pass_equals_what_torch_counts(model, shape, batch, num_tokens):
    ids = torch.zeros(batch, num_tokens, dtype=torch.long)
    cost = total_cost(shape.cost(Pass(num_tokens, 0, batch, dtype_bytes=4)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    assert cost.flops == counter.get_total_flops()


def test_one_step_on_a_context_equals_what_torch_counts(model, shape):
    with torch.no_grad():
        cache = model(torch.zeros(1, 9, dtype=torch.long), use_cache=True).past_key_values
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    parts = shape.cost(Pass(1, 9, dtype_bytes=4), 101)
    assert total_cost(parts).flops == counter.get_total_flops()
    # 9 positions held, the step's own written, and all ten read.
    assert parts["attention_context"].kv_bytes == held // 9 * 11
    assert parts["embedding"].flops == parts["norms"].flops == parts["selection"].flops == 0


def test_weights_equal_the_tensors_but_for_norms_of_single_heads(model, shape):
    parts = shape.cost(Pass(dtype_bytes=4), 101)
    layers = model.model.layers
    attention = [layer.self_attn for layer in layers]
    head_norms = [norm for part in attention for norm in (part.q_norm, part.k_norm)]
    norms = [norm for layer in layers for name, norm in layer.named_children() if "layernorm" in name]
    assert parts["norms"].weight_bytes == weight_bytes(*norms, model.model.norm)
    assert parts["norms"].num_launches == 4 * 3 + 1
    projections = weight_bytes(*attention) - weight_bytes(*head_norms)
    assert parts["attention_projections"].weight_bytes == projections
    assert parts["mlp"].weight_bytes == weight_bytes(*(layer.mlp for layer in layers))
    # Tied, and still read: the whole head is the embedding, a trimmed one its own copy.
    assert parts["lm_head"].weight_bytes == weight_bytes(model.lm_head)
    assert shape.cost(Pass(dtype_bytes=4), 7)["lm_head"].weight_bytes == torch.zeros(7, 16).nbytes
