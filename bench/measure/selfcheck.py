"""Are the instruments right here? The same work under two names must take the same time, and other work not.

Every comparison is of pairs that were measured next to each other, in random order, so that a slow drift of
the machine is in both; its interval holds whatever the distribution (`bench.measure.stats.median_ratio`).
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bench.config import CacheState, TimingConfig
from bench.decoding.timeline import Timeline
from bench.device import Device
from bench.errors import DeviceError
from bench.measure.cases import EncodedPrompt
from bench.measure.rig import Rig
from bench.measure.sampling import time_variants
from bench.measure.series import TimedSeries
from bench.measure.session import DECODE, Session
from bench.measure.stats import CONFIDENCE, Estimate, Floats, median_ratio
from bench.measure.timer import TimerFacts
from bench.measure.variants import Variant
from bench.models.eagle3 import DraftHead
from bench.records import DecodeRecord, FailureRecord

# More than this share of what is timed, and the timing itself is what is measured.
MOST_OVERHEAD = 0.01
# A mark costs the host of an asynchronous device a launch, which rounds that are bound by launches pay for.
_MOST_LAUNCHES = 0.05
# Laps leave out what happens before the first and after the last of them.
_MOST_OUTSIDE = 0.05
_BUSY = "something else may use this machine: let nothing run beside a measurement, then run this again"


@dataclass(frozen=True)
class Check:
    """One question about the instruments.

    Attributes:
        name: short.
        passed: the answer.
        finding: what was seen, with figures.
        remedy: what to do where it did not pass.
        ratio: of the two things compared; None where nothing was compared.
        num_pairs: behind the ratio.
        attempt: 1, or 2 for what was repeated because it did not pass at first.
        note: what to bear in mind although it passed; None where there is nothing.
    """

    name: str
    passed: bool
    finding: str
    remedy: str
    ratio: Estimate | None = None
    num_pairs: int = 0
    attempt: int = 1
    note: str | None = None


Pairs = tuple[Floats, Floats]


def same(name: str, pairs: Pairs, num_comparisons: int, attempt: int = 1) -> Check:
    """Two names of one thing: their ratio's interval must hold 1.

    Args:
        name: what was measured twice.
        pairs: times of either `(n,)`.
        num_comparisons: that share the 5% of false alarms.
        attempt: 1 or 2.
    """
    ratio = median_ratio(*pairs, _shared(num_comparisons))
    found = (
        f"{_told(ratio)} over {len(pairs[0])} pairs; a difference of {_smallest(ratio):.1%} would have shown"
    )
    return Check(name, ratio.ci_low <= 1 <= ratio.ci_high, found, _BUSY, ratio, len(pairs[0]), attempt)


def different(name: str, pairs: Pairs, expected: float) -> Check:
    """Two different things: the first must be found slower."""
    ratio = median_ratio(*pairs)
    found = f"{_told(ratio)} over {len(pairs[0])} pairs; about {expected:.2f} is expected"
    remedy = f"differences of this size are not found here: {_BUSY}"
    return Check(name, ratio.ci_low > 1, found, remedy, ratio, len(pairs[0]))


def fine_clock(timer: TimerFacts, samples_ms: Mapping[str, float]) -> Check:
    """The clock against what it times.

    It is wrong where it stands still, or where even the longest sample is too short for it. A part that is
    short beside a mark is a fact about that part, and no fault of the clock: it gets a note.

    Args:
        timer: the clock.
        samples_ms: duration of one sample of every part: of all the calls that share it.
    """
    longest, step = max(samples_ms.values()), timer.resolution_ms
    told = "unknown" if step is None else f"{step * 1e3:.3g} us"
    whose = "" if timer.is_device_pace else " (of the host: the device could not be kept busy)"
    dear = max(timer.mark_ms, step or 0.0)
    short = [name for name, ms in samples_ms.items() if dear > MOST_OVERHEAD * ms]
    found = (
        f"resolution {told}, a mark costs {timer.mark_ms * 1e3:.3g} us{whose}; samples take "
        f"{min(samples_ms.values()) * 1e3:.3g} to {longest * 1e3:.3g} us"
    )
    note = None
    if short:
        names = ", ".join(short)
        note = f"a mark is more than {MOST_OVERHEAD:.0%} of {names}: read latencies as short as upper bounds"
    passed = step is not None and step <= MOST_OVERHEAD * longest
    return Check("clock", passed, found, "the clock is too coarse here: update the driver", note=note)


def small_overhead(pairs: Pairs, asynchronous: bool = False) -> Check:
    """Decodes with laps against decodes without.

    Args:
        pairs: times of either `(n,)`.
        asynchronous: whether the device is. Its host pays a launch for every mark; where rounds are bound by
            launches that shows, and up to 5% of it is a note.
    """
    ratio = median_ratio(*pairs)
    found = f"with laps over without: {_told(ratio)} over {len(pairs[0])} pairs"
    remedy = f"laps cost more than {MOST_OVERHEAD:.0%}: latencies are upper bounds, or {_BUSY}"
    passed = ratio.ci_low <= 1 + (_MOST_LAUNCHES if asynchronous else MOST_OVERHEAD)
    is_dear = passed and ratio.ci_low > 1 + MOST_OVERHEAD
    note = f"rounds are bound by launches: their laps cost about {ratio.value - 1:.1%}" if is_dear else None
    return Check("overhead of laps", passed, found, remedy, ratio, len(pairs[0]), note=note)


def laps_add_up(records: Iterable[DecodeRecord]) -> Check:
    """Time on the device's clock against the host's clock around it."""
    shares = np.array([record.decode_ms / record.wall_ms for record in records])
    share = float(np.median(shares))
    found = f"laps are {share:.1%} of the wall time of a decode (median of {len(shares)})"
    passed = 1 - _MOST_OUTSIDE <= share <= 1 + MOST_OVERHEAD
    return Check("device against wall time", passed, found, "the two clocks disagree: update the driver")


def blocks_of(series: TimedSeries, size: int) -> Floats:
    """Median of every block of samples: those of one block share the moment, blocks do not."""
    times = np.array(series.device_ms)
    return np.median(times[: len(times) // size * size].reshape(-1, size), axis=1)


def time_heads(
    device: Device, calls: dict[str, Callable[[], object]], timing: TimingConfig, seed: int
) -> tuple[dict[str, Floats], dict[str, int]]:
    """Block medians by name, cut to equal numbers, and calls that share a sample; cold where possible."""
    cache = CacheState.warm if device.cache_bytes is None else CacheState.cold
    config = TimingConfig(**{**vars(timing), "cache": cache})
    found = []
    for series in time_variants(device, calls, config, seed):
        if isinstance(series, FailureRecord):
            raise DeviceError(f"{series.case[0]} cannot be timed here: {series.message}")
        found.append(series)
    blocks = {series.name: blocks_of(series, config.samples_per_block) for series in found}
    shortest = min(map(len, blocks.values()))
    times = {name: medians[:shortest] for name, medians in blocks.items()}
    return times, {series.name: series.calls_per_sample for series in found}


def decode_twice(
    rig: Rig, prompts: list[EncodedPrompt], head: DraftHead, draft_length: int, num_repeats: int, seed: int
) -> tuple[Pairs, list[DecodeRecord]]:
    """Whole decodes under two names, which a coin gives to either of two neighbours."""
    session, coin = Session(rig), random.Random(seed)
    records: list[DecodeRecord] = []
    cases = [(DECODE, Variant(head.size, draft_length))] * 2 * num_repeats
    for prompt in prompts:
        found = session.measure("selfcheck", prompt, cases, {head.size: head}, rounds=1)
        records += [record for record in found if isinstance(record, DecodeRecord)]
    pairs = [(a.decode_ms, b.decode_ms) for a, b in zip(records[::2], records[1::2], strict=True)]
    named = [pair if coin.random() < 0.5 else pair[::-1] for pair in pairs]
    first, second = (np.array(side) for side in zip(*named, strict=True))
    return (first, second), records


def with_and_without_laps(
    rig: Rig, prompts: list[EncodedPrompt], head: DraftHead, draft_length: int, num_repeats: int, seed: int
) -> Pairs:
    """Decodes with a mark at every step, and with none in between, in random order `(n,)` each, in ms."""
    coin, found = random.Random(seed), []
    for prompt in prompts:
        prefill = rig.decoder.prefill(prompt.token_ids)
        for _ in range(num_repeats):
            took = {}
            for is_lapped in (True, False) if coin.random() < 0.5 else (False, True):
                whole = rig.timeline(draft_length)  # either makes room for marks
                timeline = whole if is_lapped else Timeline(lambda: None)
                rig.device.synchronize()
                start = rig.device.mark()
                rig.decoder.speculative(prefill, rig.draft, head, draft_length, timeline)
                end = rig.device.mark()
                rig.device.synchronize()
                took[is_lapped] = rig.device.elapsed_ms(start, end)
            found.append((took[True], took[False]))
    lapped, silent = (np.array(side) for side in zip(*found, strict=True))
    return lapped, silent


def _shared(num_comparisons: int) -> float:
    """Confidence of one of several comparisons, so that all hold together at 95% (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / num_comparisons


def _smallest(ratio: Estimate) -> float:
    return max(ratio.ci_high / ratio.value, ratio.value / ratio.ci_low if ratio.ci_low else float("inf")) - 1


def _told(ratio: Estimate) -> str:
    return f"{ratio.value:.4f} [{ratio.ci_low:.4f}, {ratio.ci_high:.4f}]"
