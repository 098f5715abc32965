"""Parts of rounds timed on their own: with a cold and with a warm cache, on a GPU as CUDA graphs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from bench.config import CacheState, TimingConfig
from bench.config.run import Execution
from bench.decoding.engine import Part, PartKey
from bench.device import Device
from bench.device.graphs import execute_as, executions
from bench.measure.attempts import attempt
from bench.measure.timing import TimedSeries, time_variants
from bench.records import FailureRecord, IsolatedRecord
from bench.records.kinds import Case
from bench.records.store import Done
from bench.telemetry.samples import offset_s

# Calls in one graph where the cache is warm: its launch takes longer than the kernels of a small part.
_CALLS_IN_GRAPH = 16


@dataclass(frozen=True)
class _Way:
    """One part, executed in one way."""

    key: PartKey
    execution: Execution

    @property
    def label(self) -> str:
        return f"{self.key.label} {self.execution.value}"

    def case(self, cache: CacheState) -> Case:
        """Of its record."""
        key = self.key
        how = (cache.value, self.execution.value)
        return IsolatedRecord.case_of(key.part, key.vocab_size, key.num_tokens, *how)


def time_parts(
    device: Device, parts: Mapping[PartKey, Part], timing: TimingConfig, seed: int, done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Times parts with a cold and a warm cache; parts of one kind take turns. Those in `done` are left out.

    On a CUDA GPU a part that cannot be captured is timed eagerly, unless graphs are asked for. A device that
    does not report the size of its cache gets warm times only.

    Args:
        device: where they run.
        parts: what to time.
        timing: effort and execution; its cache state is not used.
        seed: of the order.
        done: records of earlier sessions.

    Raises:
        DeviceError: this device cannot execute as asked.
    """
    ways = executions(device, timing.execution)
    has_cold = device.cache_bytes is not None
    caches = [cache for cache in CacheState if has_cold or cache is not CacheState.cold]
    by_kind = sorted(parts, key=lambda key: key.part)
    for _, keys in groupby(by_kind, key=lambda key: key.part):
        missing = {
            key: [c for c in caches if not any(done.has(_Way(key, how).case(c)) for how in ways)]
            for key in keys
        }
        yield from _time_kind(device, parts, missing, ways, timing, seed)


def _time_kind(
    device: Device,
    parts: Mapping[PartKey, Part],
    missing: Mapping[PartKey, list[CacheState]],
    ways: Sequence[Execution],
    timing: TimingConfig,
    seed: int,
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Parts of one kind; a part that cannot be prepared or that fails does not stop the others."""
    failed: set[_Way] = set()
    by_label: dict[str, _Way] = {}
    for cache in CacheState:
        calls: dict[str, Callable[[], object]] = {}
        for key in (key for key, states in missing.items() if cache in states):
            for way in (way for how in ways if (way := _Way(key, how)) not in failed):
                case = ("isolated", key.part, key.vocab_size, key.num_tokens, way.execution.value)
                part = _repeated(parts[key], _calls_at_once(way, cache))
                call = attempt(case, partial(execute_as, device, part, way.execution))
                if isinstance(call, FailureRecord):
                    failed.add(way)
                    yield replace(call, was_asked_for=timing.execution is not Execution.auto)
                else:
                    calls[way.label], by_label[way.label] = call, way
                    break
        for found in time_variants(device, calls, replace(timing, cache=cache), seed) if calls else ():
            if isinstance(found, FailureRecord):
                yield replace(found, case=list(by_label[str(found.case[0])].case(cache)))
            else:
                way = by_label[found.name]
                yield _record(way, found, _calls_at_once(way, cache))


def _calls_at_once(way: _Way, cache: CacheState) -> int:
    """A part with a cold cache runs once after every eviction."""
    return _CALLS_IN_GRAPH if way.execution is Execution.graph and cache is CacheState.warm else 1


def _repeated(part: Part, times: int) -> Part:
    if times == 1:
        return part

    def call() -> None:
        for _ in range(times):
            part()

    return call


def _record(way: _Way, series: TimedSeries, calls_at_once: int) -> IsolatedRecord:
    return IsolatedRecord(
        part=way.key.part,
        vocab_size=way.key.vocab_size,
        num_tokens=way.key.num_tokens,
        cache=series.cache,
        device_ms=[round(ms / calls_at_once, 5) for ms in series.device_ms],
        wall_ms=[round(ms / calls_at_once, 5) for ms in series.wall_ms],
        calls_per_sample=series.calls_per_sample * calls_at_once,
        stopped=str(series.stopped),
        relative_half_width=series.relative_half_width,
        execution=way.execution.value,
        num_warmup=series.num_warmup,
        warmup_stable=series.warmup_stable,
        block_start_s=[round(start / 1e9 + offset_s(), 4) for start, _ in series.blocks_ns],
    )
