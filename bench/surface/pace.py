"""How fast the machine was, from stretch to stretch of a run, by the times of the draft's heads.

Other programs share the memory and the caches of a CPU. For minutes they leave a run more of them or less: no
interval of one run knows what the next one meets. The whole head is read from the memory and works least on
what it reads; heads of few tokens stay in a cache and are as fast as the cores. Every part of a round takes
t0 + bytes / bandwidth + work / speed of the cores, so that its time is a plane over those of the two kinds of
head, and all can be had at the pace of another run. On 40 runs of one machine, four at a time, the gains of
four spread by up to 8.4% as they were, by up to 3.4% where only the whole head took as long as in the first,
and by up to 2.2% where small heads did too.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from bench.records import ProbeRecord
from bench.variant import HEAD
from bench.vocab.draft_vocab import Floats

# Time on one prompt: its process, domain and prompt.
Stretch = tuple[int, str, str]

LEAST_STRETCHES = 16  # of a domain, so that a half has eight: fewer do not tell a plane

_SMALL = 8  # a small head has at most one row in eight


@dataclass(frozen=True)
class Pace:
    """How fast a machine was, by the times of its heads, in ms.

    Attributes:
        whole_head_ms: of the whole head, which is read from the memory.
        small_heads_ms: of the sizes of at most an eighth of the vocabulary, which can stay in a cache, each
            size alike; None where there are none.
    """

    whole_head_ms: float
    small_heads_ms: float | None

    @property
    def times(self) -> Floats:
        """Both `(2,)`; a time that is not known is not a number."""
        return np.array([self.whole_head_ms, self.small_heads_ms], dtype=float)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Pace":
        """From a mapping with these names, of which runs of an earlier version had the first."""
        return cls(values["whole_head_ms"], values.get("small_heads_ms"))

    @classmethod
    def of(cls, times: Floats) -> "Pace":
        """From `times`."""
        whole, small = times.tolist()
        return cls(whole, None if np.isnan(small) else small)


@dataclass(frozen=True)
class Met:
    """The pace that a stretch of time met.

    Attributes:
        times: in ms, as `Pace.times`.
        error: variance of the error of the first, in ms^2.
    """

    times: Floats
    error: float

    def apart(self, times: Floats) -> Floats:
        """How far from other times, as a share, and the variance of the error of the first share `(3,)`."""
        return np.append(self.times / times - 1, self.error / times[0] ** 2)


def paces_of(probes: Sequence[ProbeRecord]) -> dict[Stretch, Met]:
    """Of every stretch of time in which the whole head was timed."""
    laps_ms: dict[int, dict[Stretch, list[float]]] = defaultdict(lambda: defaultdict(list))
    for probe in probes:
        if probe.draft_length and probe.laps_ms.get(HEAD):
            laps_ms[probe.vocab_size][stretch_of(probe)] += probe.laps_ms[HEAD]
    if not laps_ms:
        return {}
    full = max(laps_ms)
    whole = _mean_by_stretch([laps_ms[full]])
    small = _mean_by_stretch([laps for size, laps in laps_ms.items() if size <= full // _SMALL])
    error = _error_by_stretch(laps_ms[full])
    return {
        stretch: Met(np.array([ms, small.get(stretch, np.nan)]), error[stretch])
        for stretch, ms in whole.items()
    }


def _error_by_stretch(laps_ms: Mapping[Stretch, list[float]]) -> dict[Stretch, float]:
    """Variance of the error of the mean in every stretch: laps vary alike in all, but are of some number."""
    squares = sum(np.var(laps) * len(laps) for laps in laps_ms.values())
    freedom = sum(len(laps) - 1 for laps in laps_ms.values())
    return {stretch: float(squares / max(freedom, 1) / len(laps)) for stretch, laps in laps_ms.items()}


def _mean_by_stretch(of_sizes: Sequence[Mapping[Stretch, list[float]]]) -> dict[Stretch, float]:
    """Mean time of some sizes, each alike, in every stretch.

    A stretch has few laps of each size: what counts is how much longer they took than all of their size.
    """
    sums: dict[Stretch, Floats] = defaultdict(lambda: np.zeros(2))
    means = [float(np.mean(list(chain.from_iterable(laps.values())))) for laps in of_sizes]
    for laps, mean in zip(of_sizes, means, strict=True):
        for stretch, samples in laps.items():
            sums[stretch] += sum(samples), len(samples) * mean
    return {stretch: float(np.mean(means) * took / usual) for stretch, (took, usual) in sums.items()}


def stretch_of(probe: ProbeRecord) -> Stretch:
    """That a probe was taken in."""
    return probe.process, probe.domain, probe.prompt_id
