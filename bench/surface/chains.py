"""Splits drafted chains that were timed as one lap into what depends on k and what depends on gamma.

A round of a few graphs has no mark between the layers, heads and selections of a chain. Probes of many
(k, gamma) still show the parts: a chain takes a(gamma) + gamma h(k), with the extension and the layers
in a(gamma) and LM head and selection in h(k).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.records import ProbeRecord
from bench.variant import DRAFT, HEAD, OTHER, SELECT


def with_parts(probes: Sequence[ProbeRecord]) -> list[ProbeRecord]:
    """The same probes, their chains as laps of the parts that `RoundLatency` gathers.

    a and h are fitted by least squares to every chain's time per drafted token. Only their sum can be seen: a
    constant may move from one to the other, so h is what a head takes beyond that of the smallest size. What
    the fit leaves of a chain stays with h, so that intervals of differences between sizes hold it.

    Probes whose parts were timed one by one stay as they are.
    """
    whole = [probe for probe in probes if probe.laps_ms.get(DRAFT)]
    if not whole:
        return list(probes)
    sizes = sorted({probe.vocab_size for probe in whole})
    gammas = sorted({probe.draft_length for probe in whole})
    rows, per_token = [], []
    for probe in whole:
        row = np.zeros(len(gammas) + len(sizes))
        row[gammas.index(probe.draft_length)] = 1 / probe.draft_length
        row[len(gammas) + sizes.index(probe.vocab_size)] = 1
        for chain_ms in probe.laps_ms[DRAFT]:
            rows.append(row)
            per_token.append(chain_ms / probe.draft_length)
    found = np.linalg.lstsq(np.stack(rows), np.array(per_token), rcond=None)[0]
    once_ms, head_ms = found[: len(gammas)], found[len(gammas) :]
    once_ms, head_ms = once_ms + np.array(gammas) * head_ms[0], head_ms - head_ms[0]
    fitted = dict(zip(gammas, once_ms.tolist(), strict=True)), dict(zip(sizes, head_ms.tolist(), strict=True))
    return [_taken_apart(probe, *fitted) if probe.laps_ms.get(DRAFT) else probe for probe in probes]


def _taken_apart(probe: ProbeRecord, once_ms: dict[int, float], head_ms: dict[int, float]) -> ProbeRecord:
    gamma, laps = probe.draft_length, dict(probe.laps_ms)
    chains, once = laps.pop(DRAFT), once_ms[probe.draft_length]
    laps[HEAD] = [(chain_ms - once) / gamma for chain_ms in chains]
    laps[SELECT] = [0.0] * len(chains)
    # Every round has it, the last too, unlike an extension.
    laps[OTHER] = [ms + once for ms in laps[OTHER]]
    return replace(probe, laps_ms=laps)
