"""What is measured once a run and outside of rounds: parts on their own, and the baseline's own baseline."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from bench.config import CacheState, TimingConfig
from bench.device import Device
from bench.device.graphs import execute_as
from bench.measure.attempts import attempt
from bench.measure.cases import EncodedPrompt, Probes
from bench.measure.isolated import Part, PartKey, isolated_parts
from bench.measure.rig import Rig
from bench.measure.sampling import time_variants
from bench.records import BaselineRecord, FailureRecord, IsolatedRecord
from bench.records.cases import Done


def isolate(
    rig: Rig, prompt: EncodedPrompt, probes: Probes, timing: TimingConfig, done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Every part of a round on its own, with the cache cold and warm, unless it is done."""
    prefill = rig.decoder.prefill(prompt.token_ids)
    parts = isolated_parts(rig.target, rig.draft, probes.heads, probes.draft_lengths, prefill)
    yield from time_parts(rig.device, parts, timing, rig.seed, done)


def time_parts(
    device: Device, parts: Mapping[PartKey, Part], timing: TimingConfig, seed: int, done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    """Times parts against each other, with the cache cold and warm, unless they are done.

    Where the device does not say how large its cache is, the warm times are all there are.

    Args:
        device: where they run.
        parts: what to time.
        timing: effort and execution; its cache state is not looked at.
        seed: of the order.
        done: records of earlier sessions.
    """
    for cache in CacheState:
        if cache is CacheState.cold and device.cache_bytes is None:
            continue
        missing = {
            key: call
            for key, call in parts.items()
            if not done.has(("isolated", key.part, key.vocab_size, key.num_tokens, cache.value))
        }
        if missing:
            config = replace(timing, cache=cache)
            found = attempt(("isolated", cache.value), partial(_timed, device, missing, config, seed))
            yield from [found] if isinstance(found, FailureRecord) else found


def _timed(
    device: Device, parts: dict[PartKey, Part], timing: TimingConfig, seed: int
) -> list[IsolatedRecord]:
    keys = {key.label: key for key in parts}
    calls = {key.label: execute_as(device, call, timing.execution) for key, call in parts.items()}
    return [
        IsolatedRecord(
            part=keys[series.name].part,
            vocab_size=keys[series.name].vocab_size,
            num_tokens=keys[series.name].num_tokens,
            cache=series.cache,
            device_ms=[round(ms, 5) for ms in series.device_ms],
            wall_ms=[round(ms, 5) for ms in series.wall_ms],
            calls_per_sample=series.calls_per_sample,
            stopped=str(series.stopped),
            relative_half_width=series.relative_half_width,
        )
        for series in time_variants(device, calls, timing, seed)
    ]


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
