"""What of graphs and compilation needs no GPU; `tests/gpu/test_cuda.py` has the rest."""

import pytest
import torch

from bench.config.timing import Execution
from bench.device import CpuDevice
from bench.device.graphs import capture, compiled, execute_as
from bench.errors import DeviceError


def test_a_cpu_has_no_graphs_and_says_what_to_use():
    with pytest.raises(DeviceError, match="no CUDA graphs; use timing.execution=eager"):
        capture(CpuDevice(), lambda: None)


def test_a_compiled_call_gives_what_the_call_gives():
    x, weight = torch.arange(6.0), torch.full((6,), 0.5)

    @torch.inference_mode()
    def call():
        return (x * weight).cumsum(0)

    assert torch.equal(compiled(call, backend="eager")(), call())


def test_what_cannot_be_compiled_is_one_line():
    def broken(graph_module, inputs):
        raise RuntimeError("no C++ compiler\nsecond line")

    with pytest.raises(DeviceError) as caught:
        compiled(lambda: torch.ones(2) + 1, backend=broken)
    assert "torch.compile failed" in str(caught.value) and "timing.execution=eager" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_eager_is_the_call_itself():
    def call():
        return torch.ones(2)

    assert execute_as(CpuDevice(), call, Execution.eager) is call
    with pytest.raises(DeviceError, match="no CUDA graphs"):
        execute_as(CpuDevice(), call, Execution.graph)
