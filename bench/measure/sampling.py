"""Times callables against each other: interleaved in random blocks, until the median is known well enough.

Two times of every variant are kept. *Device time* lies between two marks on the device's clock while the
host queues ahead, one synchronisation per block: what the work costs where the host keeps up. *Wall time* is
the host's, from an idle device to an idle device: what somebody who waits for the result pays, launches and
Python included. On a device that is not asynchronous they are one and the same.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np

from bench.config.timing import CacheState, TimingConfig
from bench.device import Device
from bench.errors import DeviceError
from bench.measure.attempts import attempt
from bench.measure.series import Growing, Stopped, TimedSeries, relative_half_width
from bench.records import FailureRecord

# Calls per warm-up window, and calls after which a warm-up ends whatever the clock says.
_WINDOW, _MAX_WARMUP_CALLS = 8, 100_000

Clock = Callable[[], int]


def time_variants(
    device: Device,
    variants: Mapping[str, Callable[[], object]],
    config: TimingConfig,
    seed: int,
    clock_ns: Clock = time.perf_counter_ns,
) -> Iterator[TimedSeries | FailureRecord]:
    """Times every variant until its median is precise enough, or its samples or its time are used up.

    Variants are warmed up one after the other. Then every block gives each one that is not done its turn,
    in a seeded random order, so that a slow drift of the machine favours none of them. One that fails leaves,
    and the others go on.

    Args:
        device: where the variants run.
        variants: callables by name. They may queue work and return before it is done.
        config: cache state, precision wanted and effort allowed.
        seed: of the order.
        clock_ns: the host's clock.

    Yields:
        One series per variant as soon as it is done, or why there is none; the case of a failure is the name.

    Raises:
        DeviceError: a cold cache was asked for on a device that does not say how large its cache is.
        LostDeviceError: the device is of no more use to this process.
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


class _Sampler:
    def __init__(self, device: Device, config: TimingConfig, clock_ns: Clock):
        self._device, self._config, self._clock_ns = device, config, clock_ns
        self._is_cold = config.cache is CacheState.cold

    def warm_up(self, name: str, call: Callable[[], object]) -> Growing:
        """Calls until two windows in a row have about the same median, within the times allowed."""
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
        calls_per_sample = 1
        if not self._is_cold:
            one_ms = float(np.median(times_ms[-_WINDOW:]))
            if self._device.asynchronous:
                # The wall time of one call is mostly launch, so the device is asked.
                one_ms = float(np.median(self._device_ms(call, 1, _WINDOW)))
                num_calls += _WINDOW
            calls_per_sample = _calls_needed(one_ms, config.min_sample_ms)
        return Growing(name, call, num_calls, stable, calls_per_sample)

    def run_block(self, series: Growing) -> None:
        """One turn of one variant; decides whether it needs another."""
        config, calls = self._config, series.calls_per_sample
        count = min(config.samples_per_block, config.max_samples - len(series.device_ms))
        begin_ns = self._clock_ns()
        # The variant before this one left its own code and data in the caches, which is not what is timed.
        series.call()
        self._device.synchronize()
        device_ms = self._device_ms(series.call, calls, count)
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

    def _device_ms(self, call: Callable[[], object], calls: int, num_samples: int) -> list[float]:
        device, marks = self._device, []
        device.recycle_marks(2 * num_samples)
        for _ in range(num_samples):
            if self._is_cold:
                device.evict_cache()
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
