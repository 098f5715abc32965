"""How rounds are executed on a CPU: compiled where they can be, and if not, results say why."""

import math
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from bench.config.run import Execution
from bench.device import CpuDevice
from bench.errors import DeviceError
from bench.models import fused
from bench.runs.pair import open_engine
from tests.conftest import make_draft, make_target

DEVICE = CpuDevice()

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")


def pair_of(draft_of=make_draft, dtype=torch.float32):
    target = make_target()
    return SimpleNamespace(target=target, draft=draft_of(target), dtype=dtype)


@needs_numba
def test_auto_is_compiled_and_eager_stays_eager():
    pair = pair_of()
    engine, how = open_engine(pair, DEVICE, 8, seed=0)
    assert (engine.execution, how["execution"]) == (Execution.compiled, "compiled")
    assert how["compile_s"] > 0 and "not_compiled" not in how
    engine, how = open_engine(pair, DEVICE, 8, seed=0, wanted=Execution.eager)
    assert how == {"execution": "eager", "attention": "scaled_dot_product_attention"}


def without_numba(monkeypatch):
    monkeypatch.setattr(fused, "find_spec", lambda _: None)
    return "numba is not installed"


def with_a_broken_compiler(monkeypatch):
    monkeypatch.setattr(fused, "find_spec", lambda _: True)

    def fail(_dtype):
        raise RuntimeError("cannot cache function:\nno locator")

    monkeypatch.setattr(fused, "fused_ops", fail)
    return "numba cannot compile here (cannot cache function: no locator)"


def with_wrong_results(factor, monkeypatch):
    run = fused.FusedStack.run

    def wrong(self, *args, **options):
        hidden, normed, kept = run(self, *args, **options)
        return hidden, normed * factor, kept

    monkeypatch.setattr(fused.FusedStack, "run", wrong)
    return (
        "compiled layers give no numbers" if factor != 2 else "compiled layers are 100% off the target's own"
    )


@pytest.mark.parametrize(
    "hinder",
    [
        without_numba,
        with_a_broken_compiler,
        *(pytest.param(partial(with_wrong_results, factor), marks=needs_numba) for factor in (2, math.nan)),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly_and_says_why(hinder, monkeypatch):
    reason, pair = hinder(monkeypatch), pair_of()
    engine, how = open_engine(pair, DEVICE, 8, seed=0)
    assert engine.execution is Execution.eager and how["not_compiled"] == reason
    with pytest.raises(DeviceError) as caught:
        open_engine(pair, DEVICE, 8, seed=0, wanted=Execution.compiled)
    assert str(caught.value) == f"rounds cannot run compiled: {reason}; use measure.execution=eager"


@needs_numba
def test_a_draft_without_compiled_layers_keeps_its_target_from_them():
    """A target that is faster than its draft could be would make speculation look bad."""
    pair = pair_of()
    pair.draft.__class__ = type("Other", (type(pair.draft),), {"fused_obstacle": "it has other layers"})
    _, how = open_engine(pair, DEVICE, 8, seed=0)
    assert (how["execution"], how["not_compiled"]) == ("eager", "it has other layers")


def test_weights_elsewhere_or_of_another_dtype_are_not_fused():
    pair = pair_of()
    meta = torch.empty(2, 2, device="meta")
    layers = pair.target.decoder.layers
    assert fused.fused_obstacle(meta, layers) == "the weights are on meta"
    assert fused.fused_obstacle(torch.empty(2, dtype=torch.float16), layers) == "the weights are in float16"
    separate = SimpleNamespace(
        self_attn=layers[0].self_attn, mlp=SimpleNamespace(gate_proj=torch.nn.Linear(2, 2))
    )
    assert "not of the same kind" in fused.fused_obstacle(torch.empty(2), [layers[0], separate])


@needs_numba
@torch.inference_mode()
def test_a_step_in_selfcheck_and_its_products_read_the_same_inputs():
    """Compiled layers write their inputs to the same memory again and again."""
    from bench.runs.speed import matrices_of

    pair = pair_of()
    open_engine(pair, DEVICE, 8, seed=0)
    cache, ids = pair.target.new_cache(), torch.tensor([[5, 9, 33, 7]])
    pair.target.forward(ids, cache)
    seen = []

    def see(module, given, _):
        if hasattr(module, "packed"):
            seen.append(given[0].clone())

    alone = matrices_of(lambda: pair.target.forward(ids[:, :1], cache))
    cache.rewind(4)
    for call in (lambda: pair.target.forward(ids[:, :1], cache), alone):
        hook = torch.nn.modules.module.register_module_forward_hook(see)
        call()
        hook.remove()
    half = len(seen) // 2
    assert half == 8 * 4
    torch.testing.assert_close(seen[:half], seen[half:], rtol=0, atol=0)
