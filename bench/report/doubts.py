"""What makes a run's figures doubtful, in plain words with the remedy; from its records and samples alone."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench.report.doubt import Doubt
from bench.report.frames import Run
from bench.report.telemetry_doubts import telemetry_doubts
from bench.report.timing_doubts import timing_doubts

__all__ = ["Doubt", "doubts", "write_doubts"]

FILE_NAME = "doubts.json"

# A run is doubted beyond these; each is far above what a quiet machine shows and small enough to matter.
_MOST_REPEATED = 0.05  # share of measurements that were held up and taken again
_MOST_DRIFT = 0.05  # change of the same work from one half of the run to the other


def doubts(run: Run) -> list[Doubt]:
    """Everything that is doubtful about a run."""
    found = [_unfinished(run), _repeats(run), _drift(run), *timing_doubts(run)]
    return [*(doubt for doubt in found if doubt), *telemetry_doubts(run)]


def write_doubts(run: Run, folder: Path) -> None:
    """`doubts.json`: a list of objects with `code`, `what` and `remedy`; empty where nothing is doubtful."""
    content = [asdict(doubt) for doubt in doubts(run)]
    (folder / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _unfinished(run: Run) -> Doubt | None:
    if run.has_ended:
        return None
    there = ", ".join(f"{domain}: {len(prompts)} prompts" for domain, prompts in run.prompts.items())
    return Doubt(
        "unfinished",
        f"the run did not measure everything that it was asked for (what is shown: {there})",
        "give the same command again, which goes on from there",
    )


def _repeats(run: Run) -> Doubt | None:
    measured = [record for probes in run.probes.values() for record in probes]
    numbers = [record.num_repeats for record in measured]
    numbers += [
        record.num_repeats
        for by_key in run.decodes.values()
        for by_prompt in by_key.values()
        for record in by_prompt.values()
    ]
    share = float(np.mean([number > 0 for number in numbers])) if numbers else 0.0
    if share <= _MOST_REPEATED:
        return None
    return Doubt(
        "held_up",
        f"{share:.0%} of the measurements were held up by something else on the machine and taken again",
        "let nothing run beside a measurement",
    )


def _drift(run: Run) -> Doubt | None:
    """Plain decoding does the same work whenever it comes; its first half of the run against its second."""
    worst, where = 0.0, ""
    for domain, by_key in run.decodes.items():
        plain = [
            record for (_, gamma), by_prompt in by_key.items() if not gamma for record in by_prompt.values()
        ]
        plain.sort(key=lambda record: record.order)
        steps = [
            float(np.median(record.laps_ms["verify"])) for record in plain if record.laps_ms.get("verify")
        ]
        if len(steps) < 4:
            continue
        half = len(steps) // 2
        drift = float(np.median(steps[half:]) / np.median(steps[:half]) - 1)
        if abs(drift) > abs(worst):
            worst, where = drift, domain
    if abs(worst) <= _MOST_DRIFT:
        return None
    return Doubt(
        "drift",
        f"plain decoding of {where} became {abs(worst):.0%} {'slower' if worst > 0 else 'faster'} during the "
        "run",
        "warm the machine up, keep its clocks fixed, and measure again; ratios of what was interleaved hold "
        "better than absolute figures",
    )
