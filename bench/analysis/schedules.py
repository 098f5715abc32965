"""Draft lengths by batch size, from what an engine measured or from published kernel latencies."""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.analysis.engines import served_frame
from bench.analysis.run import Run
from bench.gpu_tables.tidy import TableKey
from bench.surface.lengths import Lengths
from bench.surface.rounds import Host, Times
from bench.surface.schedule import schedule_of

SCHEDULE_COLUMNS = [
    "gpu", "engine", "version", "dtype", "context", "host", "vocab_size", "schedule", "largest_loss",
    "constant_draft_length", "constant_largest_loss",
]  # fmt: skip


def served_speeds(run: Run, domain: str, vocab_size: int) -> dict[int, dict[int, float]]:
    """Tokens/s in a run's first other engine, by requests in flight and draft length; 0: plain decoding.

    Of the run's own prompts and sampling. Only numbers of requests at which a draft of this size and plain
    decoding, or several draft lengths, were measured: of one alone nothing can be chosen.
    """
    frame = served_frame(run)
    if frame.empty or not (frame["domain"] == domain).any():
        return {}
    rows = frame[frame["domain"] == domain]
    is_of_run = rows["temperature"].isna() & rows["context_tokens"].isna()
    rows = rows[is_of_run & (rows["engine"] == run.served[domain][0].engine)]
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for row in rows.to_dict("records"):
        if row["draft_length"] == 0 or row["vocab_size"] == vocab_size:
            found[int(row["concurrency"])][int(row["draft_length"])] = float(row["tokens_per_s"])
    return {size: speeds for size, speeds in sorted(found.items()) if len(speeds) > 1}


def modelled_schedules(
    key: TableKey,
    times: Mapping[int, Mapping[int, Times]],
    lengths: Lengths,
    hosts: Mapping[str, Host],
) -> list[tuple[Any, ...]]:
    """Schedules from composed latencies, with `SCHEDULE_COLUMNS`.

    A deployment has one vocabulary, which is the best one at the smallest batch.

    Args:
        key: of the table.
        times: by positions, then by batch.
        lengths: acceptance.
        hosts: by name, what kernels wait for.
    """
    rows = []
    gammas = np.array(lengths.draft_lengths, dtype=float)
    for context, by_batch in times.items():
        if len(by_batch) < 2:
            continue
        for name, host in hosts.items():
            # Tokens per ms of one sequence, by batch `(gammas, m)`.
            speeds = {b: lengths.mean[0] / t.rounds(gammas, host) for b, t in by_batch.items()}
            column = int(speeds[min(speeds)].max(axis=0).argmax())
            by_gamma = {
                batch: {0: 1 / (by_batch[batch].plain + host.pass_ms)}
                | dict(zip(lengths.draft_lengths, speed[:, column].tolist(), strict=True))
                for batch, speed in speeds.items()
            }
            found = schedule_of(by_gamma)
            constant, loss = best_constant(by_gamma)
            rows.append((
                key.gpu, key.engine, key.version, key.dtype, context, name, int(lengths.sizes[column]),
                json.dumps(found.ranges), max(found.losses.values()), constant, loss,
            ))  # fmt: skip
    return rows


def best_constant(speeds: Mapping[int, Mapping[int, float]]) -> tuple[int, float]:
    """The gamma whose largest loss over all batch sizes is smallest, and that loss."""
    shared = set.intersection(*(set(by_gamma) for by_gamma in speeds.values()))
    losses = {
        gamma: max(1 - by_gamma[gamma] / max(by_gamma.values()) for by_gamma in speeds.values())
        for gamma in sorted(shared)
    }
    gamma = min(losses, key=lambda g: losses[g])
    return gamma, losses[gamma]
