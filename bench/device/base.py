"""What the rest of the program asks of a device: where tensors go, and marks on its clock."""

from typing import Any, Protocol

import torch

# A point on the device's clock; opaque outside its device.
Mark = Any


class Device(Protocol):
    """One device that models run on.

    Marks are cheap and never wait for the device; read their distance only after `synchronize`.
    """

    name: str
    torch_device: torch.device

    def mark(self) -> Mark:
        """The point where work queued so far ends."""

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """Device time between two marks, once the device has passed both."""

    def synchronize(self) -> None:
        """Waits until all queued work is done."""
