"""Layers for inference at batch 1: linear ones packed and joined, RMSNorm, and the best token.

At batch 1 most calls take as long as it takes to begin them, on a CPU as on a GPU, so that fewer calls are
what makes a step faster.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows of a verification at common draft lengths; only a layout hint, other row counts stay correct.
ROWS_HINT = 4

# Tokens of a pass up to which, on a CPU, calls cost more than what they compute.
MOST_FUSED_ROWS = 16


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has a packed kernel for this weight on this machine."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32


class PackedLinear(nn.Module):
    """y = x W^T (+ b) with W `(out, in)` packed for oneDNN. Inference only."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS_HINT)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def make_linear(weight: Tensor) -> nn.Module:
    """The fastest bias-free linear layer that this machine has for `weight` `(out, in)`."""
    if can_pack(weight):
        return PackedLinear(weight)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


# On an input of joined layers: the layer that read it last, and its outputs that were not asked for yet.
_UNREAD = "_unread_outputs"


class JoinedLinear(nn.Module):
    """Several linear layers that read the same input, as one: a matrix product costs 10 us at least.

    Args:
        linears: all with a bias, or none.
    """

    def __init__(self, linears: Sequence[nn.Linear]):
        super().__init__()
        self._sizes = [linear.out_features for linear in linears]
        self.linear: nn.Module = nn.Linear(
            linears[0].in_features, sum(self._sizes), linears[0].bias is not None, device="meta"
        )
        for name in ("weight", "bias"):
            parts = [getattr(linear, name) for linear in linears]
            if parts[0] is not None:
                whole = torch.cat([part.detach() for part in parts])
                setattr(self.linear, name, nn.Parameter(whole, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to the outputs of all, side by side."""
        return self.linear(x)

    def output(self, index: int, x: Tensor) -> Tensor:
        """That of one layer; the first that reads an input computes for all of them."""
        if torch.compiler.is_compiling():
            return self.linear(x).split(self._sizes, dim=-1)[index]
        # Kept with the input, so that an output that nobody reads goes with it.
        owner, unread = x.__dict__.get(_UNREAD, (None, {}))
        if owner is not self or index not in unread:
            unread = dict(enumerate(self.linear(x).split(self._sizes, dim=-1)))
            x.__dict__[_UNREAD] = self, unread
        return unread.pop(index)


class LinearShare(nn.Module):
    """Stands for one layer of a `JoinedLinear` in a model that calls each of them."""

    def __init__(self, whole: JoinedLinear, index: int, linear: nn.Linear):
        super().__init__()
        self.whole, self._index = whole, index
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        return self.whole.output(self._index, x)


# Layers that read the same input in every model that this package's own passes run.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def join_linears(model: nn.Module) -> None:
    """Joins the linear layers under `model` that read the same input, in place; quantised ones stay."""
    for module in list(model.modules()):
        for names in _SIBLINGS:
            linears = [getattr(module, name, None) for name in names]
            plain = [linear for linear in linears if type(linear) is nn.Linear]
            if len(plain) < len(names) or len({linear.bias is None for linear in plain}) > 1:
                continue
            whole = JoinedLinear(plain)
            for index, (name, linear) in enumerate(zip(names, plain, strict=True)):
                setattr(module, name, LinearShare(whole, index, linear))


def joined(*linears: nn.Module) -> JoinedLinear | None:
    """The layer that computes all of these at once; None where there is none."""
    return linears[0].whole if isinstance(linears[0], LinearShare) else None


def pack_linears(model: nn.Module) -> int:
    """Replaces every packable `nn.Linear` under `model` in place; returns how many."""
    packed = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            # Subclasses may compute more: routers of experts, quantised layers.
            if type(child) is nn.Linear and can_pack(child.weight):
                setattr(module, name, PackedLinear(child.weight, child.bias))
                packed += 1
    return packed


class RmsNorm(nn.Module):
    """RMSNorm for inference.

    On a CPU torch computes it by eight kernels. LayerNorm is one, and is RMSNorm where the mean is zero, as
    that of x and -x side by side is: 5 us instead of 10 in bfloat16. In float32 its moments would add more
    rounding than the rest of a pass.

    Args:
        weight: `(H,)`.
        eps: added to the mean square.

    Attributes:
        eps: as given.
        fused: takes rows of a few tokens instead, where it is set.
    """

    def __init__(self, weight: Tensor, eps: float):
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.eps, self._size = eps, len(weight)
        is_coarse = weight.dtype == torch.bfloat16 and not weight.is_cuda
        self._doubled = torch.cat(2 * [weight.detach()]) if is_coarse else None
        self.fused: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`(..., H)`."""
        if self.fused and x.numel() <= MOST_FUSED_ROWS * self._size and not torch.compiler.is_compiling():
            return self.fused(x)
        if self._doubled is None:
            return F.rms_norm(x, (self._size,), self.weight, self.eps)
        both = torch.cat([x, -x], dim=-1)
        return F.layer_norm(both, (2 * self._size,), self._doubled, None, self.eps)[..., : self._size]


def swap_norms(model: nn.Module) -> None:
    """Replaces every `nn.RMSNorm` under `model` by the one for inference, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            # Subclasses compute something else.
            if type(child) is nn.RMSNorm and child.eps is not None:
                setattr(module, name, RmsNorm(child.weight, child.eps))


def best_ids(logits: Tensor) -> Tensor:
    """The argmax `(...)` of logits `(..., V)`; among equals the lowest id."""
    # A CPU has no vector kernel for the argmax of bfloat16: of 49,152 it takes 160 us, through float32 34 us.
    return (logits if logits.is_cuda else logits.float()).argmax(-1)
