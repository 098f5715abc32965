"""Planned variants decoded by another engine, in fresh processes and ABBA order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Protocol

from bench.decoding.vllm_engine import NAME, Parts, Served
from bench.measure.attempts import attempt
from bench.measure.workload import EncodedPrompt, Workload
from bench.records import FailureRecord, ServedPartsRecord, ServedRecord
from bench.records.kinds import Case
from bench.records.store import Done
from bench.variant import Variant

# Rounds of these prompts are enough for medians of their parts.
_PART_PROMPTS = 2


class ServedEngine(Protocol):
    """A process that holds one variant.

    Attributes:
        version: of the engine.
        load_s: how long it took until it could answer.
    """

    version: str
    load_s: float

    def warm_up(self, prompts: Sequence[Sequence[int]]) -> None:
        """Fills caches, and compiles what is compiled with the first requests."""

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        concurrency: int,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Served:
        """Decodes all prompts, so many at a time."""

    def parts(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Parts:
        """Decodes all prompts greedily, one at a time, and says what every step consists of."""


Start = Callable[[Workload, Variant], AbstractContextManager[ServedEngine]]

Found = ServedRecord | ServedPartsRecord


@dataclass(frozen=True)
class Setting:
    """What is asked of an engine beside the number of requests at a time.

    Attributes:
        temperature: of sampling, 0 is greedy; None: that of the run.
        context_tokens: length to which other prompts are put before each prompt; None: nothing is.
    """

    temperature: float | None = None
    context_tokens: int | None = None


@dataclass(frozen=True)
class ServedPlan:
    """How often and how many at a time.

    Attributes:
        concurrencies: requests in flight, each on its own.
        num_processes: fresh processes of every variant.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 is greedy.
        seed: of sampling.
        settings: what is decoded at every concurrency.
        engine: its name in results.
        in_parts: whether the engine can say what its steps consist of; it then does so in every process.
    """

    concurrencies: Sequence[int]
    num_processes: int
    max_new_tokens: int
    temperature: float
    seed: int
    settings: Sequence[Setting] = field(default_factory=lambda: [Setting()])
    engine: str = NAME
    in_parts: bool = True

    def num_steps(self, num_variants: int) -> int:
        """Records of one domain."""
        per_process = len(self.concurrencies) * len(self.settings) + self.in_parts
        return per_process * self.num_processes * num_variants

    def run(
        self, start: Start, workload: Workload, variants: Sequence[Variant], done: Done
    ) -> Iterator[Found | FailureRecord]:
        """Every variant in every process at every concurrency, in every setting.

        Every second pass over the variants goes backwards: a machine that becomes slower then does so to all
        variants alike.

        Args:
            start: gives the process that holds a variant of a workload.
            workload: the prompts.
            variants: what is decoded.
            done: records of earlier sessions.
        """
        for process in range(self.num_processes):
            for variant in variants if process % 2 == 0 else variants[::-1]:
                arm = _Arm(self, workload, variant, process)
                loads = [load for load in self._loads() if not done.has(arm.case(*load))]
                in_parts = self.in_parts and not done.has(arm.parts_case)
                if loads or in_parts:
                    yield from arm.decode(start, loads, in_parts)

    def _loads(self) -> Iterator[tuple[int, Setting]]:
        """Settings first: the base setting's loads come one after the other."""
        for setting, concurrency in product(self.settings, self.concurrencies):
            yield concurrency, setting


