"""Decoder layers at batch 1 on a CPU, as four matrix products each and four compiled functions between them.

Called one by one, the operations of a layer are about 30, and each costs the host as much as a small matrix
product. The functions are in `fused_kernels.py`; this gives them what they need, for layers that are RMSNorm,
rotary attention over all positions, and SwiGLU. They read and write memory that stays where it is: to ask
torch for memory takes longer than most of them.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import one_line
from bench.models.kernels import MOST_FUSED_ROWS, RmsNorm, joined
from bench.models.layers import InPlaceLayer, KVCache, TokenCache, causal_mask, grouped_attention

# Products of attention (heads x new tokens x positions x head_dim) that one core finishes while torch would
# still begin its calls: 50 us. Beyond them torch attends, on all cores.
_MOST_PRODUCTS = 2**20


def fused_obstacle(weight: Tensor, layers: Iterable[Any]) -> str | None:
    """Why decoder layers cannot be fused; None where they can. It compiles what they need.

    Args:
        weight: one of the model's.
        layers: with `self_attn` and `mlp`.
    """
    if weight.device.type != "cpu":
        return f"the weights are on {weight.device}"
    if weight.dtype not in (torch.bfloat16, torch.float32):
        return f"the weights are in {str(weight.dtype).removeprefix('torch.')}"
    if not all(joined(layer.self_attn.q_proj) and joined(layer.mlp.gate_proj) for layer in layers):
        return "matrices that read the same input are not of the same kind"
    if not find_spec("numba"):
        return "numba is not installed"
    try:
        fused_ops(weight.dtype)
    except Exception as error:  # a compiler and its cache fail in many ways
        return f"numba cannot compile here ({one_line(error)[:200]})"
    return None


def takes(num_new: int, cache: TokenCache) -> bool:
    """Whether fused layers run a pass over so many new tokens: on what an earlier pass left in a cache."""
    if num_new > MOST_FUSED_ROWS or type(cache) is not KVCache or torch.compiler.is_compiling():
        return False
    return cache.length > 0


@lru_cache(maxsize=2)
def fused_ops(dtype: torch.dtype) -> "FusedOps":
    """The functions for one dtype; compiled when they are first asked for."""
    return FusedOps(dtype)


class FusedOps:
    """The compiled functions, for tensors of one dtype.

    Attributes:
        compile_s: seconds until all could be called; the first time on a machine takes longest.
    """

    def __init__(self, dtype: torch.dtype):
        start = time.perf_counter()
        # Only where it is needed: numba takes a second to import.
        from bench.models import fused_kernels

        self.kernels: Any = fused_kernels
        self.like = np.empty(0, np.uint16 if dtype is torch.bfloat16 else np.float32)
        with torch.inference_mode():
            self._call_all(dtype)
        self.compile_s = time.perf_counter() - start

    def best(self, logits: Tensor, names: Tensor | None = None) -> Tensor:
        """The argmax `(...)` of logits `(..., V)`, or its name from `(V,)`; among equals the first."""
        logits, size = logits.contiguous(), logits.shape[-1]
        out = torch.empty(logits.shape[:-1], dtype=torch.long)
        of_names = 0 if names is None else names.data_ptr()
        self.kernels.best(self.like, logits.data_ptr(), of_names, out.data_ptr(), out.numel(), size)
        return out

    def _call_all(self, dtype: torch.dtype) -> None:
        """Compiles every function, so that none is compiled while something is timed."""
        x, ids = torch.ones(1, 1, 2, dtype=dtype), torch.zeros(1, dtype=torch.long)
        norm = RmsNorm(x[0, 0], 1.0)
        scaled = FusedNorm(self, norm)
        scaled(x)
        FusedEntry(self, x[0], norm, norm)(ids, x)
        self.best(x, ids.expand(2).contiguous())
        qkv, o_proj, gate_up, down_proj = (nn.Linear(2, size, False, dtype=dtype) for size in (6, 2, 4, 2))
        layer = LayerParts(qkv, o_proj, gate_up, down_proj, scaled, scaled)
        stack = FusedStack(self, [layer], (1, 1, 2))
        cache = KVCache(1)
        cache.layers[0].update(x[None], x[None])
        for most in (0, _MOST_PRODUCTS):
            stack.run(x, x, cache, 2 * (x[0].expand(4, 2).contiguous(),), most_products=most)


class FusedNorm:
    """RMSNorm of `(..., H)`."""

    def __init__(self, ops: FusedOps, norm: RmsNorm):
        self._norm, self._like = ops.kernels.norm, ops.like
        # Read by its address; held so that it stays there.
        self._scales = norm.weight.detach().float().contiguous()
        self.weight, self.size, self.eps = self._scales.data_ptr(), len(self._scales), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        """Any leading shape."""
        x = x.contiguous()
        out, num_rows = torch.empty_like(x), x.numel() // self.size
        self._norm(self._like, x.data_ptr(), self.weight, out.data_ptr(), num_rows, self.size, self.eps)
        return out


class FusedEntry:
    """Norms of embeddings and of hidden states side by side, as EAGLE-3 drafts read them.

    Args:
        ops: the functions.
        table: embeddings `(V, H)`.
        of_table: norm of embeddings.
        of_hidden: norm of hidden states.
    """

    def __init__(self, ops: FusedOps, table: Tensor, of_table: RmsNorm, of_hidden: RmsNorm):
        self._run, self._like, self._table = ops.kernels.embed_and_norm, ops.like, table.contiguous()
        self._left, self._right = FusedNorm(ops, of_table), FusedNorm(ops, of_hidden)

    def __call__(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """Ids `(n,)` and hidden states `(1, n, H)` to `(1, n, 2 x H)`."""
        ids, hidden, left = ids.contiguous(), hidden.contiguous(), self._left
        out = hidden.new_empty((1, len(ids), 2 * left.size))
        of_table = self._table.data_ptr(), len(self._table), ids.data_ptr(), left.weight
        of_hidden = hidden.data_ptr(), self._right.weight
        self._run(self._like, *of_table, *of_hidden, out.data_ptr(), len(ids), left.size, left.eps)
        return out


@dataclass(frozen=True)
class LayerParts:
    """What a fused layer is made of.

    Attributes:
        qkv: joined projections of what attention reads.
        o_proj: of attention's output.
        gate_up: joined projections of what the MLP reads.
        down_proj: of the MLP's output.
        mlp_norm: before the MLP; all norms have one eps.
        next_norm: of the layer's output; None where nothing reads it.
        q_norm: of queries; None without.
        k_norm: of keys, likewise.
    """

    qkv: nn.Module
    o_proj: nn.Module
    gate_up: nn.Module
    down_proj: Any
    mlp_norm: FusedNorm
    next_norm: FusedNorm | None
    q_norm: FusedNorm | None = None
    k_norm: FusedNorm | None = None

    @classmethod
    def of(
        cls, layer: Any, mlp_norm: FusedNorm, next_norm: FusedNorm | None, *qk_norms: FusedNorm
    ) -> "LayerParts":
        """Of a layer with `self_attn` and `mlp` whose linear layers are joined."""
        attention, mlp = layer.self_attn, layer.mlp
        qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up = joined(mlp.gate_proj, mlp.up_proj)
        assert qkv is not None and gate_up is not None
        outputs = gate_up.linear, mlp.down_proj
        return cls(qkv.linear, attention.o_proj, *outputs, mlp_norm, next_norm, *qk_norms)

    @property
    def at_hand(self) -> tuple[Any, ...]:
        """Modules, and addresses of the norms' weights; 0 without."""
        norms = self.mlp_norm, self.next_norm, self.q_norm, self.k_norm
        weights = (norm.weight if norm else 0 for norm in norms)
        return self.qkv, self.o_proj, self.gate_up, self.down_proj, *weights


