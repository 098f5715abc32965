"""The loop beside what bounds it, on the tiny pair."""

from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from bench.device import CpuDevice
from bench.measure.workload import EncodedPrompt
from bench.models.kernels import join_linears, pack_linears
from bench.runs.selfcheck import _show_speeds
from bench.runs.speed import DRAFT, PLAIN, Steps, matrices_of

MATRICES = "matrix products of a "


def test_matrix_products_alone_are_those_of_the_call_in_its_order():
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)).requires_grad_(False)
    pack_linears(model)
    x = torch.randn(1, 3)
    alone = matrices_of(lambda: model(x))
    seen = []
    for place in (0, 2):
        model[place].register_forward_hook(lambda module, given, _: seen.append((module, given[0])))
    alone()
    assert [module for module, _ in seen] == [model[0], model[2]]
    torch.testing.assert_close([given for _, given in seen], [x, model[:2](x)])


def test_joined_layers_are_one_matrix_product():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.gate_proj(x) * self.up_proj(x)

    model, num_calls = Mlp().requires_grad_(False), 0
    join_linears(model)
    alone = matrices_of(lambda: model(torch.randn(1, 3)))

    def count(*_):
        nonlocal num_calls
        num_calls += 1

    model.gate_proj.whole.linear.register_forward_hook(count)
    alone()
    assert num_calls == 1


@pytest.fixture
def steps(target, draft):
    pair = SimpleNamespace(target=target, draft=draft, dtype=torch.float32)
    return Steps(CpuDevice(), pair, [EncodedPrompt("p", [5, 9, 33, 7])], seed=0)


def test_a_step_is_what_a_loop_does_and_its_matrix_products_all_of_its_linear_layers(steps):
    def num_linears(call):
        count = 0

        def add(*_):
            nonlocal count
            count += 1

        hook = torch.nn.modules.module.register_module_forward_hook(
            lambda module, *_: add() if hasattr(module, "packed") else None
        )
        call()
        hook.remove()
        return count

    # Eight layers of qkv, output, gate and up, down, and the head; one layer of the draft, and its head.
    for name, expected in ((PLAIN, 8 * 4 + 1), (DRAFT, 4 + 1)):
        assert num_linears(steps.calls[name]) == num_linears(steps.calls[f"{MATRICES}{name}"]) == expected


def test_shares_are_of_pairs_and_say_whether_a_goal_is_met(steps):
    times = {PLAIN: np.full(9, 10.0), DRAFT: np.full(9, 4.0)}
    times |= {f"{MATRICES}{PLAIN}": np.full(9, 8.0), f"{MATRICES}{DRAFT}": np.full(9, 2.0)}
    speedup, share, outside = steps.speeds(times)
    assert speedup.num_pairs == 2 and speedup.ratio.value > 0
    assert (share.ratio.value, share.is_met) == (0.8, True)
    assert share.finding == "80% [80%, 80%]: 8 of 10 ms are matrix products"
    assert (outside.ratio.value, outside.is_met, outside.num_pairs) == (0.5, False, 9)
    console = Console(width=220, file=StringIO(), record=True)
    _show_speeds([share, outside], console)
    lines = console.export_text().splitlines()
    assert any("at least 80%" in line and " met " in line for line in lines)
    assert any("at most 25%" in line and " missed " in line for line in lines)