@dataclass(frozen=True)
class _Arm:
    """One process of a variant."""

    plan: ServedPlan
    workload: Workload
    variant: Variant
    process: int

    @property
    def names(self) -> tuple[str, str, int, int]:
        """Those that both kinds of records have in common, up to the process."""
        return self.plan.engine, self.workload.domain, self.variant.vocab_size, self.variant.draft_length

    def case(self, concurrency: int, setting: Setting) -> Case:
        """Of a load."""
        extra = (setting.temperature, setting.context_tokens)
        return ServedRecord.case_of(*self.names, concurrency, self.process, *extra)

    @property
    def parts_case(self) -> Case:
        """Of the record of its steps."""
        return ServedPartsRecord.case_of(*self.names, self.process)

    def decode(
        self, start: Start, loads: Sequence[tuple[int, Setting]], in_parts: bool
    ) -> Iterator[Found | FailureRecord]:
        """What a fresh process decoded, and why it could not decode the rest."""
        found: list[Found] = []
        failure = attempt(
            (ServedRecord.kind, *self.names, self.process),
            partial(self._decode, start, loads, in_parts, found),
        )
        yield from found
        if isinstance(failure, FailureRecord):
            yield failure

    def _decode(
        self, start: Start, loads: Sequence[tuple[int, Setting]], in_parts: bool, found: list[Found]
    ) -> None:
        plan, prompts = self.plan, self.workload.prompts
        with start(self.workload, self.variant) as engine:
            engine.warm_up([prompt.token_ids for prompt in prompts])
            for concurrency, setting in loads:
                temperature = plan.temperature if setting.temperature is None else setting.temperature
                ids = with_context(prompts, setting.context_tokens)
                served = engine.decode(ids, concurrency, plan.max_new_tokens, temperature, plan.seed)
                found.append(self._record(engine, concurrency, setting, served))
            # Last: an engine that times its parts is slower from then on.
            if in_parts:
                ids = [prompt.token_ids for prompt in prompts[:_PART_PROMPTS]]
                found.append(self._parts_record(engine.parts(ids, plan.max_new_tokens)))

    def _record(
        self, engine: ServedEngine, concurrency: int, setting: Setting, served: Served
    ) -> ServedRecord:
        requests = served.requests
        is_text = any(request.text is not None for request in requests)
        return ServedRecord(
            engine=self.plan.engine,
            domain=self.workload.domain,
            **self.variant.columns,
            concurrency=concurrency,
            process=self.process,
            engine_version=engine.version,
            load_s=engine.load_s,
            wall_ms=served.wall_ms,
            prompt_ids=[prompt.prompt_id for prompt in self.workload.prompts],
            token_ids=[request.token_ids for request in requests],
            num_new=[request.num_new for request in requests],
            at_ms=[request.at_ms for request in requests],
            counters=served.counters,
            texts=[request.text or "" for request in requests] if is_text else None,
            num_tokens=[request.num_tokens or 0 for request in requests] if is_text else None,
            temperature=setting.temperature,
            context_tokens=setting.context_tokens,
        )

    def _parts_record(self, parts: Parts) -> ServedPartsRecord:
        names = sorted({name for step in parts.steps for name in step} - {"num_tokens"})
        return ServedPartsRecord(
            engine=self.plan.engine,
            domain=self.workload.domain,
            **self.variant.columns,
            process=self.process,
            reason=parts.reason,
            round_ms=[round(ms, 4) for ms in parts.round_ms],
            num_tokens=[int(step["num_tokens"]) for step in parts.steps],
            parts_ms={name: [round(step.get(name, 0.0), 4) for step in parts.steps] for name in names},
            num_threads=parts.num_threads,
        )


def with_context(prompts: Sequence[EncodedPrompt], num_tokens: int | None) -> list[list[int]]:
    """The prompts, each after as many tokens of the prompts before it as make it so long.

    A prompt that is longer stays as it is. The first prompts follow the last ones.
    """
    if num_tokens is None:
        return [prompt.token_ids for prompt in prompts]
    found = []
    for place, prompt in enumerate(prompts):
        earlier: list[int] = []
        others = [*prompts[place + 1 :], *prompts[:place]] or [prompt]
        while len(earlier) < num_tokens - len(prompt.token_ids):
            earlier = [token for other in others for token in other.token_ids] + earlier
        wanted = max(0, num_tokens - len(prompt.token_ids))
        found.append([*earlier[len(earlier) - wanted :], *prompt.token_ids])
    return found