class FusedStack:
    """Decoder layers, one behind the other.

    Args:
        ops: the functions.
        layers: first to last.
        heads: number of heads of queries, of heads of keys and values, and the width of one.
    """

    def __init__(self, ops: FusedOps, layers: Sequence[LayerParts], heads: tuple[int, int, int]):
        self._ops, self._heads, self._eps = ops, heads, layers[0].mlp_norm.eps
        self._wide = layers[0].down_proj.in_features
        # Weights are read by their addresses: held so that they stay there.
        self._layers = layers
        # One lookup for all that the loop below takes: a matrix product leaves little else in the caches.
        self._at_hand = [layer.at_hand for layer in layers]
        # By number of new tokens.
        self._memory: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def run(
        self,
        x: Tensor,
        hidden: Tensor,
        cache: KVCache,
        tables: tuple[Tensor, Tensor],
        kept: Collection[int] = (),
        most_products: int = _MOST_PRODUCTS,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """A pass of new tokens over all layers, on top of a cache.

        Args:
            x: what the first layer's attention reads `(1, n, width)`.
            hidden: what its output is added to `(1, n, H)`.
            cache: holds positions already; grows by the new ones.
            tables: rotary cos and signed sin of every position, as of `RotaryTable`.
            kept: after which layers hidden states are wanted; 1 for the first.
            most_products: of attention that is fused.

        Returns:
            Hidden states `(1, n, H)`, their norm where the last layer has a `next_norm`, else themselves, and
            those of `kept`.
        """
        kernels, like, (heads, kv_heads, head_dim) = self._ops.kernels, self._ops.like, self._heads
        add_and_norm, store_and_attend, gated = (
            kernels.add_and_norm,
            kernels.store_and_attend,
            kernels.gated,
        )
        num_new, start, hidden = x.shape[1], cache.length, hidden.contiguous()
        attended, between, product = self._memory.get(num_new) or self._new_memory(hidden)
        to_attended, to_between, to_product = attended.data_ptr(), between.data_ptr(), product.data_ptr()
        wide, eps = self._wide, self._eps
        sizes = num_new, between.shape[2], eps
        cos, sin, scale = tables[0].data_ptr(), tables[1].data_ptr(), head_dim**-0.5
        is_small = heads * num_new * (start + num_new) * head_dim <= most_products
        mask = None if is_small else causal_mask(num_new, start + num_new, heads // kv_heads, x.device)
        found = []
        for number, (parts, layer) in enumerate(zip(self._at_hand, cache.layers, strict=True), start=1):
            qkv, o_proj, gate_up, down_proj, mlp_weight, next_weight, *of_norms = parts
            states = qkv(x)
            keys, values = layer.make_room(num_new)
            given = like, states.data_ptr(), cos, sin, keys.data_ptr(), values.data_ptr()
            shape = num_new, start, keys.shape[2], heads, kv_heads, head_dim, *of_norms, eps
            if is_small:
                store_and_attend(*given, to_attended, *shape, scale)
            else:
                queries = x.new_empty((1, heads, num_new, head_dim))
                kernels.rotate_and_store(*given, queries.data_ptr(), *shape)
                attended = _attend(queries, layer, mask)
            total = o_proj(attended)
            add_and_norm(like, hidden.data_ptr(), total.data_ptr(), mlp_weight, to_between, *sizes)
            states = gate_up(between)
            gated(like, states.data_ptr(), to_product, num_new, wide)
            hidden = down_proj(product)
            if next_weight:
                if number == len(self._at_hand):
                    # What is returned must stay.
                    between = torch.empty_like(hidden)
                    to_between = between.data_ptr()
                at = total.data_ptr(), hidden.data_ptr()
                add_and_norm(like, *at, next_weight, to_between, *sizes)
                x = between
            else:
                x = hidden = hidden.add_(total)
            if number in kept:
                found.append(hidden)
        return hidden, x, found

    def _new_memory(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For attention's output, the inputs of joined projections, and the input of `down_proj`."""
        num_new, (heads, _, head_dim) = hidden.shape[1], self._heads
        memory = (
            hidden.new_empty((1, num_new, heads * head_dim)),
            torch.empty_like(hidden),
            hidden.new_empty((1, num_new, self._wide)),
        )
        self._memory[num_new] = memory
        return memory


def _attend(queries: Tensor, layer: InPlaceLayer, mask: Tensor | None) -> Tensor:
    """Rotated queries `(1, heads, n, head_dim)` to attention's output `(1, n, heads x head_dim)`."""
    keys, values = layer.keys, layer.values
    assert keys is not None and values is not None
    return grouped_attention(queries, keys, values, mask=mask).transpose(1, 2).flatten(2)
