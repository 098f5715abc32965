"""How much of a round the device waits for its host: launches, and the time of a round's kernels alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from bench.decoding.engine import Decoded
from bench.device import Device
from bench.variant import PREFILL, Variant

_NUM_LAUNCHES, _NUM_REPEATS = 200, 5

# Twice as long as the host needed before, as its pace varies.
_HOLD = 2.0


@dataclass(frozen=True)
class LaunchFacts:
    """The host's part in a round of one variant; None where it cannot be known, for the reason given.

    Attributes:
        launch_us: from one small kernel to the next, launched one by one.
        round_ms: a round as executed.
        kernels_ms: what it computes, without waiting for the host.
        busy_share: the second over the first: share of a round in which the device works.
        vocab_size: k of the rounds.
        draft_length: gamma of the rounds.
        reason: why there are none.
    """

    launch_us: float | None = None
    round_ms: float | None = None
    kernels_ms: float | None = None
    busy_share: float | None = None
    vocab_size: int | None = None
    draft_length: int | None = None
    reason: str | None = None


class QueuesRounds(Protocol):
    """What is asked of an engine."""

    def load(self, variant: Variant, prepared: Sequence[Any] = ()) -> None:
        """As of `Engine`."""

    def decode(self, prepared: Any, variant: Variant, max_rounds: int | None = None) -> Decoded:
        """As of `Engine`."""

    def queued_rounds_ms(
        self, prepared: Any, variant: Variant, hold: Callable[[], object], num_rounds: int
    ) -> float:
        """Device time of a round whose kernels never wait for the host."""


def launch_facts(
    device: Device, engine: QueuesRounds, prepared: Any, variant: Variant, num_rounds: int
) -> LaunchFacts:
    """Measures rounds of one variant as executed, and the same kernels without the host; takes a second.

    Args:
        device: where they run.
        engine: decodes.
        prepared: a prompt.
        variant: speculative.
        num_rounds: of each decode.
    """
    if not device.asynchronous:
        return LaunchFacts(reason="a call on this device returns when its work is done")
    engine.load(variant, [prepared])
    rounds_ms, kernels_ms = [], []
    for _ in range(_NUM_REPEATS + 1):
        decoded = engine.decode(prepared, variant, num_rounds)
        answer_ms = decoded.decode_ms - sum(decoded.laps_ms.get(PREFILL, []))
        rounds_ms.append(answer_ms / max(1, len(decoded.accepted)))
        hold_ms = _HOLD * decoded.wall_ms
        kernels_ms.append(
            engine.queued_rounds_ms(prepared, variant, partial(device.hold, hold_ms), num_rounds)
        )
    # The first round of each may have chosen kernels.
    round_ms, work_ms = float(np.median(rounds_ms[1:])), float(np.median(kernels_ms[1:]))
    return LaunchFacts(
        launch_us=launch_us(device),
        round_ms=round_ms,
        kernels_ms=work_ms,
        busy_share=min(1.0, work_ms / round_ms),
        vocab_size=variant.vocab_size,
        draft_length=variant.draft_length,
    )


def launch_us(device: Device) -> float:
    """Time from one of the smallest kernels to the next where each is launched on its own."""
    x, found = torch.zeros(1, device=device.torch_device), []
    for _ in range(_NUM_REPEATS + 1):
        device.recycle_marks(2)
        device.synchronize()
        start: object = device.mark()
        for _ in range(_NUM_LAUNCHES):
            x.add_(1)
        end = device.mark()
        device.synchronize()
        found.append(1e3 * device.elapsed_ms(start, end) / _NUM_LAUNCHES)
    return float(np.median(found[1:]))
