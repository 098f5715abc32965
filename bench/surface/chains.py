"""Rounds whose laps say nothing of the parts: what depends on k in them, and what on gamma.

A round of a few graphs has no mark between the layers, heads and selections of a chain. Probes of many
(k, gamma) still show the parts: a chain takes a(gamma) + gamma h(k), with the extension and the layers
in a(gamma) and LM head and selection in h(k). Of rounds that were launched kernel by kernel on a device that
works behind the host's back, no lap can be trusted; their whole rounds are then taken for chains.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.records import ProbeRecord
from bench.variant import DRAFT, EXTEND, HEAD, LAYER, OTHER, PREFILL, SELECT, VERIFY


def whole_rounds_ms(probe: ProbeRecord) -> list[float]:
    """Time of every round that an extension ends, and so of every one but the last."""
    laps, gamma = probe.laps_ms, probe.draft_length
    num_rounds = len(laps.get(EXTEND, []))

    def by_round(name: str, per_round: int) -> np.ndarray:
        samples = np.array(laps.get(name, [])[: num_rounds * per_round])
        return samples.reshape(num_rounds, per_round).sum(axis=1)

    chained = by_round(HEAD, gamma) + by_round(SELECT, gamma) + by_round(LAYER, gamma - 1)
    return [float(ms) for ms in chained + sum(by_round(name, 1) for name in (VERIFY, OTHER, EXTEND))]


def joined_rounds(probe: ProbeRecord) -> ProbeRecord:
    """The same probe with its whole rounds as chains, without the extensions, which stay laps."""
    extensions = probe.laps_ms.get(EXTEND, [])
    nothing = [0.0] * len(extensions)
    laps = {
        PREFILL: probe.laps_ms.get(PREFILL, []),
        DRAFT: [whole - ms for whole, ms in zip(whole_rounds_ms(probe), extensions, strict=True)],
        **{VERIFY: nothing, OTHER: nothing, EXTEND: extensions},
    }
    return replace(probe, laps_ms=laps)


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
