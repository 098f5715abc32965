"""A pretend CUDA device: tensors that say cuda:0 and hold CPU values, so that GPU code runs on any machine.

Unlike fake tensors they have values, so loops whose course depends on data run to their end. Unlike CPU
tensors they refuse what a GPU refuses, and what a GPU does in silence is counted: launches, and waits of the
host with the line that caused them. A captured graph is the list of its operations; a replay does them again
on the same memory, so what Python decided at the capture stays decided. Two clocks, the host's and the
device's, give events their times.

Where a CPU build takes apart what CUDA has one kernel for (attention, norms), the one is counted.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)

# Operations whose result the host must know before it can go on.
_WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "is_nonzero",
    "multinomial",
}

# Operations that launch nothing though they write no view of their input.
_FREE = {
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "detach",
    "alias",
    "lift_fresh",
}

# Operations that read a few rows of what they are given, as many as they write.
_GATHERING = {
    "index_select",
    "embedding",
    "index",
    "gather",
    "index_copy_",
    "index_copy",
    "copy_",
    "scatter_",
}

# May be given tensors of both kinds.
_CROSSING = {"copy_", "_to_copy", "to"}

_ITEM = {
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__bool__,
    torch.Tensor.__index__,
    torch.Tensor.item,
}

GENERATOR = torch.Generator


class PretendTensor(torch.Tensor):
    """A tensor on the pretend device; `inner` has its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "PretendTensor":
        assert type(inner) in (torch.Tensor, torch.nn.Parameter), type(inner)
        inner = inner.detach() if isinstance(inner, torch.nn.Parameter) else inner
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"PretendTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _world().run(func, args, kwargs or {})


class PretendGenerator(torch.Generator):
    """What `torch.Generator(device="cuda")` gives: its numbers are a CPU's."""

    def __new__(cls, device: Any = None) -> "PretendGenerator":
        return super().__new__(cls, device="cpu")

    @property
    def device(self) -> torch.device:
        return CUDA


@dataclass
class Costs:
    """The two clocks, in microseconds.

    Attributes:
        launch: of the host, for a kernel.
        view: of the host, for what launches nothing.
        graph_launch: of the host, for a graph.
        wait: of the host, beside what it waits for.
        kernel: of the device, for the smallest kernel.
        graph_gap: of the device, between two kernels of a graph.
        gap: of the device, between two kernels that were launched one by one, if the second waits.
        bytes_per_us: of the device's memory; kernels that read and write much take longer than the smallest.
    """

    launch: float = 5.0
    view: float = 1.0
    graph_launch: float = 8.0
    wait: float = 12.0
    kernel: float = 2.0
    graph_gap: float = 0.7
    gap: float = 0.0
    bytes_per_us: float = float("inf")

    def kernel_us(self, num_bytes: int) -> float:
        """Of the device, for a kernel that reads and writes so much."""
        return max(self.kernel, num_bytes / self.bytes_per_us)


