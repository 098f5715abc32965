"""Times one engine: probes of rounds, whole decodes, and windows of steady decoding."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.decoding.engine import Decoded, Engine, Prepared
from bench.decoding.rounds import shuffled
from bench.measure.attempts import attempt
from bench.measure.workload import EncodedPrompt, Probes, Step
from bench.records import DecodeRecord, FailureRecord, ProbeRecord, SteadyRecord
from bench.records.kinds import CHECK
from bench.records.store import Done
from bench.telemetry.samples import now_s
from bench.variant import VERIFY, Variant

DECODE = DecodeRecord.kind

_MOST_REPEATS = 2


@dataclass(frozen=True)
class _Timed:
    decoded: Decoded
    start_s: float
    num_repeats: int = 0

    @property
    def times(self) -> dict[str, Any]:
        """When it began and ended, as records have it."""
        end_s = self.start_s + self.decoded.wall_ms / 1e3
        return {"start_s": round(self.start_s, 6), "end_s": round(end_s, 6)}

    @property
    def laps_ms(self) -> dict[str, list[float]]:
        return {name: [round(ms, 5) for ms in samples] for name, samples in self.decoded.laps_ms.items()}


class Session:
    """Times rounds and decodes of one engine.

    Args:
        engine: decodes.
        last_order: place of the last measurement of earlier sessions in the run's randomised order.
    """

    def __init__(self, engine: Engine, last_order: int = 0):
        self._engine, self._order = engine, last_order
        self._verify_ms: list[float] = []

    def warm_up(self, prompt: EncodedPrompt, probes: Probes, rounds: int) -> None:
        """Decodes a few rounds of every shape there is and keeps no result.

        Each size and each draft length is decoded at least once, every part runs once, as extensions of all
        lengths are not in a few rounds, and what is built for a pair of both is built.
        """
        engine, sizes, gammas = self._engine, probes.sizes, probes.draft_lengths
        prepared = engine.prepare(prompt.token_ids)
        for part in engine.parts(prepared, sizes, gammas).values():
            part()
        for gamma in gammas:
            for size in sizes:
                engine.load(Variant(size, gamma), [prepared])
        for index in range(max(len(sizes), len(gammas))):
            variant = Variant(sizes[index % len(sizes)], gammas[-1 - index % len(gammas)])
            engine.decode(prepared, variant, rounds)
        engine.decode(prepared, Variant(sizes[-1], 0), rounds)
        # Freezing what is loaded by now keeps later garbage collections short.
        gc.collect()
        gc.freeze()

    def measure(
        self, domain: str, prompt: EncodedPrompt, steps: Sequence[Step], rounds: int
    ) -> Iterator[DecodeRecord | ProbeRecord | FailureRecord]:
        """Probes and whole decodes of one prompt, in the order given.

        Args:
            domain: of the prompt.
            prompt: the prompt.
            steps: what to measure.
            rounds: of a probe.
        """
        # With the replay's seed a sampled answer begins with the token that its replay began with.
        self._engine.reseed(domain, prompt.prompt_id, "replay")
        prepared = attempt(
            ("prefill", domain, prompt.prompt_id), lambda: self._engine.prepare(prompt.token_ids)
        )
        if isinstance(prepared, FailureRecord):
            yield prepared
            return
        for step in steps:

            def work(step: Step = step) -> DecodeRecord | ProbeRecord:
                if step.kind == DECODE:
                    return self._decode(domain, prompt, prepared, step.variant)
                return self._probe(domain, prompt, prepared, step, rounds)

            yield attempt(step.case(domain, prompt), work)

    def _probe(
        self, domain: str, prompt: EncodedPrompt, prepared: Prepared, step: Step, rounds: int
    ) -> ProbeRecord:
        timed = self._timed(prepared, step.variant, rounds)
        return ProbeRecord(
            domain=domain,
            prompt_id=prompt.prompt_id,
            **step.variant.columns,
            is_pilot=False,
            order=self._next_order(),
            laps_ms=timed.laps_ms,
            num_repeats=timed.num_repeats,
            is_check=step.kind == CHECK,
            **timed.times,
        )

    def _decode(
        self, domain: str, prompt: EncodedPrompt, prepared: Prepared, variant: Variant
    ) -> DecodeRecord:
        timed = self._timed(prepared, variant)
        return DecodeRecord(
            domain=domain,
            prompt_id=prompt.prompt_id,
            **variant.columns,
            order=self._next_order(),
            num_prompt_tokens=len(prompt.token_ids),
            token_ids=timed.decoded.token_ids,
            accepted=timed.decoded.accepted,
            decode_ms=timed.decoded.decode_ms,
            wall_ms=timed.decoded.wall_ms,
            laps_ms=timed.laps_ms,
            num_repeats=timed.num_repeats,
            **timed.times,
        )

    def _timed(self, prepared: Prepared, variant: Variant, rounds: int | None = None) -> _Timed:
        """One measurement, repeated if something else on the machine disturbed it."""
        self._engine.load(variant, [prepared])
        for num_repeats in range(_MOST_REPEATS):
            timed = self._time_once(prepared, variant, rounds)
            # Only the target's steps take about the same time in every measurement.
            usual_ms = {VERIFY: float(np.median(self._verify_ms))} if self._verify_ms else {}
            if not was_disturbed(timed.decoded.laps_ms, usual_ms):
                self._verify_ms += timed.laps_ms.get(VERIFY, [])
                return replace(timed, num_repeats=num_repeats)
        return replace(self._time_once(prepared, variant, rounds), num_repeats=_MOST_REPEATS)

    def _time_once(self, prepared: Prepared, variant: Variant, rounds: int | None) -> _Timed:
        # A collection in the middle of a round would be charged to that round.
        gc.collect()
        gc.disable()
        try:
            self._engine.synchronize()
            start_s = now_s()
            return _Timed(self._engine.decode(prepared, variant, rounds), start_s)
        finally:
            gc.enable()

    def _next_order(self) -> int:
        self._order += 1
        return self._order


_TIMES_THE_MEDIAN = 5

_SHARE = 0.1


def was_disturbed(laps_ms: Mapping[str, Sequence[float]], usual_ms: Mapping[str, float]) -> bool:
    """Whether a tenth of the time was spent in laps, beyond five times the median lap of their name.

    Args:
        laps_ms: durations of every step by name.
        usual_ms: the usual durations that are known. A step without one that ran less than three times is
            not judged.
    """
    excess = 0.0
    for name, samples in laps_ms.items():
        likely = [usual_ms[name]] if name in usual_ms else []
        likely += [float(np.median(samples))] if len(samples) >= 3 else []
        if likely:
            excess += np.maximum(np.asarray(samples) - _TIMES_THE_MEDIAN * min(likely), 0).sum()
    return bool(excess > _SHARE * sum(map(sum, laps_ms.values())))


# Period at which a GPU reads its own sensors; some average only over a part of it, always the same.
_SENSOR_PERIOD_S = 0.1


def run_steadily(
    engine: Engine,
    domain: str,
    prompts: Sequence[EncodedPrompt],
    variants: Sequence[Variant],
    seconds: float,
    seed: int,
    done: Done,
) -> Iterator[SteadyRecord | FailureRecord]:
    """Decodes each variant without a pause for a while, because energy sensors are slow.

    Every variant gets two windows, without those that earlier sessions measured.

    Args:
        engine: decodes.
        domain: of the prompts.
        prompts: the prompts.
        variants: ways to decode.
        seconds: how long a window is at least.
        seed: of the order.
        done: records of earlier sessions.
    """
    for variant, window in in_windows(variants, seed, domain):
        case = SteadyRecord.case_of(domain, *variant.key, window)
        if done.has(case):
            continue

        def work(variant: Variant = variant, window: int = window) -> SteadyRecord:
            prepared = [engine.prepare(prompt.token_ids) for prompt in prompts]
            engine.load(variant, prepared)
            return decode_steadily(engine, domain, prepared, variant, seconds, window)

        yield attempt(case, work)


def in_windows(variants: Sequence[Variant], seed: int, domain: str) -> list[tuple[Variant, int]]:
    """Two numbered windows of each variant: in a seeded random order, then in reverse.

    All variants have the same mean place, so that a device that warms up steadily favours none.
    """
    order = shuffled(variants, seed, "steady", domain)
    return [(variant, 0) for variant in order] + [(variant, 1) for variant in reversed(order)]


def decode_steadily(
    engine: Engine,
    domain: str,
    prepared: Sequence[Prepared],
    variant: Variant,
    seconds: float,
    window: int,
) -> SteadyRecord:
    """Decodes prompt after prompt with one variant: each at least once, and until the time is over.

    Args:
        engine: decodes.
        domain: of the prompts.
        prepared: the prompts, read.
        variant: how to decode.
        seconds: how long at least.
        window: number of this window; each begins at another phase of the sensors' period.
    """
    num_tokens = 0
    engine.synchronize()
    start_s = _wait_for_phase(window)
    while not num_tokens or now_s() - start_s < seconds:
        for prompt in prepared:
            num_tokens += len(engine.decode(prompt, variant, with_laps=False).token_ids) - 1
    size, gamma = variant.vocab_size, variant.draft_length
    return SteadyRecord(domain, size, gamma, num_tokens, round(start_s, 6), round(now_s(), 6), window)


def _wait_for_phase(
    window: int, clock: Callable[[], float] = now_s, sleep: Callable[[float], None] = time.sleep
) -> float:
    """Waits so that two windows start half a period apart; returns the time after it."""
    phase_s = (window % 2) * _SENSOR_PERIOD_S / 2
    sleep((phase_s - clock()) % _SENSOR_PERIOD_S)
    return clock()
