"""A CUDA GPU as a device: marks are events on its stream, so host delays are not counted as its work."""

import torch

from bench.errors import DeviceError

# Events are made beforehand: creating one inside a timed section would delay it.
_POOL = 8192

# L2 does not replace strictly the oldest line, so a buffer of just its size leaves some of the old in.
_EVICTION_FACTOR = 3


class CudaDevice:
    """Runs on one visible GPU."""

    def __init__(self, index: int):
        if not torch.cuda.is_available():
            raise DeviceError(
                f"gpu={index} asks for CUDA, which this machine or this torch does not have; use gpu=cpu"
            )
        if index >= torch.cuda.device_count():
            raise DeviceError(
                f"gpu={index} does not exist: {torch.cuda.device_count()} GPU(s) are visible, numbered from 0"
            )
        torch.cuda.set_device(index)
        self.torch_device = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)
        properties = torch.cuda.get_device_properties(index)
        self.uuid: str | None = str(properties.uuid)
        self.asynchronous = True
        self.cache_bytes: int | None = properties.L2_cache_size or None
        self._buffer: torch.Tensor | None = None
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(_POOL)]
        self._next = 0

    def mark(self) -> torch.cuda.Event:
        """An event recorded on the current stream.

        The pool is a ring: a mark stays valid until `_POOL` more were made, which is more than one
        decoded answer makes.
        """
        event = self._events[self._next % _POOL]
        self._next += 1
        event.record()
        return event

    def elapsed_ms(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Device time between two marks."""
        return start.elapsed_time(end)

    def synchronize(self) -> None:
        """Waits for the GPU."""
        torch.cuda.synchronize(self.torch_device)

    def evict_cache(self) -> None:
        """Queues a write of three times the L2 on the current stream, before whatever comes next there."""
        if self._buffer is None:
            if self.cache_bytes is None:
                raise DeviceError(
                    f"{self.name} does not say how large its L2 is, so cache=cold is impossible"
                )
            size = _EVICTION_FACTOR * self.cache_bytes
            self._buffer = torch.empty(size, dtype=torch.uint8, device=self.torch_device)
        self._buffer.zero_()
