"""What of graphs and compilation needs no GPU; `tests/gpu/test_cuda.py` has the rest."""

from collections import Counter

import numpy as np
import pytest
import torch

from bench.config.run import Execution
from bench.decoding.decoder import Decoder
from bench.decoding.engine import PartKey
from bench.decoding.parts import isolated_parts
from bench.device import CpuDevice, ScriptedDevice
from bench.device.graphs import capture, compiled, execute_as, executions
from bench.errors import DeviceError
from bench.variant import HEAD, LAYER
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE


def test_a_cpu_has_no_graphs_and_says_what_to_use():
    with pytest.raises(DeviceError, match="no CUDA graphs; use timing.execution=eager"):
        capture(CpuDevice(), lambda: None)


def test_a_compiled_call_gives_what_the_call_gives():
    x, weight = torch.arange(6.0), torch.full((6,), 0.5)

    @torch.inference_mode()
    def call():
        return (x * weight).cumsum(0)

    assert torch.equal(compiled(call, backend="eager")(), call())


def test_weights_of_before_inference_mode_can_be_compiled_with():
    # In the tracing of real backends, unlike in "eager", a graph that enters inference mode itself fails.
    linear, table = torch.nn.Linear(4, 4, bias=False).requires_grad_(False), torch.ones(8, 4)
    with torch.inference_mode():
        x = torch.ones(1, 4)

    @torch.inference_mode()
    def call():
        return linear(x) * table[2:3]

    assert torch.equal(compiled(call, backend="aot_eager")(), call())


def test_what_cannot_be_compiled_is_one_line():
    def broken(graph_module, inputs):
        raise RuntimeError("no C++ compiler\nsecond line")

    with pytest.raises(DeviceError) as caught:
        compiled(lambda: torch.ones(2) + 1, backend=broken)
    assert "torch.compile failed" in str(caught.value) and "timing.execution=eager" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_part_of_a_round_is_compiled_and_not_only_the_first_eight(target, draft):
    heads = {k: draft.head(DraftVocab(np.arange(k), VOCAB_SIZE)) for k in (9, 40, 60, VOCAB_SIZE)}
    prefill = Decoder(target, 20).prefill([5, 9, 33, 7])
    parts = isolated_parts(target, draft, heads, [2], prefill)
    assert len(parts) == 1 + 2 * 4 + 3 + 2
    calls: Counter = Counter()

    def counting(graph_module, inputs):
        def run(*args):
            calls["compiled"] += 1
            return graph_module.forward(*args)

        return run

    fast = {key: compiled(part, backend=counting) for key, part in parts.items()}
    for key, part in parts.items():
        calls.clear()
        found = fast[key]()
        # Parts that take no compiled code at all are what torch leaves eager without a word.
        assert calls["compiled"] >= 1, key
        torch.testing.assert_close(found, part(), msg=key.label)


def test_eager_is_the_call_itself():
    def call():
        return torch.ones(2)

    assert execute_as(CpuDevice(), call, Execution.eager) is call
    with pytest.raises(DeviceError, match="no CUDA graphs"):
        execute_as(CpuDevice(), call, Execution.graph)


def test_auto_takes_graphs_where_there_are_any():
    cpu, gpu = CpuDevice(), ScriptedDevice(has_graphs=True)
    assert executions(cpu, Execution.auto) == (Execution.eager,)
    assert executions(gpu, Execution.auto) == (Execution.graph, Execution.eager)
    for device in (cpu, gpu):
        assert executions(device, Execution.compiled) == (Execution.compiled,)
    assert executions(gpu, Execution.graph) == (Execution.graph,)
    with pytest.raises(DeviceError, match="use timing.execution=eager or compiled, or a CUDA gpu="):
        executions(cpu, Execution.graph)


@pytest.mark.slow
@pytest.mark.parametrize("is_fused", [False, True])
def test_inductor_compiles_packed_parts_on_a_cpu(target, draft, is_fused):
    """Where rounds run compiled functions of their own, it compiles torch's operations all the same."""
    if is_fused:
        pytest.importorskip("numba")
    draft.fuse(is_fused)
    prefill = Decoder(target, 20).prefill([5, 9, 33, 7])
    parts = isolated_parts(target, draft, {9: draft.head(DraftVocab(np.arange(9), VOCAB_SIZE))}, [2], prefill)
    for key in (PartKey(LAYER), PartKey(HEAD, vocab_size=9)):
        found = execute_as(CpuDevice(), parts[key], Execution.compiled)()
        torch.testing.assert_close(found, parts[key]())
