"""Costs by component against torch's own counter, tensor sizes, and figures worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from bench.cost.shape import DraftKind, DraftShape, Pass, PassCost, total_cost
from bench.models.layers import grouped_attention
from tests.conftest import make_body

EAGLE = DraftShape(
    kind=DraftKind.EAGLE3,
    hidden_size=32,
    intermediate_size=48,
    num_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=97,
    draft_vocab_size=97,
    gated_mlp=True,
    tied_head=False,
    feature_size=96,
)
LLAMA = DraftShape(
    kind=DraftKind.DECODER_LM,
    hidden_size=16,
    intermediate_size=40,
    num_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=101,
    draft_vocab_size=101,
    gated_mlp=True,
    tied_head=False,
    feature_size=0,
)


def counted(work) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def weight_bytes(*modules: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


@pytest.mark.parametrize("batch", [1, 3])
def test_eagle_matrices_equal_what_torch_counts(batch):
    body, k = make_body(), 41
    layer = body.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    wide, hidden = torch.zeros(batch, 1, 64), torch.zeros(batch, 1, 32)
    parts = EAGLE.cost(Pass(1, 10, batch, dtype_bytes=4), k, with_fc=True)

    def project():
        attention.q_proj(wide), attention.k_proj(wide), attention.v_proj(wide), attention.o_proj(hidden)

    def feed_forward():
        mlp.down_proj(F.silu(mlp.gate_proj(hidden)) * mlp.up_proj(hidden))

    assert parts["fc"].flops == counted(lambda: body.fc(torch.zeros(batch, 1, 96)))
    assert parts["attention_projections"].flops == counted(project)
    assert parts["mlp"].flops == counted(feed_forward)
    assert parts["lm_head"].flops == counted(lambda: F.linear(hidden, torch.zeros(k, 32)))


def test_eagle_weights_equal_the_tensors():
    body, k = make_body(), 41
    layer = body.layers[0]
    parts = EAGLE.cost(Pass(1, 10, dtype_bytes=4), k, with_fc=True)
    norms = (layer.input_layernorm, layer.hidden_norm, layer.post_attention_layernorm, body.norm)
    assert parts["fc"].weight_bytes == weight_bytes(body.fc)
    assert parts["attention_projections"].weight_bytes == weight_bytes(layer.self_attn)
    assert parts["mlp"].weight_bytes == weight_bytes(layer.mlp)
    assert parts["norms"].weight_bytes == weight_bytes(*norms)
    assert parts["lm_head"].weight_bytes == torch.zeros(k, 32).nbytes
    del parts["lm_head"], parts["embedding"]
    assert sum(part.weight_bytes for part in parts.values()) == weight_bytes(body)


@pytest.mark.parametrize("num_tokens, context", [(1, 0), (1, 12), (4, 12)])
def test_attention_over_the_context_equals_what_torch_counts(num_tokens, context):
    q = torch.zeros(1, 4, num_tokens, 8)
    keys = torch.zeros(1, 2, context + num_tokens, 8)
    part = EAGLE.cost(Pass(num_tokens, context), 41)["attention_context"]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert part.flops == counted(lambda: grouped_attention(q, keys, keys))


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("batch, num_tokens", [(1, 1), (1, 5), (2, 5)])
def test_a_whole_decoder_lm_equals_what_torch_counts(llama, batch, num_tokens):
    ids = torch.zeros(batch, num_tokens, dtype=torch.long)
    cost = total_cost(LLAMA.cost(Pass(num_tokens, 0, batch, dtype_bytes=4)))
    assert cost.flops == counted(lambda: llama(ids))
    embedding = batch * num_tokens * 16 * 4
    assert cost.weight_bytes == weight_bytes(llama) - weight_bytes(llama.model.embed_tokens) + embedding


def test_keys_and_values_equal_the_cache(llama):
    part = LLAMA.cost(Pass(2, 7, batch=3, dtype_bytes=4))["attention_context"]
    with torch.no_grad():
        cache = llama(torch.zeros(3, 9, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    written = held * 2 // 9
    assert part.kv_bytes == held + written


def test_activations_of_head_and_selection_equal_the_tensors():
    parts = EAGLE.cost(Pass(batch=3, dtype_bytes=2), 41)
    hidden, logits = torch.zeros(3, 32, dtype=torch.bfloat16), torch.zeros(3, 41, dtype=torch.bfloat16)
    ids = torch.zeros(3, dtype=torch.long)
    assert parts["lm_head"].activation_bytes == hidden.nbytes + logits.nbytes
    # the best of the draft's own ids, then read, shifted by its offset and written
    moved = logits.nbytes + 4 * ids.nbytes
    assert parts["selection"] == PassCost(activation_bytes=moved, num_launches=2)
    whole = EAGLE.cost(Pass(batch=3, dtype_bytes=2), 97)["selection"]
    assert whole == PassCost(activation_bytes=3 * 97 * 2 + ids.nbytes, num_launches=1)


def test_activations_of_a_layer_by_hand():
    parts = EAGLE.cost(Pass(dtype_bytes=1), 41)
    # q, k and v read 64 each and write 32, 16, 16; o reads 32, writes 32; sum 3 * 32; concatenation 64 + 64
    assert parts["attention_projections"].activation_bytes == 192 + 64 + 64 + 96 + 128
    # gate and up read 32 and write 48; silu 48 + 48; product 3 * 48; down 48 + 32; sum 3 * 32
    assert parts["mlp"].activation_bytes == 160 + 96 + 144 + 80 + 96
    assert parts["norms"].activation_bytes == 4 * 2 * 32
    # rotary over queries and keys, read and written; queries in, attended out
    assert parts["attention_context"].activation_bytes == 2 * (32 + 16) + 64


def test_launches_of_one_eagle_step():
    parts = EAGLE.cost(Pass(context_length=5))
    launches = {name: part.num_launches for name, part in parts.items()}
    assert launches == {
        "embedding": 1,
        "norms": 4,
        "attention_projections": 6,
        "attention_context": 13,
        "mlp": 6,
        "lm_head": 1,
        "selection": 1,
    }


TABLE = [
    # H, MLP, heads, KV heads, V; fc, attention, MLP, head, total in MFLOPs; share; R(k)
    (
        (4096, 14336, 32, 8, 128256),
        (100.663, 134.218, 352.322, 1050.673, 1637.876),
        0.6415,
        {32000: 0.4814, 13264: 0.5751, 4096: 0.6210},
    ),
    (
        (576, 1536, 9, 3, 49152),
        (1.991, 2.875, 5.308, 56.623, 66.798),
        0.8477,
        {8192: 0.7064, 4096: 0.7770, 1024: 0.8300},
    ),
]


def eagle(hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int) -> DraftShape:
    values = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }
    return DraftShape.from_config(values, "config.json")


def published_flops(shape: DraftShape, vocab_size: int) -> dict[str, int]:
    parts = shape.cost(Pass(), vocab_size, with_fc=True)
    return {name: parts[name].flops for name in ("fc", "attention_projections", "mlp", "lm_head")}


@pytest.mark.parametrize("sizes, mflops, share, reductions", TABLE)
def test_matrices_of_known_drafts_are_those_of_the_paper(sizes, mflops, share, reductions):
    shape, vocab = eagle(*sizes), sizes[-1]
    full = published_flops(shape, vocab)
    total = sum(full.values())
    assert [round(part / 1e6, 3) for part in (*full.values(), total)] == list(mflops)
    assert round(full["lm_head"] / total, 4) == share
    for k, expected in reductions.items():
        assert round(1 - sum(published_flops(shape, k).values()) / total, 4) == expected


def test_without_fc_the_head_of_llama_3_1_8b_is_683_permille():
    full = published_flops(eagle(*TABLE[0][0]), 128256)
    assert round(full["lm_head"] / (sum(full.values()) - full["fc"]), 3) == 0.683


def test_a_chained_step_has_no_fc():
    assert "fc" not in EAGLE.cost(Pass(), 41)
    assert "fc" not in LLAMA.cost(Pass(), 41, with_fc=True)
