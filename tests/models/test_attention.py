import pytest
import torch
import torch.nn.functional as F

from bench.models.layers import (
    KVCache,
    RotaryTable,
    StaticCache,
    apply_rotary,
    grouped_attention,
)
from bench.models.rope import Rope


@pytest.mark.parametrize("num_new", [1, 2, 5, 9])
def test_grouped_attention_is_causal_attention_with_repeated_heads(num_new):
    torch.manual_seed(0)
    length = 9
    q = torch.randn(1, 6, num_new, 8)
    k, v = torch.randn(1, 2, length, 8), torch.randn(1, 2, length, 8)
    mask = torch.ones(num_new, length, dtype=torch.bool).tril(length - num_new)
    expected = F.scaled_dot_product_attention(
        q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), attn_mask=mask
    )
    torch.testing.assert_close(grouped_attention(q, k, v), expected)


def test_rotary_keeps_lengths_and_depends_on_distance_only():
    cos, sin = RotaryTable(Rope(), 8, 16, torch.zeros(1)).upto(32)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(i: int, j: int) -> torch.Tensor:
        rotated_q = apply_rotary(q, cos[i : i + 1], sin[i : i + 1])
        return (rotated_q * apply_rotary(k, cos[j : j + 1], sin[j : j + 1])).sum()

    torch.testing.assert_close(score(5, 2), score(20, 17))
    torch.testing.assert_close(apply_rotary(q, cos[7:8], sin[7:8]).norm(), q.norm())


@torch.inference_mode()
@pytest.mark.parametrize("num_new", [1, 3, 6])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_a_cache_of_fixed_room_attends_as_one_that_grows(num_new, scale):
    growing, static = KVCache(2), StaticCache(2, 2, 8, 32, torch.zeros(1))
    held = [(torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)) for _ in range(2)]
    for layer, states in enumerate(held):
        growing.update(*states, layer)
    static.load(growing, 9)
    # What was drafted and not accepted is overwritten, and not seen before that.
    static.keys[:, :, :, 9:].normal_()
    ours, theirs = static.window(num_new), growing.window(num_new)
    table = torch.arange(40.0)[:, None]
    assert torch.equal(ours.rows(table), theirs.rows(table)) and ours.reach == 32
    for layer in range(2):
        q = torch.randn(1, num_new, 6, 8).transpose(1, 2)
        k, v = (torch.randn(1, 2, num_new, 8) for _ in range(2))
        torch.testing.assert_close(ours.attend(layer, q, k, v, scale), theirs.attend(layer, q, k, v, scale))
