"""What is measured once a run and outside of rounds: parts on their own, and the baseline's own baseline."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch

from bench.config import CacheState, TimingConfig
from bench.config.timing import Execution
from bench.device import Device
from bench.device.graphs import execute_as, executions
from bench.measure.attempts import attempt
from bench.measure.cases import EncodedPrompt, Probes
from bench.measure.isolated import Part, PartKey, isolated_parts
from bench.measure.rig import Rig
from bench.measure.sampling import time_variants
from bench.measure.series import TimedSeries
from bench.records import BaselineRecord, FailureRecord, IsolatedRecord
from bench.records.cases import Case, Done
from bench.telemetry.clock import offset_s


@dataclass(frozen=True)
class _Way:
    """One part, executed in one way."""

    key: PartKey
    execution: Execution

    @property
    def label(self) -> str:
        return f"{self.key.label} {self.execution.value}"

    def case(self, cache: CacheState) -> Case:
        """As `bench.records.cases.case_of` of its record."""
        key = self.key
        return ("isolated", key.part, key.vocab_size, key.num_tokens, cache.value, self.execution.value)


def isolate(
    rig: Rig, prompt: EncodedPrompt, probes: Probes, timing: TimingConfig, done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Every part of a round on its own, with the cache cold and warm, unless it is done.

    Parts of one kind, heads of every size for example, take turns: those are what is compared. The next kind
    begins when they are done, so that little is lost with a process that is killed.

    Raises:
        DeviceError: this device cannot execute as asked.
    """
    parts = attempt(("isolated",), partial(_parts, rig, prompt, probes))
    if isinstance(parts, FailureRecord):
        yield parts
        return
    yield from time_parts(rig.device, parts, timing, rig.seed, done)


def time_parts(
    device: Device, parts: Mapping[PartKey, Part], timing: TimingConfig, seed: int, done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Times parts, those of one kind in turns, with the cache cold and warm, unless they are done.

    Where the device does not say how large its cache is, the warm times are all there are.

    Args:
        device: where they run.
        parts: what to time, one kind after the other.
        timing: effort and execution; its cache state is not looked at.
        seed: of the order.
        done: records of earlier sessions.

    Raises:
        DeviceError: this device cannot execute as asked.
    """
    ways = executions(device, timing.execution)
    has_cold = device.cache_bytes is not None
    caches = [cache for cache in CacheState if has_cold or cache is not CacheState.cold]
    for _, keys in groupby(parts, key=lambda key: key.part):
        missing = {
            way: [cache for cache in caches if not done.has(way.case(cache))]
            for way in (_Way(key, execution) for key in keys for execution in ways)
        }
        left = {way: states for way, states in missing.items() if states}
        yield from _time_kind(device, parts, left, timing, seed)


def _parts(rig: Rig, prompt: EncodedPrompt, probes: Probes) -> dict[PartKey, Part]:
    prefill = rig.decoder.prefill(prompt.token_ids)
    parts = isolated_parts(rig.target, rig.draft, probes.heads, probes.draft_lengths, prefill)
    return dict(sorted(parts.items(), key=lambda item: item[0].part))


def _time_kind(
    device: Device,
    parts: Mapping[PartKey, Part],
    missing: dict[_Way, list[CacheState]],
    timing: TimingConfig,
    seed: int,
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Parts of one kind; a part that cannot be prepared or that fails does so alone."""
    ready: dict[_Way, Callable[[], object]] = {}
    for way in missing:
        case = ("isolated", way.key.part, way.key.vocab_size, way.key.num_tokens, way.execution.value)
        call = attempt(case, partial(execute_as, device, parts[way.key], way.execution))
        if isinstance(call, FailureRecord):
            yield replace(call, was_asked_for=timing.execution is not Execution.auto)
        else:
            ready[way] = call
    for cache in CacheState:
        calls = {way.label: call for way, call in ready.items() if cache in missing[way]}
        by_label = {way.label: way for way in ready}
        for found in time_variants(device, calls, replace(timing, cache=cache), seed) if calls else ():
            if isinstance(found, FailureRecord):
                yield replace(found, case=list(by_label[str(found.case[0])].case(cache)))
            else:
                yield _record(by_label[found.name], found)


def _record(way: _Way, series: TimedSeries) -> IsolatedRecord:
    return IsolatedRecord(
        part=way.key.part,
        vocab_size=way.key.vocab_size,
        num_tokens=way.key.num_tokens,
        cache=series.cache,
        device_ms=[round(ms, 5) for ms in series.device_ms],
        wall_ms=[round(ms, 5) for ms in series.wall_ms],
        calls_per_sample=series.calls_per_sample,
        stopped=str(series.stopped),
        relative_half_width=series.relative_half_width,
        execution=way.execution.value,
        num_warmup=series.num_warmup,
        warmup_stable=series.warmup_stable,
        block_start_s=[round(start / 1e9 + offset_s(), 4) for start, _ in series.blocks_ns],
    )


def compare_with_generate(rig: Rig, domain: str, prompt: EncodedPrompt) -> BaselineRecord:
    """The plain loop and `transformers.generate` on one prompt, interleaved; best of two each."""
    plain, generate, num_tokens = [], [], 0
    for _ in range(2):
        start = time.perf_counter()
        decoded = rig.decoder.plain(rig.decoder.prefill(prompt.token_ids), rig.timeline())
        rig.device.synchronize()
        plain.append(time.perf_counter() - start)
        num_tokens = len(decoded.token_ids)
        start = time.perf_counter()
        _generate(rig, prompt, num_tokens)
        rig.device.synchronize()
        generate.append(time.perf_counter() - start)
    return BaselineRecord(domain, prompt.prompt_id, num_tokens, min(plain) * 1e3, min(generate) * 1e3)


@torch.inference_mode()
def _generate(rig: Rig, prompt: EncodedPrompt, num_tokens: int) -> None:
    ids = torch.tensor([prompt.token_ids], device=rig.target.device)
    rig.target.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
    )
