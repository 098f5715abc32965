"""A CUDA GPU as a device: marks are events on its stream, so host delays are not counted as its work."""

import torch

from bench.errors import DeviceError

# Events are made beforehand: creating one inside a timed section would delay it.
_POOL = 8192


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
