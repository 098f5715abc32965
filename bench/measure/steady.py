"""Variants decoding without a pause, one after the other, for sensors of energy that are slow."""

import time
from collections.abc import Callable, Iterator, Sequence

from bench.decoding.decoder import Prefill
from bench.decoding.timeline import Timeline
from bench.measure.attempts import attempt
from bench.measure.cases import EncodedPrompt
from bench.measure.rig import Rig
from bench.measure.variants import Variant, shuffled
from bench.models.eagle3 import DraftHead
from bench.records import FailureRecord, SteadyRecord
from bench.records.cases import Done
from bench.telemetry.clock import now_s

# How often a GPU's sensors are read inside of it; some see only a part of that time, always the same.
_SENSOR_PERIOD_S = 0.1


def run_steadily(
    rig: Rig,
    domain: str,
    prompts: Sequence[EncodedPrompt],
    variants: Sequence[Variant],
    head_of: Callable[[int], DraftHead],
    seconds: float,
    done: Done,
) -> Iterator[SteadyRecord | FailureRecord]:
    """Two windows of every variant, but those that earlier sessions have.

    Args:
        rig: the pair.
        domain: of the prompts.
        prompts: the prompts.
        variants: ways to decode.
        head_of: the draft's head of a size.
        seconds: how long a window is at least.
        done: records of earlier sessions.
    """
    for variant, window in in_windows(variants, rig.seed, domain):
        size, gamma = variant.vocab_size, variant.draft_length
        case = ("steady", domain, size, gamma, window)
        if done.has(case):
            continue

        def work(variant: Variant = variant, window: int = window) -> SteadyRecord:
            head = head_of(variant.vocab_size) if variant.draft_length else None
            prefills = [rig.decoder.prefill(prompt.token_ids) for prompt in prompts]
            return decode_steadily(rig, domain, prefills, variant, head, seconds, window)

        yield attempt(case, work)


def in_windows(variants: Sequence[Variant], seed: int, domain: str) -> list[tuple[Variant, int]]:
    """Two windows of each, numbered: a seeded random order, then the same backwards.

    A device that warms up steadily then favours none: the mean place of all is the same.
    """
    order = shuffled(variants, seed, "steady", domain)
    return [(variant, 0) for variant in order] + [(variant, 1) for variant in reversed(order)]


def decode_steadily(
    rig: Rig,
    domain: str,
    prefills: Sequence[Prefill],
    variant: Variant,
    head: DraftHead | None,
    seconds: float,
    window: int,
) -> SteadyRecord:
    """Decodes prompt after prompt with one variant, at least once each and until the time is over.

    Args:
        rig: the pair.
        domain: of the prompts.
        prefills: what the target made of every prompt.
        variant: how to decode.
        head: the draft's; None for plain decoding.
        seconds: how long at least.
        window: number of this window; each begins at another phase of the sensors' period.
    """
    num_tokens = 0
    rig.device.synchronize()
    start_s = _wait_for_phase(window)
    while not num_tokens or now_s() - start_s < seconds:
        for prefill in prefills:
            silent = Timeline(lambda: None)
            if head is None:
                decoded = rig.decoder.plain(prefill, silent)
            else:
                decoded = rig.decoder.speculative(prefill, rig.draft, head, variant.draft_length, silent)
            num_tokens += len(decoded.token_ids) - 1
        rig.device.synchronize()
    size, gamma = variant.vocab_size, variant.draft_length
    return SteadyRecord(domain, size, gamma, num_tokens, round(start_s, 6), round(now_s(), 6), window)


def _wait_for_phase(
    window: int, clock: Callable[[], float] = now_s, sleep: Callable[[float], None] = time.sleep
) -> float:
    """Half a period apart for two windows; returns the time when it is over."""
    phase_s = (window % 2) * _SENSOR_PERIOD_S / 2
    sleep((phase_s - clock()) % _SENSOR_PERIOD_S)
    return clock()
