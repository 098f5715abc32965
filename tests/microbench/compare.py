"""`make microbench-compare BASE=file`: is any benchmark slower than in an earlier file of this machine?

A benchmark's rounds are cut into blocks of neighbours, and blocks of both files are paired in their order. A
benchmark is slower if the whole interval of the ratio of its pairs is above 1, at 95% for all benchmarks
together. No percentage is fixed: what the noise of either file allows to be seen is seen.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.stats.estimates import CONFIDENCE, Estimate, median_ratio

_NUM_BLOCKS, _LEAST_BLOCKS = 20, 6

_SAME = ("device_name", "host", "python", "num_threads", "cpu_affinity")


def main(arguments: list[str]) -> int:
    """Compares two files: 0 if nothing became slower, 1 if something did, 2 if they cannot be compared."""
    if len(arguments) != 2:
        print("microbench-compare: give BASE=file, a file of make microbench", file=sys.stderr)
        return 2
    try:
        base, new = (json.loads(Path(name).read_text("utf-8")) for name in arguments)
        found, left_out = compare(base, new)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"microbench-compare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for name, ratio in found.items():
        slower = " SLOWER" if ratio.ci_low > 1 else ""
        print(f"{name}: {ratio.value:.3f} [{ratio.ci_low:.3f}, {ratio.ci_high:.3f}]{slower}")
    for name, why in left_out.items():
        print(f"{name}: not compared, {why}")
    return int(any(ratio.ci_low > 1 for ratio in found.values()))


def compare(base: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Time over the time before, by benchmark; and why others are not compared.

    Raises:
        ValueError: the files are of two machines, or have nothing in common.
    """
    machines = [content["machine_info"]["bench"] for content in (base, new)]
    for field in _SAME:
        before, now = (machine.get(field) for machine in machines)
        if before != now:
            raise ValueError(f"the files are of different machines: {field} was {before} and is {now}")
    times = [{b["fullname"]: b["stats"]["data"] for b in content["benchmarks"]} for content in (base, new)]
    both = [name for name in times[0] if name in times[1]]
    left_out = {name: "it is in one file alone" for of in times for name in of if name not in both}
    blocks = {name: (_blocks(times[1][name]), _blocks(times[0][name])) for name in both}
    enough = {name: pair for name, pair in blocks.items() if min(map(len, pair)) >= _LEAST_BLOCKS}
    left_out |= {name: f"fewer than {_LEAST_BLOCKS} rounds were timed" for name in both if name not in enough}
    if not enough:
        raise ValueError(f"the files have no benchmark of {_LEAST_BLOCKS} rounds in common")
    confidence = 1 - (1 - CONFIDENCE) / len(enough)
    found = {}
    for name, pair in enough.items():
        num = min(map(len, pair))
        found[name] = median_ratio(pair[0][:num], pair[1][:num], confidence)
    return found, left_out


def _blocks(seconds: list[float]) -> np.ndarray:
    """Medians of neighbouring rounds."""
    return np.array([np.median(part) for part in np.array_split(seconds, min(_NUM_BLOCKS, len(seconds)))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
