"""How much longer rounds, or their parts, take launched kernel by kernel than their kernels alone."""

from dataclasses import dataclass

import numpy as np

from bench.analysis.run import Run, counted_cache
from bench.records import IsolatedRecord


@dataclass(frozen=True)
class Launches:
    """What takes longest launched kernel by kernel, over the same without launches.

    Attributes:
        ratio: of the two.
        part: a round, or a part of it with its size, in words.
        eager_ms: launched kernel by kernel.
        graph_ms: without launches, as in a CUDA graph.
        of_rounds: whether whole rounds were timed both ways.
    """

    ratio: float
    part: str
    eager_ms: float
    graph_ms: float
    of_rounds: bool = False

    @property
    def phrase(self) -> str:
        """The two times, in words."""
        how = "without waiting for launches" if self.of_rounds else "as a CUDA graph"
        return (
            f"the {self.part} takes {self.eager_ms:.3g} ms launched kernel by kernel, and "
            f"{self.graph_ms:.3g} ms {how}"
        )


def launch_ratio(run: Run) -> Launches | None:
    """Of a round; where none was timed both ways, of LM head and draft step at every size; else None."""
    facts = run.environment.get("launches") or {}
    if facts.get("busy_share"):
        part = f"round of k = {facts['vocab_size']:,} and gamma = {facts['draft_length']}"
        return Launches(1 / facts["busy_share"], part, facts["round_ms"], facts["kernels_ms"], True)
    found = []
    for size in sorted({r.vocab_size for r in run.isolated if r.vocab_size is not None}):
        for name, parts in (("LM head", ("lm_head",)), ("draft step", ("layer", "lm_head", "select"))):
            eager, graph = (_sums(run.isolated, parts, size, how) for how in ("eager", "graph"))
            if eager is None or graph is None:
                continue
            # Behind a queue or from an idle device: launches may hide in the one, and show in the other.
            times = max(zip(eager, graph, strict=True), key=lambda pair: pair[0] / pair[1])
            found.append(Launches(times[0] / times[1], f"{name} of k = {size:,}", *times))
    return max(found, key=lambda item: item.ratio, default=None)


def _sums(
    records: list[IsolatedRecord], parts: tuple[str, ...], size: int, execution: str
) -> tuple[float, float] | None:
    """Device and wall time of these parts together; None where one lacks."""
    cache = counted_cache(records)
    found = [
        record
        for record in records
        if (record.cache, record.execution) == (cache, execution)
        and record.part in parts
        and record.vocab_size in (None, size)
    ]
    if len(found) < len(parts):
        return None
    device_ms = sum(float(np.median(record.device_ms)) for record in found)
    return device_ms, sum(float(np.median(record.wall_ms)) for record in found)
