"""Planned variants decoded by another engine, in fresh processes and ABBA order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.decoding.vllm_engine import NAME, Served, VllmProcess
from bench.measure.attempts import attempt
from bench.measure.workload import Workload
from bench.records import FailureRecord, ServedRecord
from bench.records.kinds import Case
from bench.records.store import Done
from bench.variant import Variant

# A process that was just started fills caches and compiles with its first requests.
_WARM_UP_TOKENS = 8

Start = Callable[[Workload, Variant], AbstractContextManager[VllmProcess]]


@dataclass(frozen=True)
class ServedPlan:
    """How often and how many at a time.

    Attributes:
        concurrencies: requests in flight, each on its own.
        num_processes: fresh processes of every variant.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 is greedy.
        seed: of sampling.
    """

    concurrencies: Sequence[int]
    num_processes: int
    max_new_tokens: int
    temperature: float
    seed: int

    def num_steps(self, num_variants: int) -> int:
        """Records of one domain."""
        return len(self.concurrencies) * self.num_processes * num_variants

    def run(
        self, start: Start, workload: Workload, variants: Sequence[Variant], done: Done
    ) -> Iterator[ServedRecord | FailureRecord]:
        """Every variant in every process at every concurrency.

        Every second pass over the variants goes backwards: a machine that becomes slower then does so to all
        variants alike.

        Args:
            start: gives the process that holds a variant of a workload.
            workload: the prompts.
            variants: what is decoded.
            done: records of earlier sessions.
        """
        for process in range(self.num_processes):
            order = variants if process % 2 == 0 else variants[::-1]
            for variant in order:
                missing = {
                    concurrency: case
                    for concurrency in self.concurrencies
                    if not done.has(case := self._case(workload, variant, concurrency, process))
                }
                if missing:
                    yield from self._decode(start, workload, variant, process, missing)

    def _decode(
        self, start: Start, workload: Workload, variant: Variant, process: int, cases: dict[int, Case]
    ) -> Iterator[ServedRecord | FailureRecord]:
        found: list[ServedRecord] = []

        def work() -> None:
            with start(workload, variant) as engine:
                prompts = [prompt.token_ids for prompt in workload.prompts]
                engine.decode(prompts[:1], 1, _WARM_UP_TOKENS)
                for concurrency in cases:
                    sampling = (self.max_new_tokens, self.temperature, self.seed)
                    served = engine.decode(prompts, concurrency, *sampling)
                    found.append(_record(workload, variant, concurrency, process, engine, served))

        failure = attempt((ServedRecord.kind, NAME, workload.domain, *variant.key, process), work)
        yield from found
        if isinstance(failure, FailureRecord):
            yield failure

    @staticmethod
    def _case(workload: Workload, variant: Variant, concurrency: int, process: int) -> Case:
        names = (workload.domain, variant.vocab_size, variant.draft_length, concurrency, process)
        return ServedRecord.case_of(NAME, *names)


def _record(
    workload: Workload, variant: Variant, concurrency: int, process: int, engine: VllmProcess, served: Served
) -> ServedRecord:
    return ServedRecord(
        engine=NAME,
        domain=workload.domain,
        **variant.columns,
        concurrency=concurrency,
        process=process,
        engine_version=engine.version,
        load_s=engine.load_s,
        wall_ms=served.wall_ms,
        prompt_ids=[prompt.prompt_id for prompt in workload.prompts],
        token_ids=[request.token_ids for request in served.requests],
        num_new=[request.num_new for request in served.requests],
        at_ms=[request.at_ms for request in served.requests],
        counters=served.counters,
    )
