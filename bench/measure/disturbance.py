"""Whether something else on the machine held a measurement up.

A host that pauses a process, or another program that takes its cores, shows as single laps many times as long
as their like. No work of this program varies so, and one such lap can outweigh all else that is measured.
"""

from collections.abc import Mapping, Sequence

import numpy as np

_TIMES_THE_MEDIAN = 5
_SHARE = 0.1


def is_held_up(laps_ms: Mapping[str, Sequence[float]], usual_ms: Mapping[str, float]) -> bool:
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