@dataclass
class World:
    """What happened on the pretend device.

    Attributes:
        costs: of its clocks.
        launches: kernels by operation, those of replays not among them.
        waits: of the host, by operation and line of this package.
        num_replays: graphs launched.
        num_allocations: of the device's memory, outside of captures.
        marks_elsewhere: events recorded on another stream than the one that works.
        busy_us: of the device, in all kernels.
        stream: the current one.
        capture: the graph that is being captured.
        num_bytes: what a kernel reads and writes, of its name, what it is given and what it makes.
    """

    costs: Costs = field(default_factory=Costs)
    launches: Counter = field(default_factory=Counter)
    waits: Counter = field(default_factory=Counter)
    num_replays: int = 0
    num_allocations: int = 0
    marks_elsewhere: int = 0
    busy_us: float = 0.0
    stream: Any = None
    capture: "PretendGraph | None" = None
    num_bytes: Callable[[str, Any, list[torch.Tensor]], int] = field(default_factory=lambda: _num_bytes)
    host_us: float = 0.0
    device_us: float = 0.0

    def forget(self) -> None:
        """Counts from zero."""
        self.launches, self.waits = Counter(), Counter()
        self.num_replays = self.num_allocations = self.marks_elsewhere = 0
        self.busy_us = 0.0

    @property
    def num_launches(self) -> int:
        """Kernels that were launched one by one."""
        return sum(self.launches.values())

    @property
    def num_waits(self) -> int:
        """How often the host waited for the device."""
        return sum(self.waits.values())

    def wait(self, what: str) -> None:
        """The host waits for the device.

        Raises:
            RuntimeError: in a capture, as CUDA does.
        """
        if self.capture is not None:
            self.capture.is_invalid = True
            raise RuntimeError(
                f"CUDA error: operation not permitted when stream is capturing ({what}, {_line()})"
            )
        self.waits[f"{what} at {_line()}"] += 1
        self.host_us = max(self.host_us, self.device_us) + self.costs.wait

    def launch(self, name: str, num_bytes: int = 0) -> None:
        """A kernel that reads and writes so much."""
        kernel_us = self.costs.kernel_us(num_bytes)
        if self.capture is not None:
            self.capture.work_us += kernel_us + self.costs.graph_gap
            return
        self.launches[name] += 1
        self.host_us += self.costs.launch
        self.device_us = max(self.device_us + self.costs.gap, self.host_us) + kernel_us
        self.busy_us += kernel_us

    def run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """One operation of aten."""
        name = func.overloadpacket.__name__
        leaves = tree_leaves((args, kwargs))
        pretend = [leaf for leaf in leaves if isinstance(leaf, PretendTensor)]
        others = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, PretendTensor)]
        devices = [torch.device(kwargs["device"])] if kwargs.get("device") else []
        devices += [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        wanted = devices[0] if devices else None
        if not pretend and (wanted is None or wanted.type != "cuda"):
            return func(*args, **kwargs)
        if pretend and name not in _CROSSING and any(other.dim() for other in others):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func}, {_line()}"
            )
        to_host = wanted is not None and wanted.type == "cpu"
        self._note_waits(name, args, pretend, others, to_host)
        inner_args, inner_kwargs = _inside((args, kwargs))
        found = self.do(name, _one(func), inner_args, inner_kwargs, func)
        if name == "_local_scalar_dense" or to_host:
            return found
        outer = {id(tensor.inner): tensor for tensor in pretend}
        return tree_map(lambda x: outer.get(id(x), x) if id(x) in outer else _outside(x), found)

    def do(self, name: str, call: Callable, args: tuple, kwargs: dict, func: Any = None) -> Any:
        """Does an operation on values, counts it, and keeps it where a graph is captured."""
        given = {_address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        if self.capture is not None:
            self.capture.before(_written(name, func, args, kwargs))
        with _quietly():
            found = call(*args, **kwargs)
        made = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        is_view = (
            bool(made) and all(_address(x) in given for x in made) and not _written(name, func, args, kwargs)
        )
        if self.capture is not None:
            self.capture.made += [x for x in made if _address(x) not in given]
        elif any(_address(x) not in given for x in made):
            self.num_allocations += 1
        if is_view or name in _FREE:
            self.host_us += self.costs.view
        elif name not in _WAITING:
            self.launch(name, self.num_bytes(name, (args, kwargs), made))
            if self.capture is not None:
                self.capture.steps.append((call, args, kwargs, made))
        return found

    def _note_waits(self, name: str, args: tuple, pretend: list, others: list, to_host: bool) -> None:
        if name in _WAITING or (name in _CROSSING and pretend and to_host):
            self.wait(name)
        elif name in ("_to_copy", "to") and others and others[0].numel():
            self.wait("copy from the host")
        elif name == "copy_" and isinstance(args[0], PretendTensor) != isinstance(args[1], PretendTensor):
            self.wait("copy")
        elif name in ("index", "index_put", "index_put_"):
            dtypes = [x.dtype for x in args[1] or () if isinstance(x, torch.Tensor)]
            if torch.bool in dtypes or torch.uint8 in dtypes:
                self.wait("index by a mask")


_current: list[World] = []


def _world() -> World:
    assert _current, "no pretend device is there"
    return _current[-1]


class PretendGraph:
    """What `torch.cuda.CUDAGraph` is: operations, done again on the same memory at every replay."""

    def __init__(self) -> None:
        self.steps: list[tuple[Callable, tuple, dict, list]] = []
        self.made: list[torch.Tensor] = []
        self.work_us = 0.0
        self.is_invalid = False
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def capture_begin(self, *_: object, **__: object) -> None:
        _world().capture = self

    def before(self, written: list[torch.Tensor]) -> None:
        """A capture does nothing, so what it seems to write is put back at its end."""
        own = {_address(x) for x in self.made}
        for tensor in written:
            address = _address(tensor)
            if address not in own and address not in self._before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before[address] = whole, whole.clone()

    def capture_end(self) -> None:
        """Memory is as before, and what the graph made holds nothing that means anything."""
        _world().capture = None
        with _quietly(), torch.inference_mode():
            for whole, saved in self._before.values():
                whole.copy_(saved)
            for tensor in self.made:
                if tensor.dtype is not torch.bool:
                    tensor.fill_(float("nan") if tensor.is_floating_point() else 1 << 30)
        if self.is_invalid:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def replay(self) -> None:
        world = _world()
        world.num_replays += 1
        world.host_us += world.costs.graph_launch
        world.device_us = max(world.device_us, world.host_us) + self.work_us
        world.busy_us += self.work_us
        with _quietly(), torch.inference_mode():
            for call, args, kwargs, outputs in self.steps:
                found = [x for x in tree_leaves(call(*args, **kwargs)) if isinstance(x, torch.Tensor)]
                for output, value in zip(outputs, found, strict=True):
                    if output is not value and _address(output) != _address(value):
                        output.copy_(value)


class PretendStream:
    """A stream, which orders nothing: operations are done at once."""

    def __init__(self, device: Any = None, **_: object):
        self.device = CUDA

    def wait_stream(self, other: "PretendStream") -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        _world().wait("stream")


class _StreamContext:
    def __init__(self, stream: PretendStream):
        self._stream = stream

    def __enter__(self) -> None:
        world = _world()
        self._before, world.stream = world.stream, self._stream

    def __exit__(self, *_: object) -> None:
        _world().stream = self._before


class PretendEvent:
    """A mark on the device's clock."""

    def __init__(self, enable_timing: bool = False, **_: object):
        self._at_us = 0.0

    def record(self, stream: PretendStream | None = None) -> None:
        world = _world()
        if stream is not None and stream is not world.stream:
            world.marks_elsewhere += 1
        world.host_us += world.costs.view
        self._at_us = max(world.device_us, world.host_us)

    def synchronize(self) -> None:
        _world().wait("event")

    def elapsed_time(self, other: "PretendEvent") -> float:
        """Milliseconds."""
        return (other._at_us - self._at_us) / 1e3


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _world().run(func, args, kwargs or {})


class _Function(TorchFunctionMode):
    """What must be seen before it is taken apart into operations of aten."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, world = kwargs or {}, _world()
        if func is torch.device:
            return func(*args, **kwargs)
        args = tuple(_with_index(x) for x in args)
        kwargs = {key: _with_index(value) for key, value in kwargs.items()}
        first = args[0] if args else None
        if isinstance(first, PretendTensor):
            if func in (F.scaled_dot_product_attention, F.rms_norm, torch.rms_norm):
                self._check(func, (args, kwargs))
                return _outside(world.do(func.__name__, _plain(func), *_inside((args, kwargs))))
            if func is torch.Tensor.tolist or func in _ITEM:
                world.wait(func.__name__)
                return func(first.inner)
            if func is torch.Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy; copy it to the host first")
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support for cuda" not in str(error):
                raise
        # A few functions ask a CPU build for the guard of a CUDA device before they dispatch.
        name = getattr(func, "__name__", str(func))
        if name in _WAITING:
            world.wait(name)
        inner_args, inner_kwargs = _inside((args, kwargs))
        return tree_map(_outside, world.do(name, _plain(func), inner_args, inner_kwargs))

    @staticmethod
    def _check(func, given):
        if any(type(x) is torch.Tensor for x in tree_leaves(given)):
            raise RuntimeError(
                f"Expected all tensors to be on the same device ({func.__name__} at {_line()})"
            )


def _inside(given: Any) -> Any:
    """On the CPU, tensors and devices alike."""

    def inner(x: Any) -> Any:
        if isinstance(x, PretendTensor):
            return x.inner
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == "cuda" else x

    return tree_map(inner, given)


def _outside(x: Any) -> Any:
    return PretendTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, PretendTensor) else x


def _with_index(x: Any) -> Any:
    """Without an index torch asks the driver which device is current."""
    if isinstance(x, str) and x.startswith("cuda"):
        return CUDA
    return CUDA if isinstance(x, torch.device) and x.type == "cuda" else x


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _num_bytes(name: str, given: Any, made: list[torch.Tensor]) -> int:
    """What a kernel reads and writes."""
    read = [x for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
    if name in _GATHERING:
        return 2 * min((x.nbytes for x in [*read, *made] if x.dim()), default=0)
    return sum(x.nbytes for x in [*read, *made])


def _written(name: str, func: Any, args: tuple, kwargs: dict) -> list[torch.Tensor]:
    """Tensors that an operation writes into, as its schema says, or its name where it has none."""
    if not hasattr(func, "_schema"):
        is_in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        return [args[0]] if is_in_place else []
    found = []
    for index, argument in enumerate(func._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        if argument.alias_info and argument.alias_info.is_write and isinstance(value, torch.Tensor):
            found.append(value)
    return found


def _one(func: Any) -> Callable:
    """The operation, or what stands in for one that a CPU has not."""
    return _flash if func.overloadpacket.__name__ == "_flash_attention_forward" else func


def _flash(q, k, v, bounds_q, bounds_k, max_q, max_k, dropout, is_causal, debug_mask, *, scale=None):
    """Flash attention over one sequence `(tokens, heads, head_dim)`, causal from its end."""
    (first_q, end_q), (first_k, end_k) = bounds_q.tolist(), bounds_k.tolist()
    assert (first_q, first_k) == (0, 0) and end_q == len(q) <= max_q and end_k <= max_k and not dropout
    assert is_causal and q.dtype in (torch.bfloat16, torch.float16) and bounds_k.dtype is torch.int32
    mask = torch.ones(end_q, end_k, dtype=torch.bool).tril(end_k - end_q)
    rows = (x.transpose(0, 1)[None] for x in (q, k[:end_k], v[:end_k]))
    attended = F.scaled_dot_product_attention(*rows, attn_mask=mask, scale=scale, enable_gqa=True)
    nothing = torch.zeros(0)
    return attended[0].transpose(0, 1).contiguous(), nothing, nothing, nothing, nothing


def _plain(func: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs)

    return call


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


def _line() -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/bench/" in frame.filename and "site-packages" not in frame.filename:
            return f"{frame.filename.rsplit('/bench/')[-1]}:{frame.lineno}"
    return "a test"


@contextlib.contextmanager
def pretend_cuda(costs: Costs | None = None) -> Iterator[World]:
    """While it lasts there is one CUDA GPU, an H100 by its name."""
    world = World(costs or Costs())
    world.stream = PretendStream()
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        uuid="11111111-2222-3333-4444-555555555555",
        L2_cache_size=1 << 16,
        total_memory=80 << 30,
        multi_processor_count=132,
        major=9,
        minor=0,
    )
    stand_ins: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda index: None,
        "current_device": lambda: 0,
        "get_device_name": lambda index=0: properties.name,
        "get_device_properties": lambda index=0: properties,
        "current_stream": lambda device=None: world.stream,
        "set_stream": lambda stream: setattr(world, "stream", stream),
        "stream": _StreamContext,
        "synchronize": lambda device=None: world.wait("synchronize"),
        "empty_cache": lambda: None,
        "_sleep": lambda cycles: setattr(
            world, "device_us", max(world.device_us, world.host_us) + cycles / 2000
        ),
        "graph_pool_handle": lambda: (0, 0),
        "_lazy_init": lambda: None,
        "Stream": PretendStream,
        "Event": PretendEvent,
        "CUDAGraph": PretendGraph,
    }
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._ensureCUDADeviceGuardSet()
    lift = torch._C._only_lift_cpu_tensors()
    _current.append(world)
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(torch, "Generator", PretendGenerator))
        stack.enter_context(mock.patch.object(torch._C, "_host_emptyCache", lambda: None, create=True))
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_Dispatch())
        stack.enter_context(_Function())
        try:
            yield world
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
            torch._C._set_only_lift_cpu_tensors(lift)
            _current.pop()
