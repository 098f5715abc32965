import pytest
import torch
from torch import nn

from bench.models.layers import PackedLinear, can_pack, make_linear, pack_linears


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
