"""What can stand side by side: per case and domain, every device, on the prompts that all of them have."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import pandas as pd

from bench.analysis.differences import SETTINGS, pair_frame, shared_prompts, tell_setting
from bench.analysis.load import CASE_NAMES, Case, LabelledRun, case_labels, tell
from bench.analysis.run import Run
from bench.analysis.surfaces import Surfaces
from bench.surface.predict import Surface


@dataclass(frozen=True)
class Entry:
    """One domain on one device.

    Attributes:
        case: label of the case.
        domain: its name.
        device: label of the device.
        run: the run, of which only this domain and the compared prompts are left.
        num_own_prompts: prompts that the run itself has.
        whole: predictions of the whole run.
    """

    case: str
    domain: str
    device: str
    run: Run
    num_own_prompts: int
    whole: Surfaces

    @cached_property
    def surfaces(self) -> Surfaces:
        """Predictions: those of the whole run where all of its prompts are compared."""
        return self.whole if self.num_prompts == self.num_own_prompts else Surfaces(self.run)

    @property
    def surface(self) -> Surface:
        """Prediction under the ranking that the domain's vocabularies follow."""
        return self.surfaces.of(self.domain)

    @property
    def num_prompts(self) -> int:
        """Prompts that are compared."""
        return len(self.run.prompts[self.domain])


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: with labels.
        entries: by case, domain and device.
    """

    runs: list[LabelledRun]
    entries: list[Entry]

    @property
    def devices(self) -> list[str]:
        """Labels of all devices, sorted."""
        return sorted({item.label for item in self.runs})

    @property
    def cases(self) -> list[str]:
        """Labels of all cases, sorted."""
        return sorted({entry.case for entry in self.entries})

    def devices_of(self, case: str) -> list[str]:
        """Labels of the devices that measured a case, sorted."""
        return sorted({entry.device for entry in self.entries if entry.case == case})

    @property
    def panels(self) -> list[tuple[str, str]]:
        """Every (case, domain), sorted: what one panel of a figure shows."""
        return sorted({(entry.case, entry.domain) for entry in self.entries})

    def of(self, case: str, domain: str) -> list[Entry]:
        """Entries of one panel, by device."""
        return [entry for entry in self.entries if (entry.case, entry.domain) == (case, domain)]

    def runs_of(self, case: str) -> dict[str, list[Run]]:
        """Whole runs of a case, by device."""
        labels, found = case_labels(Case.of(item.run) for item in self.runs), defaultdict(list)
        for item in self.runs:
            if labels[Case.of(item.run)] == case:
                found[item.label].append(item.run)
        return dict(found)


def compare(runs: Sequence[LabelledRun]) -> Comparison:
    """Sets runs side by side.

    Where devices share prompts of a domain, only those count; where they share none, each keeps its own, and
    `bench.compare.differences` says so.
    """
    labels = case_labels(Case.of(item.run) for item in runs)
    panels: dict[tuple[str, str], list[LabelledRun]] = defaultdict(list)
    for item in runs:
        for domain in item.run.decodes:
            panels[labels[Case.of(item.run)], domain].append(item)
    entries = []
    for (case, domain), items in sorted(panels.items(), key=lambda panel: panel[0]):
        shared = shared_prompts([item.run for item in items], domain)
        for item in sorted(items, key=lambda item: item.label):
            own = item.run.prompts[domain]
            run = _restricted(item.run, domain, shared or own)
            entries.append(Entry(case, domain, item.label, run, len(own), item.surfaces))
    return Comparison(list(runs), entries)


def _restricted(run: Run, domain: str, prompts: Sequence[str]) -> Run:
    """A run of which one domain and some prompts are left."""
    kept = set(prompts)
    return replace(
        run,
        plans={domain: run.plans[domain]},
        probes={domain: [probe for probe in run.probes[domain] if probe.prompt_id in kept]},
        decodes={
            domain: {
                key: {prompt: record for prompt, record in by_prompt.items() if prompt in kept}
                for key, by_prompt in run.decodes[domain].items()
            }
        },
    )


# What cannot be compared among several runs, and what else differs, told once for all pairs.


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
