"""Rotary embedding and batch-1 attention, shared by the target's lean decoder and the draft."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotary_tables(head_dim: int, theta: float, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cos and sin `(length, head_dim)` in the device and dtype of `like` (RoFormer, arXiv 2104.09864)."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos().to(like), angles.sin().to(like)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates `(..., n, head_dim)` by tables `(n, head_dim)`, halves paired as in Llama."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def grouped_attention(q: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention of the last n positions over all `length` positions.

    Query heads that share a key-value head are laid side by side as rows, so that keys and values are
    read once and never repeated in memory.

    Args:
        q: `(1, heads, n, head_dim)`.
        keys: `(1, kv_heads, length, head_dim)`; the last n are the queries' own positions.
        values: as `keys`.
        scale: of the scores; 1/sqrt(head_dim) unless given.

    Returns:
        `(1, heads, n, head_dim)`.
    """
    heads, n, kv_heads, length = q.shape[1], q.shape[2], keys.shape[1], keys.shape[2]
    if n == length and n > 1:
        return F.scaled_dot_product_attention(
            q, keys, values, is_causal=True, scale=scale, enable_gqa=heads != kv_heads
        )
    groups = heads // kv_heads
    rows = q.reshape(1, kv_heads, groups * n, q.shape[3])
    mask = None
    if n > 1:
        mask = torch.ones(n, length, dtype=torch.bool, device=q.device).tril(length - n)
        mask = mask.repeat(groups, 1)
    attended = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale)
    return attended.reshape(q.shape)
