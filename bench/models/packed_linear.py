"""Linear layers whose weights are laid out for the CPU's matrix kernel once, not at every call.

At batch 1 a CPU reads every weight for a handful of rows. The stock kernel re-packs the weights at
each call, which makes verifying four tokens cost up to twice as much as verifying one; with weights
packed for oneDNN beforehand the two cost the same, as they do on a GPU. Serving engines pack too, so
this is the honest baseline for speculation on a CPU.
"""

import torch
from torch import Tensor, nn

# Rows of a verification at common draft lengths; only a layout hint, other row counts stay correct.
ROWS_HINT = 4


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


def pack_linears(model: nn.Module) -> int:
    """Replaces every packable `nn.Linear` under `model` in place; returns how many."""
    packed = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and can_pack(child.weight):
                setattr(module, name, PackedLinear(child.weight, child.bias))
                packed += 1
    return packed
