"""Probes of rounds and whole decodes on one device, interleaved in random order."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.decoding.rounds import Timeline, shuffled
from bench.decoding.torch_engine import Decoded, Prefill
from bench.measure.attempts import attempt
from bench.measure.workload import EncodedPrompt, Probes, Rig
from bench.models.draft import DraftHead
from bench.records import DecodeRecord, FailureRecord, ProbeRecord, SteadyRecord
from bench.records.kinds import PILOT, Case, Done
from bench.telemetry.samples import now_s
from bench.variant import VERIFY, Variant

PROBE, DECODE = ProbeRecord.kind, DecodeRecord.kind

_MOST_REPEATS = 2


@dataclass(frozen=True)
class _Timed:
    decoded: Decoded
    decode_ms: float
    wall_ms: float
    laps_ms: dict[str, list[float]]
    start_s: float
    end_s: float
    num_repeats: int = 0


def case_of(kind: str, domain: str, prompt: EncodedPrompt, variant: Variant) -> Case:
    """Of a pilot's probe, a probe, or a decode."""
    return (kind, domain, prompt.prompt_id, *variant.key)


class Session:
    """Times rounds and decodes of a rig."""

    def __init__(self, rig: Rig, last_order: int = 0):
        self._rig, self._order = rig, last_order
        self._verify_ms: list[float] = []

    def warm_up(self, prompt: EncodedPrompt, probes: Probes, rounds: int) -> None:
        """A few rounds with every head, and keeps nothing."""
        rig, longest = self._rig, max(probes.draft_lengths)
        prefill = rig.decoder.prefill(prompt.token_ids)
        for head in probes.heads.values():
            rig.decoder.speculative(prefill, rig.draft, head, longest, rig.timeline(longest, rounds), rounds)
        rig.device.synchronize()
        # What is loaded by now stays; leaving it out makes every later collection short.
        gc.collect()
        gc.freeze()

    def measure(
        self,
        domain: str,
        prompt: EncodedPrompt,
        cases: Sequence[tuple[str, Variant]],
        heads: dict[int, DraftHead],
        rounds: int,
    ) -> Iterator[DecodeRecord | ProbeRecord | FailureRecord]:
        """Probes and whole decodes of one prompt, in the order given.

        Args:
            domain: of the prompt.
            prompt: the prompt.
            cases: what to measure: `pilot` or `probe`, a few rounds, or `decode`, to the end.
            heads: by size.
            rounds: of a probe.
        """
        # With the replay's seed a sampled answer begins with the token that its replay began with.
        is_pilot = any(kind == PILOT for kind, _ in cases)
        self._rig.reseed(domain, prompt.prompt_id, PILOT if is_pilot else "replay")
        prefill = attempt(
            ("prefill", domain, prompt.prompt_id), lambda: self._rig.decoder.prefill(prompt.token_ids)
        )
        if isinstance(prefill, FailureRecord):
            yield prefill
            return
        for kind, variant in cases:
            yield self._attempt(kind, variant, domain, prompt, prefill, heads, rounds)

    def _attempt(
        self,
        kind: str,
        variant: Variant,
        domain: str,
        prompt: EncodedPrompt,
        prefill: Prefill,
        heads: dict[int, DraftHead],
        rounds: int,
    ) -> DecodeRecord | ProbeRecord | FailureRecord:
        case = case_of(kind, domain, prompt, variant)
        if kind == DECODE:
            return attempt(case, lambda: self._decode_one(domain, prompt, prefill, heads, variant))
        is_pilot = kind == PILOT
        return attempt(
            case, lambda: self._probe_one(domain, prompt, prefill, heads, rounds, variant, is_pilot)
        )

    def _probe_one(
        self,
        domain: str,
        prompt: EncodedPrompt,
        prefill: Prefill,
        heads: dict[int, DraftHead],
        rounds: int,
        variant: Variant,
        is_pilot: bool,
    ) -> ProbeRecord:
        timed = self._timed(prefill, heads[variant.vocab_size], variant.draft_length, rounds)
        return ProbeRecord(
            domain=domain,
            prompt_id=prompt.prompt_id,
            vocab_size=variant.vocab_size,
            draft_length=variant.draft_length,
            is_pilot=is_pilot,
            order=self._next_order(),
            laps_ms=timed.laps_ms,
            num_repeats=timed.num_repeats,
            start_s=timed.start_s,
            end_s=timed.end_s,
        )

    def _decode_one(
        self,
        domain: str,
        prompt: EncodedPrompt,
        prefill: Prefill,
        heads: dict[int, DraftHead],
        variant: Variant,
    ) -> DecodeRecord:
        head = heads[variant.vocab_size] if variant.draft_length else None
        timed = self._timed(prefill, head, variant.draft_length)
        return DecodeRecord(
            domain=domain,
            prompt_id=prompt.prompt_id,
            vocab_size=variant.vocab_size,
            draft_length=variant.draft_length,
            order=self._next_order(),
            num_prompt_tokens=len(prompt.token_ids),
            token_ids=timed.decoded.token_ids,
            accepted=timed.decoded.accepted,
            decode_ms=timed.decode_ms,
            wall_ms=timed.wall_ms,
            laps_ms=timed.laps_ms,
            num_repeats=timed.num_repeats,
            start_s=timed.start_s,
            end_s=timed.end_s,
        )

    def _timed(
        self, prefill: Prefill, head: DraftHead | None, draft_length: int, rounds: int | None = None
    ) -> _Timed:
        """One attempt, or the next where something else on the machine held it up."""
        for num_repeats in range(_MOST_REPEATS):
            timed = self._time_once(prefill, head, draft_length, rounds)
            # Of all steps only the target's take about the same time whatever is measured.
            usual_ms = {VERIFY: float(np.median(self._verify_ms))} if self._verify_ms else {}
            if not was_disturbed(timed.laps_ms, usual_ms):
                self._verify_ms += timed.laps_ms.get(VERIFY, [])
                return replace(timed, num_repeats=num_repeats)
        return replace(self._time_once(prefill, head, draft_length, rounds), num_repeats=_MOST_REPEATS)

    def _time_once(
        self, prefill: Prefill, head: DraftHead | None, draft_length: int, rounds: int | None
    ) -> _Timed:
        timeline = self._rig.timeline(draft_length, rounds)
        # A collection in the middle of a round would be charged to that round.
        gc.collect()
        gc.disable()
        try:
            self._rig.device.synchronize()
            start_s, start = now_s(), time.perf_counter()
            if head is None:
                decoded = self._rig.decoder.plain(prefill, timeline)
            else:
                decoded = self._rig.decoder.speculative(
                    prefill, self._rig.draft, head, draft_length, timeline, rounds
                )
            self._rig.device.synchronize()
            wall_ms = (time.perf_counter() - start) * 1e3
        finally:
            gc.enable()
        total_ms = timeline.total_ms(self._rig.device.elapsed_ms)
        end_s = start_s + wall_ms / 1e3
        return _Timed(decoded, total_ms, wall_ms, self._laps_ms(timeline), round(start_s, 6), round(end_s, 6))

    def _laps_ms(self, timeline: Timeline) -> dict[str, list[float]]:
        laps = timeline.laps_ms(self._rig.device.elapsed_ms)
        return {name: [round(ms, 5) for ms in samples] for name, samples in laps.items()}

    def _next_order(self) -> int:
        self._order += 1
        return self._order


# Whether something else on the machine held a measurement up.

_TIMES_THE_MEDIAN = 5

_SHARE = 0.1


def was_disturbed(laps_ms: Mapping[str, Sequence[float]], usual_ms: Mapping[str, float]) -> bool:
    """Whether a tenth of all time went into what single laps took beyond five times the median of their like.

    Args:
        laps_ms: durations of every step by name.
        usual_ms: what steps usually take, as far as it is known; a step of which it is not, and that came
            less than three times, is not judged.
    """
    excess = 0.0
    for name, samples in laps_ms.items():
        likely = [usual_ms[name]] if name in usual_ms else []
        likely += [float(np.median(samples))] if len(samples) >= 3 else []
        if likely:
            excess += np.maximum(np.asarray(samples) - _TIMES_THE_MEDIAN * min(likely), 0).sum()
    return bool(excess > _SHARE * sum(map(sum, laps_ms.values())))


# Variants decoding without a pause, one after the other, for sensors of energy that are slow.

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
        case = SteadyRecord.case_of(domain, *variant.key, window)
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
