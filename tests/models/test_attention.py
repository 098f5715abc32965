import pytest
import torch
import torch.nn.functional as F

from bench.models.layers import RotaryTable, apply_rotary, grouped_attention
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
