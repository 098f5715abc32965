"""Latency of the parts of a round, in situ and on their own."""

from collections import defaultdict

import numpy as np
import pandas as pd

from bench.measure.stats import median
from bench.report.frames import Run

IN_SITU, COLD, WARM = "in_situ", "isolated_cold", "isolated_warm"
LATENCY_COLUMNS = [
    "domain", "setting", "part", "vocab_size", "draft_length", "median_ms", "ci_low_ms", "ci_high_ms",
    "num_samples",
]  # fmt: skip


def latency_frame(run: Run) -> pd.DataFrame:
    """Median latency of every part with its interval: inside real rounds, and on its own, cold and warm.

    LM head, selection and a whole chained draft step depend on the vocabulary size, verification, extension
    and the rest on the draft length; the other of the two columns is empty. Parts on their own belong to no
    domain; what takes in n tokens has draft length n - 1.
    """
    rows = [
        (
            None,
            f"isolated_{record.cache}",
            record.part,
            record.vocab_size,
            None if record.num_tokens is None else record.num_tokens - 1,
            *vars(median(np.array(record.device_ms))).values(),
            len(record.device_ms),
        )
        for record in run.isolated
    ]
    for domain, probes in run.probes.items():
        pooled: dict[tuple[str, int | None, int | None], list[float]] = defaultdict(list)
        for probe in probes:
            for part, samples in step_samples(probe.laps_ms, probe.draft_length).items():
                by_size = part in ("lm_head", "select", "draft_step")
                by_length = part in ("verify", "extend", "other")
                key = (part, probe.vocab_size if by_size else None, probe.draft_length if by_length else None)
                pooled[key].extend(samples)
        for (part, size, gamma), samples in pooled.items():
            if samples:
                e = median(np.array(samples))
                rows.append((domain, IN_SITU, part, size, gamma, e.value, e.ci_low, e.ci_high, len(samples)))
    names = [
        "domain",
        "setting",
        "part",
        "vocab_size",
        "draft_length",
        "median_ms",
        "ci_low_ms",
        "ci_high_ms",
    ]
    frame = pd.DataFrame(rows, columns=[*names, "num_samples"])
    frame = frame.astype({"vocab_size": "Int64", "draft_length": "Int64"})
    return frame.sort_values(LATENCY_COLUMNS[:5], ignore_index=True)


def step_samples(laps_ms: dict[str, list[float]], draft_length: int) -> dict[str, list[float]]:
    """Latency samples by part, plus `draft_step`: layer, head and selection of one chained step."""
    if draft_length < 2:
        return {**laps_ms, "draft_step": []}
    # The first token of a round is drafted from the extend step; chained steps are the others.
    rounds = len(laps_ms["lm_head"]) // draft_length
    head = np.reshape(laps_ms["lm_head"], (rounds, draft_length))[:, 1:]
    select = np.reshape(laps_ms["select"], (rounds, draft_length))[:, 1:]
    steps = np.reshape(laps_ms["layer"], (rounds, draft_length - 1)) + head + select
    return {**laps_ms, "draft_step": steps.ravel().tolist()}
