"""Times callables against each other: interleaved in random blocks, until each median is precise enough.

Two times of every variant are kept. *Device time* lies between two marks on the device's clock while the
host queues ahead, one synchronisation per block: what the work costs if the host keeps up. Before a graph the
device sleeps until the graph is queued, so that no launch is in its time. *Wall time* is
the host's, from an idle device to an idle device: how long a caller waits for the result, with launches and
Python. On a device that is not asynchronous the two are equal.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import numpy as np
import torch

from bench.config.run import CacheState, TimingConfig
from bench.device import Device
from bench.device.graphs import CapturedGraph
from bench.errors import DeviceError
from bench.measure.attempts import attempt
from bench.records import FailureRecord
from bench.stats.estimates import median

# Calls per warm-up window, and calls after which a warm-up ends in any case.
_WINDOW, _MAX_WARMUP_CALLS = 8, 100_000

# Many calls that the device does slowly are queued while it does the first of them.
_LONGEST_HOLD_MS = 20.0


Clock = Callable[[], int]


class Stopped(StrEnum):
    """Why the sampling of a variant ended."""

    precise = "precise"
    budget = "budget"
    max_samples = "max_samples"


def relative_half_width(samples_ms: list[float]) -> float:
    """Half of the 95% interval of the median over the median; infinite when the clock saw no time pass."""
    estimate = median(np.asarray(samples_ms))
    if estimate.value <= 0:
        return float("inf")
    return (estimate.ci_high - estimate.ci_low) / 2 / estimate.value


@dataclass(frozen=True)
class TimedSeries:
    """All samples of one variant; every time is per call.

    Attributes:
        name: the variant.
        device_ms: device time of every sample, in the order in which they were taken.
        wall_ms: synchronised wall time, as many; taken in the same blocks but not of the same calls.
        num_warmup: calls before the first sample.
        warmup_stable: whether the median was stable by then; otherwise the warm-up ran out of time.
        calls_per_sample: calls that share one sample, because one would be too short to time.
        stopped: why there are no more samples.
        relative_half_width: half of the 95% interval of the median device time, over the median.
        cache: `cold` or `warm`.
        blocks_ns: begin and end of every block on the host's clock (`time.perf_counter_ns`), for telemetry.
    """

    name: str
    device_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    num_warmup: int
    warmup_stable: bool
    calls_per_sample: int
    stopped: Stopped
    relative_half_width: float
    cache: str
    blocks_ns: tuple[tuple[int, int], ...]


def time_variants(
    device: Device,
    variants: Mapping[str, Callable[[], object]],
    config: TimingConfig,
    seed: int,
    clock_ns: Clock = time.perf_counter_ns,
) -> Iterator[TimedSeries | FailureRecord]:
    """Times every variant until its median is precise enough, or its samples or its time are used up.

    Variants are warmed up one after the other. Then every block times each unfinished variant once, in a
    seeded random order, so that a slow drift of the machine favours none of them. A variant that fails is
    dropped, and the others are timed.

    Args:
        device: where the variants run.
        variants: callables by name. They may queue work and return before it is done.
        config: cache state, precision wanted and effort allowed.
        seed: of the order.
        clock_ns: the host's clock.

    Yields:
        One series per variant as soon as it is done, or its failure, whose case is the variant's name.

    Raises:
        DeviceError: a cold cache was asked for on a device that does not report the size of its cache.
        LostDeviceError: this process cannot use the device any more.
    """
    if config.cache is CacheState.cold and device.cache_bytes is None:
        raise DeviceError(f"{device.name} does not say how large its cache is; set timing.cache=warm")
    return _take_turns(_Sampler(device, config, clock_ns), variants, config, seed)


def _take_turns(
    sampler: "_Sampler", variants: Mapping[str, Callable[[], object]], config: TimingConfig, seed: int
) -> Iterator[TimedSeries | FailureRecord]:
    with _no_garbage_collection():
        active: list[Growing] = []
        for name, call in variants.items():
            warm = attempt((name,), partial(sampler.warm_up, name, call))
            if isinstance(warm, FailureRecord):
                yield warm
            else:
                active.append(warm)
        block = 0
        while active:
            turns = list(active)
            random.Random(repr((seed, block))).shuffle(turns)
            for one in turns:
                failure = attempt((one.name,), partial(sampler.run_block, one))
                if failure or one.stopped:
                    active.remove(one)
                    yield failure or one.freeze(config)
            block += 1


@dataclass(eq=False)
class Growing:
    """A series that is being measured; attributes as of `TimedSeries`.

    `hold_ms` is how long the device waits for the host before every sample.
    """

    name: str
    call: Callable[[], object]
    num_warmup: int
    warmup_stable: bool
    calls_per_sample: int
    hold_ms: float = 0.0
    device_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    blocks_ns: list[tuple[int, int]] = field(default_factory=list)
    half_width: float = float("inf")
    stopped: Stopped | None = None

    def spent_s(self) -> float:
        """Time of all blocks."""
        return sum(end - start for start, end in self.blocks_ns) / 1e9

    def freeze(self, config: TimingConfig) -> TimedSeries:
        """The series, which has stopped."""
        assert self.stopped is not None
        return TimedSeries(
            name=self.name,
            device_ms=tuple(self.device_ms),
            wall_ms=tuple(self.wall_ms),
            num_warmup=self.num_warmup,
            warmup_stable=self.warmup_stable,
            calls_per_sample=self.calls_per_sample,
            stopped=self.stopped,
            relative_half_width=self.half_width,
            cache=config.cache.name,
            blocks_ns=tuple(self.blocks_ns),
        )


class _Sampler:
    def __init__(self, device: Device, config: TimingConfig, clock_ns: Clock):
        self._device, self._config, self._clock_ns = device, config, clock_ns
        self._is_cold = config.cache is CacheState.cold

    def warm_up(self, name: str, call: Callable[[], object]) -> Growing:
        """Calls the variant until two windows in a row have about the same median, or the time is over."""
        config, begin_ns = self._config, self._clock_ns()
        times_ms: list[float] = []
        stable = False
        while len(times_ms) < _MAX_WARMUP_CALLS:
            times_ms += self._wall_ms(call, 1, 1)
            elapsed_s = (self._clock_ns() - begin_ns) / 1e9
            if len(times_ms) % _WINDOW == 0:
                stable = _is_stable(times_ms, config.warmup_tolerance)
            if elapsed_s >= config.max_warmup_s or (stable and elapsed_s >= config.min_warmup_s):
                break
        num_calls = len(times_ms)
        calls_per_sample, hold_ms = 1, 0.0
        if isinstance(call, CapturedGraph):
            hold_ms = self._hold_ms(call)
            num_calls += _WINDOW
        if not self._is_cold:
            one_ms = float(np.median(times_ms[-_WINDOW:]))
            if self._device.asynchronous:
                # The wall time of one call is mostly launch, so the device is asked.
                one_ms = float(np.median(self._device_ms(call, 1, _WINDOW, hold_ms)))
                num_calls += _WINDOW
            calls_per_sample = _calls_needed(one_ms, config.min_sample_ms)
        hold_ms = min(calls_per_sample * hold_ms, _LONGEST_HOLD_MS)
        return Growing(name, call, num_calls, stable, calls_per_sample, hold_ms)

    def _hold_ms(self, call: Callable[[], object]) -> float:
        """Twice as long as the host needs to queue one call."""
        queued_ms = []
        for _ in range(_WINDOW):
            self._device.synchronize()
            begin_ns = self._clock_ns()
            call()
            queued_ms.append((self._clock_ns() - begin_ns) / 1e6)
        self._device.synchronize()
        return 2 * float(np.median(queued_ms))

    def run_block(self, series: Growing) -> None:
        """One turn of one variant; decides whether it needs another."""
        config, calls = self._config, series.calls_per_sample
        count = min(config.samples_per_block, config.max_samples - len(series.device_ms))
        begin_ns = self._clock_ns()
        # The variant before this one left its own code and data in the caches.
        series.call()
        self._device.synchronize()
        device_ms = self._device_ms(series.call, calls, count, series.hold_ms)
        wall_ms = self._wall_ms(series.call, calls, count) if self._device.asynchronous else device_ms
        series.blocks_ns.append((begin_ns, self._clock_ns()))
        series.device_ms += device_ms
        series.wall_ms += wall_ms
        series.half_width = relative_half_width(series.device_ms)
        series.stopped = self._reason_to_stop(series)

    def _reason_to_stop(self, series: Growing) -> Stopped | None:
        config, num_samples = self._config, len(series.device_ms)
        if num_samples >= config.min_samples and series.half_width <= config.target_half_width:
            return Stopped.precise
        if num_samples >= config.max_samples:
            return Stopped.max_samples
        return Stopped.budget if series.spent_s() >= config.budget_s else None

    def _device_ms(
        self, call: Callable[[], object], calls: int, num_samples: int, hold_ms: float
    ) -> list[float]:
        device, marks = self._device, []
        device.recycle_marks(2 * num_samples)
        for _ in range(num_samples):
            if self._is_cold:
                device.evict_cache()
            if hold_ms:
                device.hold(hold_ms)
            start = device.mark()
            for _ in range(calls):
                call()
            marks.append((start, device.mark()))
        device.synchronize()
        return [device.elapsed_ms(start, end) / calls for start, end in marks]

    def _wall_ms(self, call: Callable[[], object], calls: int, num_samples: int) -> list[float]:
        times = []
        for _ in range(num_samples):
            if self._is_cold:
                self._device.evict_cache()
            self._device.synchronize()
            begin_ns = self._clock_ns()
            for _ in range(calls):
                call()
            self._device.synchronize()
            times.append((self._clock_ns() - begin_ns) / 1e6 / calls)
        return times


def _is_stable(times_ms: list[float], tolerance: float) -> bool:
    """Whether the last two windows have about the same median."""
    if len(times_ms) < 2 * _WINDOW:
        return False
    before = float(np.median(times_ms[-2 * _WINDOW : -_WINDOW]))
    return abs(float(np.median(times_ms[-_WINDOW:])) - before) <= tolerance * before


def _calls_needed(one_ms: float, min_sample_ms: float) -> int:
    if one_ms <= 0:
        return 1000
    return max(1, int(np.ceil(min_sample_ms / one_ms)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a sample would be charged to that sample."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_NUM_MARKS = 513

# Work that is queued before the marks; doubled until the device is busy for longer than marking takes.
_FIRST_WORKS, _MOST_WORKS = 64, 8192

_MATRIX = 2048

# A float in ms does not resolve finer differences.
_DECIMALS = 7


@dataclass(frozen=True)
class TimerFacts:
    """A device's clock.

    Attributes:
        resolution_ms: its step: the smallest difference between two distances of marks; None if all distances
            were zero.
        mark_ms: median distance between two marks with nothing in between: what a mark adds to a lap.
        is_device_pace: whether that is the device's time for a mark. If an asynchronous device could not be
            kept busy, it is the host's time for making one, which laps of a busy device do not contain.
    """

    resolution_ms: float | None
    mark_ms: float
    is_device_pace: bool = True


def timer_facts(device: Device, clock_ns: Clock = time.perf_counter_ns) -> TimerFacts:
    """Makes marks one after the other, in less than a second.

    An idle device passes every mark as soon as the host has made it, so that the distances show the speed of
    the host. An asynchronous device therefore gets work first, and reaches the marks when all are queued.

    Args:
        device: its marks are made.
        clock_ns: the host's clock.
    """
    if not device.asynchronous:
        device.recycle_marks(_NUM_MARKS)
        return _facts(device, [device.mark() for _ in range(_NUM_MARKS)], True)
    work, num_works = _work(device), _FIRST_WORKS
    work()
    while True:
        device.recycle_marks(_NUM_MARKS + 1)
        device.synchronize()
        begin_ns, begin = clock_ns(), device.mark()
        for _ in range(num_works):
            work()
        marks = [device.mark() for _ in range(_NUM_MARKS)]
        host_ms = (clock_ns() - begin_ns) / 1e6
        device.synchronize()
        # The device began no earlier than the host did, and reached the first mark after all of the work.
        was_busy = device.elapsed_ms(begin, marks[0]) >= host_ms
        if was_busy or num_works >= _MOST_WORKS:
            return _facts(device, marks, was_busy)
        num_works *= 2


def _work(device: Device) -> Callable[[], object]:
    """Work that takes the device much longer than the host needs to queue it."""
    if device.cache_bytes is not None:
        return device.evict_cache
    matrix = torch.ones(_MATRIX, _MATRIX, device=device.torch_device)
    product = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=product)


def _facts(device: Device, marks: list[object], is_device_pace: bool) -> TimerFacts:
    device.synchronize()
    gaps = np.array([device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False)])
    # Every distance is a number of steps, so their differences are too, and distances alone hide the step
    # where it is shorter than a mark.
    steps = np.diff(np.unique(np.round([0.0, *gaps], _DECIMALS)))
    return TimerFacts(float(steps.min()) if len(steps) else None, float(np.median(gaps)), is_device_pace)
