"""Other ways to execute a callable: captured as a CUDA graph, or compiled.

Launching a kernel costs the host microseconds, and a draft step is dozens of small kernels: executed eagerly,
the launches can take longer than the work and hide what a smaller head saves. A graph is launched as one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.config.run import Execution
from bench.device.base import Device
from bench.errors import DeviceError, LostDeviceError

# Libraries choose kernels and allocate workspaces in their first calls, which must not be captured.
_NUM_WARMUP = 3

# Versions of one function that the compiler keeps. Every part of a round is called through the same frame,
# that of `inference_mode`, and beyond its limit torch would go on without compiling, in silence.
_MOST_VERSIONS = 4096


@dataclass(frozen=True)
class CapturedGraph:
    """Replays the kernels of one call, on the same memory; keep it as long as `output` is read.

    Attributes:
        graph: the graph.
        output: what the captured call returned. A replay writes its results there.
    """

    graph: torch.cuda.CUDAGraph
    output: object

    def __call__(self) -> object:
        """Queues one replay on the current stream."""
        self.graph.replay()
        return self.output


def executions(device: Device, wanted: Execution) -> tuple[Execution, ...]:
    """Every way in which a configuration has parts executed on a device.

    Raises:
        DeviceError: the device cannot do so.
    """
    if wanted is Execution.auto:
        return (Execution.eager, Execution.graph) if device.has_graphs else (Execution.eager,)
    if wanted is Execution.graph:
        _require_graphs(device)
    return (wanted,)


def execute_as(device: Device, fn: Callable[[], object], execution: Execution) -> Callable[[], object]:
    """The callable, executed as asked: one of what `executions` gives.

    Raises:
        DeviceError: it cannot be, on this device.
    """
    assert execution is not Execution.auto
    if execution is Execution.graph:
        return capture(device, fn)
    return compiled(fn) if execution is Execution.compiled else fn


def capture(device: Device, fn: Callable[[], object]) -> CapturedGraph:
    """Captures one call as a CUDA graph.

    Args:
        device: a CUDA GPU.
        fn: always works on the same tensors and shapes, and never waits for the device. What it does in
            Python happens now and not at a replay: a cache index that it rewinds stays where it is.

    Raises:
        DeviceError: the device has no graphs, or the call cannot be captured.
        LostDeviceError: the device failed.
    """
    _require_graphs(device)
    stream = torch.cuda.Stream(device.torch_device)
    current = torch.cuda.current_stream(device.torch_device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(_NUM_WARMUP):
            fn()
    current.wait_stream(stream)
    device.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            output = fn()
    except RuntimeError as error:
        _require_life(device)
        raise DeviceError(
            f"this cannot run as a CUDA graph: {_first_line(error)}; use timing.execution=eager or compiled"
        ) from error
    return CapturedGraph(graph, output)


def compiled(fn: Callable[[], object], backend: str = "inductor") -> Callable[[], object]:
    """`torch.compile` of a callable, compiled now by calling it.

    Args:
        fn: always works on the same shapes.
        backend: of `torch.compile`.

    Raises:
        DeviceError: it cannot be compiled, for example because there is no compiler.
    """
    _raise_compile_limits()
    fast = torch.compile(fn, backend=backend, dynamic=False)
    try:
        # Twice: what the first call leaves behind (a longer cache) may be compiled for again.
        fast()
        fast()
    except Exception as error:  # Compilers raise what they like.
        raise DeviceError(
            f"torch.compile failed: {_first_line(error)}; set timing.execution=eager, or install what it "
            "names"
        ) from error
    return fast


def _require_graphs(device: Device) -> None:
    if not device.has_graphs:
        raise DeviceError(
            f"{device.name} has no CUDA graphs; use timing.execution=eager or compiled, or a CUDA gpu="
        )


def _require_life(device: Device) -> None:
    """Torch words a failed capture like a failed device, but only a device that lives can be waited for."""
    try:
        device.synchronize()
    except RuntimeError as error:
        raise LostDeviceError(
            f"the device failed while a graph was captured: {_first_line(error)}; the same command goes on "
            "in a new process"
        ) from error


def _raise_compile_limits() -> None:
    # Imported late: it takes seconds, and few runs compile.
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = _MOST_VERSIONS
    dynamo.accumulated_recompile_limit = _MOST_VERSIONS
    # What would not be compiled all the same is an error, and no eager time under another name.
    dynamo.fail_on_recompile_limit_hit = True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
