"""Other ways to execute a callable: captured as a CUDA graph, or compiled.

Launching a kernel takes the host microseconds, and a draft step has dozens of small kernels. In eager
execution the launches can take longer than the work and hide the saving of a smaller head. A graph is one
launch.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.config.run import Execution
from bench.device.base import Device
from bench.errors import DeviceError, LostDeviceError

# In the first calls, libraries choose kernels and allocate workspaces. These must not be captured.
_NUM_WARMUP = 3

# Limit of compiled versions of one function: to the compiler, heads of every size are one function. Beyond
# the limit torch would stop compiling without a warning.
_MOST_VERSIONS = 4096


# What to ask for where there are no graphs: of parts on their own, and of rounds.
_INSTEAD, _ROUNDS_INSTEAD = "timing.execution=eager or compiled", "measure.execution=eager"


@dataclass(frozen=True)
class CapturedGraph:
    """Replays the kernels of one call on the same memory. Keep it as long as `output` is read.

    Attributes:
        graph: the graph.
        output: the result of the captured call. A replay writes its results there.
    """

    graph: torch.cuda.CUDAGraph
    output: object

    def __call__(self) -> object:
        """Queues one replay on the current stream."""
        self.graph.replay()
        return self.output


def executions(device: Device, wanted: Execution) -> tuple[Execution, ...]:
    """How parts are executed on a device, the first way that works for a part.

    Launched one by one, most parts of a round take as long as their launch.

    Raises:
        DeviceError: the device cannot do that.
    """
    if wanted is Execution.auto:
        return (Execution.graph, Execution.eager) if device.has_graphs else (Execution.eager,)
    if wanted is Execution.graph:
        _require_graphs(device)
    return (wanted,)


def round_execution(
    device: Device, wanted: Execution, obstacle: str | None, compile_obstacle: str | None
) -> Execution:
    """How rounds are executed on a device: as graphs or compiled where they can be, unless asked otherwise.

    Args:
        device: the device.
        wanted: as of `measure.execution`.
        obstacle: why these models cannot be captured; None where they can.
        compile_obstacle: why they cannot be compiled, likewise.

    Raises:
        DeviceError: what is wanted is impossible.
    """
    if wanted is Execution.compiled and compile_obstacle:
        raise DeviceError(f"rounds cannot run compiled: {compile_obstacle}; use {_ROUNDS_INSTEAD}")
    if wanted is Execution.graph:
        _require_graphs(device, _ROUNDS_INSTEAD)
        if obstacle:
            raise DeviceError(f"rounds cannot run as CUDA graphs: {obstacle}; use {_ROUNDS_INSTEAD}")
    if wanted is Execution.auto:
        if device.has_graphs and not obstacle:
            return Execution.graph
        return Execution.eager if compile_obstacle else Execution.compiled
    return wanted


def execute_as(device: Device, fn: Callable[[], object], execution: Execution) -> Callable[[], object]:
    """The callable in one of the executions that `executions` returns.

    Raises:
        DeviceError: this is not possible on this device.
    """
    assert execution is not Execution.auto
    if execution is Execution.graph:
        return capture(device, fn)
    if execution is Execution.compiled:
        return compiled(fn, holds_weights=device.torch_device.type == "cpu")
    return fn


def capture(
    device: Device,
    fn: Callable[[], object],
    stream: torch.cuda.Stream | None = None,
    pool: Any = None,
    instead: str = _INSTEAD,
) -> CapturedGraph:
    """Captures one call as a CUDA graph.

    Args:
        device: a CUDA GPU.
        fn: always uses the same tensors and shapes, and never waits for the device. Its Python code runs now
            and not at a replay: a cache index that it rewinds stays where it is.
        stream: that it is captured on; another one unless given.
        pool: of memory for what the call makes; its own unless given.
        instead: what a user can ask for where it cannot be captured.

    Raises:
        DeviceError: the device has no graphs, or the call cannot be captured.
        LostDeviceError: the device failed.
    """
    _require_graphs(device, instead)
    stream = stream or torch.cuda.Stream(device.torch_device)
    current = torch.cuda.current_stream(device.torch_device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(_NUM_WARMUP):
            fn()
    current.wait_stream(stream)
    device.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            output = fn()
    except RuntimeError as error:
        _require_life(device)
        raise DeviceError(f"this cannot run as a CUDA graph: {_first_line(error)}; use {instead}") from error
    finally:
        # Where a capture fails, torch leaves its stream the current one, on which no mark is made: whatever
        # is timed afterwards would seem to take no time.
        torch.cuda.set_stream(current)
    return CapturedGraph(graph, output)


def shared_capture(device: Device) -> Callable[[Callable[[], object]], CapturedGraph]:
    """Captures calls that are replayed one after the other, as parts of one loop, into the same memory.

    What a call returns is not kept: the next may write over it.

    Raises:
        DeviceError: the device has no graphs.
    """
    _require_graphs(device, _ROUNDS_INSTEAD)
    stream, pool = torch.cuda.Stream(device.torch_device), torch.cuda.graph_pool_handle()
    return lambda fn: capture(device, fn, stream, pool, _ROUNDS_INSTEAD)


def compiled(
    fn: Callable[[], object], backend: str = "inductor", holds_weights: bool = False
) -> Callable[[], object]:
    """`torch.compile` of a callable, compiled now by calling it.

    Args:
        fn: always uses the same shapes.
        backend: backend of `torch.compile`.
        holds_weights: weights are constants of what is compiled, as Inductor takes packed ones on a CPU.

    Raises:
        DeviceError: compilation failed, for example because there is no compiler.
    """
    # Imported late: the import takes seconds, and few runs compile.
    from torch._inductor import config as inductor

    _raise_compile_limits()
    # Inference mode is entered outside. A graph that enters it itself fails at the first weight or slice of
    # before: torch 2.11 and 2.13 raise a KeyError of a storage, or "Cannot set version_counter".
    bare = torch.compile(inspect.unwrap(fn), backend=backend, dynamic=False)

    @torch.inference_mode()
    def fast() -> object:
        return bare()

    try:
        # Tracing, too, looks at this; as an option of the compilation it comes too late.
        with inductor.patch(freezing=holds_weights):
            # Twice: the first call changes the state (a longer cache), which can cause another compilation.
            fast()
            fast()
    except Exception as error:  # compilers can raise anything
        raise DeviceError(
            f"torch.compile failed: {_first_line(error)}; set timing.execution=eager, or install what the "
            "message names"
        ) from error
    return fast


def _require_graphs(device: Device, instead: str = _INSTEAD) -> None:
    if not device.has_graphs:
        raise DeviceError(f"{device.name} has no CUDA graphs; use {instead}, or a CUDA gpu=")


def _require_life(device: Device) -> None:
    """Raises if the device failed. Torch's message is the same for a failed capture, so this waits."""
    try:
        device.synchronize()
    except RuntimeError as error:
        raise LostDeviceError(
            f"the device failed while a graph was captured: {_first_line(error)}; run the same command again "
            "to resume"
        ) from error


def _raise_compile_limits() -> None:
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = _MOST_VERSIONS
    dynamo.accumulated_recompile_limit = _MOST_VERSIONS
    # Raise an error instead of silently timing eager code.
    dynamo.fail_on_recompile_limit_hit = True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # "backend='inductor' raised:" says nothing without the line that follows.
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__
