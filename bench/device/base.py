"""What the rest of the program asks of a device: where tensors go, marks on its clock, an empty cache."""

from typing import Any, Protocol

import torch

# A point on the device's clock; opaque outside its device.
Mark = Any


class Device(Protocol):
    """One device that models run on.

    Marks are cheap and never wait for the device; read their distance only after `synchronize`, and before
    the next `recycle_marks`.

    Attributes:
        name: as it appears in results.
        torch_device: where tensors go.
        uuid: of a GPU or a MIG slice, as the driver names it everywhere; None for a CPU.
        asynchronous: whether a call may return before its work is done.
        has_graphs: whether work can be captured as a CUDA graph.
        cache_bytes: last cache before memory (L2 of a GPU); None where it cannot be known.
    """

    name: str
    torch_device: torch.device
    uuid: str | None
    asynchronous: bool
    has_graphs: bool
    cache_bytes: int | None

    def mark(self) -> Mark:
        """The point where work queued so far ends."""

    def recycle_marks(self, num_marks: int = 0) -> None:
        """Before a timing begins: all marks made so far were read, and about so many will be made.

        Any number may be made; those beyond may delay the host when they are.
        """

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """Device time between two marks, once the device has passed both."""

    def synchronize(self) -> None:
        """Waits until all queued work is done."""

    def evict_cache(self) -> None:
        """Queues a write of a buffer larger than the cache, after which the cache holds nothing else.

        Raises:
            DeviceError: the size of the cache is not known.
        """
