import weakref

import pytest
import torch
from torch import nn

from bench.models.kernels import (
    JoinedLinear,
    PackedLinear,
    RmsNorm,
    best_ids,
    can_pack,
    join_linears,
    joined,
    make_linear,
    pack_linears,
    swap_norms,
)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_equals_the_stock_layer(rows, has_bias):
    torch.manual_seed(0)
    stock = nn.Linear(24, 40, bias=has_bias)
    assert can_pack(stock.weight)
    packed, x = PackedLinear(stock.weight, stock.bias), torch.randn(2, rows, 24)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), stock(x))


def test_pack_linears_replaces_them_all_and_keeps_the_output():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 4)))
    x = torch.randn(3, 8)
    with torch.inference_mode():
        before = model(x)
        assert pack_linears(model) == 2
        assert not any(isinstance(m, nn.Linear) for m in model.modules())
        torch.testing.assert_close(model(x), before)


def test_a_dtype_without_a_packed_kernel_stays_stock():
    weight = torch.randn(4, 4, dtype=torch.float64)
    layer, x = make_linear(weight), torch.randn(2, 4, dtype=torch.float64)
    assert isinstance(layer, nn.Linear)
    assert torch.equal(layer(x), x @ weight.T)


class Mlp(nn.Module):
    def __init__(self, has_bias, up=None):
        super().__init__()
        self.gate_proj = nn.Linear(6, 4, has_bias)
        self.up_proj = up or nn.Linear(6, 2, has_bias)

    def forward(self, x):
        return torch.cat([self.gate_proj(x), self.up_proj(x)], dim=-1)


@torch.inference_mode()
@pytest.mark.parametrize("has_bias", [False, True])
def test_layers_of_one_input_are_computed_once_and_give_what_each_gave(has_bias):
    model = nn.Sequential(Mlp(has_bias)).requires_grad_(False)
    inputs = [torch.randn(2, 3, 6) for _ in range(3)]
    expected = [model(x) for x in inputs]
    join_linears(model)
    whole = joined(model[0].gate_proj, model[0].up_proj)
    assert pack_linears(model) == 1
    seen = []
    whole.linear.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    for x, y in zip(inputs, expected, strict=True):
        torch.testing.assert_close(model(x), y)
        torch.testing.assert_close(whole(x), y)
    assert len(seen) == 2 * len(inputs)


@torch.inference_mode()
def test_a_joined_layer_never_gives_what_another_input_gave():
    linears = [nn.Linear(6, width) for width in (4, 2)]
    x, other = torch.randn(1, 6), torch.randn(1, 6)
    whole = JoinedLinear(linears)
    torch.testing.assert_close(whole.output(0, x), linears[0](x))
    torch.testing.assert_close(whole.output(1, other), linears[1](other))
    # The same layer asked twice computes again: its input may have been written over.
    torch.testing.assert_close(whole.output(0, x), linears[0](x))
    x.copy_(other)
    torch.testing.assert_close(whole.output(0, x), linears[0](other))


@torch.inference_mode()
def test_an_output_that_nobody_reads_goes_with_its_input():
    whole, x = JoinedLinear([nn.Linear(6, 4), nn.Linear(6, 2)]), torch.randn(1, 6)
    whole.output(0, x)
    kept = weakref.ref(x)
    del x
    assert kept() is None


def test_layers_that_are_not_plain_stay_as_they_are():
    class Quantised(nn.Linear):
        pass

    for model in (Mlp(True, Quantised(6, 2)), Mlp(True, nn.Linear(6, 2, bias=False))):
        gate = model.gate_proj
        join_linears(model)
        assert model.gate_proj is gate and joined(model.gate_proj, model.up_proj) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_torchs(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.RMSNorm(24, 1e-3, dtype=dtype))
    nn.init.normal_(model[0].weight)
    for scale in (1e-3, 1.0, 1e3):
        x = (scale * torch.randn(2, 3, 24)).to(dtype)
        expected = model(x)
        torch.testing.assert_close(RmsNorm(model[0].weight, 1e-3)(x), expected)
    swap_norms(model)
    assert type(model[0]) is RmsNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_of_equals_is_the_lowest_id(dtype):
    torch.manual_seed(0)
    logits = torch.randint(0, 5, (40, 300)).to(dtype)
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert best_ids(logits).tolist() == expected
