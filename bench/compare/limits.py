"""What cannot be compared among several runs, and what else differs, told once for all pairs."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import fields

import pandas as pd

from bench.compare.cases import CASE_NAMES, Case, tell
from bench.compare.comparison import Comparison
from bench.compare.differences import SETTINGS, pair_frame, tell_setting
from bench.compare.load import LabelledRun


def limits(comparison: Comparison, steps: pd.DataFrame) -> list[str]:
    """One sentence for everything that keeps runs apart or may explain a difference.

    Pair by pair the same is said by `bench.compare.differences.pair_frame`.

    Args:
        comparison: the comparison.
        steps: as `bench.compare.frames.step_frame`.
    """
    found = [*_cases(comparison.runs), *_settings(comparison.runs), *_pairs(comparison.runs)]
    for entry in comparison.entries:
        if entry.num_prompts < entry.num_own_prompts:
            found.append(
                f"{entry.domain} on {entry.device}: only the {entry.num_prompts} of {entry.num_own_prompts} "
                "prompts that all devices have are compared."
            )
    unknown = sorted(set(steps.loc[steps["memory_bytes_per_s"].isna(), "device"]))
    if unknown:
        found.append(
            f"The memory bandwidth of {', '.join(unknown)} is not known: neither conf/gpu nor the run's "
            "environment has it."
        )
    return found


def _cases(runs: Sequence[LabelledRun]) -> Iterator[str]:
    for item in fields(Case):
        values = _values(runs, lambda run, name=item.name: tell(name, getattr(Case.of(run.run), name)))  # type: ignore[misc]
        if len(values) > 1:
            yield f"A difference in {CASE_NAMES[item.name]} keeps runs apart: {_told(values)}."


def _settings(runs: Sequence[LabelledRun]) -> Iterator[str]:
    for what, read in SETTINGS:
        values = _values(runs, lambda run, read=read: tell_setting(read(run.run.environment)))  # type: ignore[misc]
        if len(values) > 1:
            yield f"{what[0].upper()}{what[1:]} differs, and may explain a difference: {_told(values)}."


def _pairs(runs: Sequence[LabelledRun]) -> Iterator[str]:
    """What only a pair can say: prompts, domains and vocabularies."""
    pairs = pair_frame(runs)
    for text in pairs["sentence"]:
        if "no prompt in common" in text or text.endswith("in both.") or "no domain is in both" in text:
            yield text
    apart = int(pairs["sentence"].str.contains("the vocabularies of").sum()) if len(pairs) else 0
    if apart:
        yield (
            f"In {apart} pairs of runs a k stands for other tokens, as their rankings differ: see the table "
            "pairs_of_runs."
        )


def _values(runs: Sequence[LabelledRun], read: Callable[[LabelledRun], Hashable]) -> dict[Hashable, set[str]]:
    found: dict[Hashable, set[str]] = defaultdict(set)
    for run in runs:
        found[read(run)].add(run.label)
    return found


def _told(values: dict[Hashable, set[str]]) -> str:
    ordered = sorted(values.items(), key=lambda item: str(item[0]))
    return "; ".join(f"{value} on {', '.join(sorted(devices))}" for value, devices in ordered)
