"""What can stand side by side: per case and domain, every device on shared prompts, and how fast."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.differences import shared_prompts
from bench.analysis.findings import Findings
from bench.analysis.load import Case, case_labels
from bench.analysis.metrics import estimate_columns
from bench.analysis.run import Run, speedup
from bench.analysis.summary import coverage_curves
from bench.analysis.surfaces import Surfaces, baselines, measured_tokens_per_s
from bench.analysis.telemetry import token_energy
from bench.stats.estimates import Estimate, Floats
from bench.surface.predict import Surface
from bench.variant import Variant
from bench.vocab.draft_vocab import IntArray

BEST_COLUMNS = [
    "case", "domain", "device", "num_prompts", "vocab_size", "confident_low", "confident_high",
    "draft_length", "predicted_tokens_per_s", "predicted_ci_low", "predicted_ci_high", "tokens_per_s",
    "plain_tokens_per_s", "full_tokens_per_s", "speedup_vs_plain", "speedup_vs_plain_ci_low",
    "speedup_vs_plain_ci_high", "speedup_vs_full", "speedup_vs_full_ci_low", "speedup_vs_full_ci_high",
    "energy_j_per_token", "plain_energy_j_per_token", "tokens_per_joule", "energy_reason",
]  # fmt: skip

SPEED_COLUMNS = [
    "case", "domain", "device", "vocab_size", "draft_length", "predicted_tokens_per_s",
    "predicted_speedup_vs_plain", "ci_low", "ci_high",
]  # fmt: skip

RANK_COLUMNS = [
    "place", "case", "domain", "device", "vocab_size", "draft_length", "tokens_per_s", "tokens_per_joule",
    "speedup_vs_plain", "note",
]  # fmt: skip


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
        runs: whole, with labels.
        entries: by case, domain and device.
    """

    runs: list[Findings]
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

    def full_size(self, case: str, domain: str) -> int:
        """Tokens of the untrimmed draft of a panel."""
        return max(entry.run.full_size for entry in self.of(case, domain))

    def sample_sizes(self, case: str, domain: str) -> str:
        """Prompts behind a panel."""
        counts = sorted({entry.num_prompts for entry in self.of(case, domain)})
        return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"

    def runs_of(self, case: str) -> dict[str, list[Run]]:
        """Whole runs of a case, by device."""
        labels, found = case_labels(Case.of(item.run) for item in self.runs), defaultdict(list)
        for item in self.runs:
            if labels[Case.of(item.run)] == case:
                found[item.label].append(item.run)
        return dict(found)


def compare(runs: Sequence[Findings]) -> Comparison:
    """Sets runs side by side.

    Where devices share prompts of a domain, only those count; where they share none, each keeps its own, and
    `bench.analysis.differences` says so.
    """
    labels = case_labels(Case.of(item.run) for item in runs)
    panels: dict[tuple[str, str], list[Findings]] = defaultdict(list)
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
    left_out = set(run.prompts[domain]) - kept
    return replace(
        run,
        plans={domain: run.plans[domain]},
        replays={
            domain: {
                source: {prompt: record for prompt, record in by_prompt.items() if prompt not in left_out}
                for source, by_prompt in run.replays[domain].items()
            }
        },
        probes={domain: [probe for probe in run.probes[domain] if probe.prompt_id not in left_out]},
        checks={domain: [probe for probe in run.checks.get(domain, []) if probe.prompt_id in kept]},
        decodes={
            domain: {
                key: {prompt: record for prompt, record in by_prompt.items() if prompt in kept}
                for key, by_prompt in run.decodes[domain].items()
            }
        },
    )


# How fast every device decodes.


def best_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per case, domain and device, with `BEST_COLUMNS`.

    `vocab_size` and `draft_length` are what is advised; sizes from `confident_low` to `confident_high` are as
    good. Speedups are estimated from all probes and replays; `tokens_per_s` and energy are of the decodes.
    """
    rows = [_best_row(entry) for entry in comparison.entries]
    return pd.DataFrame(rows, columns=BEST_COLUMNS)


def _best_row(entry: Entry) -> dict[str, Any]:
    run, domain, surface = entry.run, entry.domain, entry.surface
    plain, full, decoded = baselines(run, domain)
    measured, advice = measured_tokens_per_s(run, domain), entry.surfaces.advice(domain)
    place = surface.place(advice.best)
    energy, plain_energy = token_energy(run, domain, decoded), token_energy(run, domain, plain)
    confident = advice.confident_sizes
    return {
        "case": entry.case,
        "domain": domain,
        "device": entry.device,
        "num_prompts": entry.num_prompts,
        **advice.best.columns,
        "confident_low": confident[0],
        "confident_high": confident[1],
        "predicted_tokens_per_s": surface.at(advice.best),
        "predicted_ci_low": float(surface.ci_low[place]),
        "predicted_ci_high": float(surface.ci_high[place]),
        "tokens_per_s": measured[decoded],
        "plain_tokens_per_s": measured[plain],
        "full_tokens_per_s": measured[full],
        **estimate_columns("speedup_vs_plain", _gain(surface, decoded, plain)),
        **estimate_columns("speedup_vs_full", _gain(surface, decoded, full)),
        "energy_j_per_token": energy.j_per_token,
        "plain_energy_j_per_token": plain_energy.j_per_token,
        "tokens_per_joule": energy.tokens_per_joule,
        "energy_reason": energy.reason or "",
    }


def _gain(surface: Surface, variant: Variant, base: Variant) -> Estimate:
    return surface.speed(variant).over(surface.speed(base))


def speed_frame(curves: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Of the curves every probed size and the best one, with `SPEED_COLUMNS`.

    Args:
        curves: as `curve_frame`.
        comparison: the comparison.
    """
    kept = []
    for entry in comparison.entries:
        probed = [
            *entry.surfaces.latency[entry.domain].sizes.tolist(),
            entry.surfaces.advice(entry.domain).best.vocab_size,
        ]
        of_device = (curves["case"] == entry.case) & (curves["device"] == entry.device)
        rows = curves[of_device & (curves["domain"] == entry.domain)]
        kept.append(rows[rows["vocab_size"].isin(probed)])
    return pd.concat(kept, ignore_index=True)


def curve_frame(comparison: Comparison) -> pd.DataFrame:
    """Predicted speedup over plain decoding at every size where acceptance changes, with `SPEED_COLUMNS`.

    At every size with its own fastest draft length. The interval is that of the prediction alone: plain
    decoding, which it is divided by, is taken as measured.
    """
    return pd.concat([_curve(entry) for entry in comparison.entries], ignore_index=True)


def _curve(entry: Entry) -> pd.DataFrame:
    surface = entry.surface
    plain = measured_tokens_per_s(entry.run, entry.domain)[entry.run.plain]
    rows, columns = surface.tokens_per_s.argmax(axis=0), np.arange(len(surface.sizes))
    values = (
        entry.case, entry.domain, entry.device, surface.sizes, np.array(surface.draft_lengths)[rows],
        surface.tokens_per_s[rows, columns], surface.tokens_per_s[rows, columns] / plain,
        surface.ci_low[rows, columns] / plain, surface.ci_high[rows, columns] / plain,
    )  # fmt: skip
    return pd.DataFrame(dict(zip(SPEED_COLUMNS, values, strict=True)))


def confident_frame(comparison: Comparison) -> pd.DataFrame:
    """Ranges of sizes that some draft length has in the confidence set; a row per range."""
    rows = []
    for entry in comparison.entries:
        surface = entry.surface
        inside = surface.is_equal.any(axis=0).astype(int)
        changes = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]])))
        for start, end in zip(changes[::2], changes[1::2], strict=True):
            ends = int(surface.sizes[start]), int(surface.sizes[end - 1])
            rows.append((entry.case, entry.domain, entry.device, *ends))
    return pd.DataFrame(rows, columns=["case", "domain", "device", "low", "high"])


def decoded_frame(comparison: Comparison) -> pd.DataFrame:
    """Measured speedup over plain decoding of every draft that was decoded.

    `is_on_curve`: whether its draft length is the one that `curve_frame` has at its size.
    """
    rows = []
    for entry in comparison.entries:
        surface = entry.surface
        for variant in entry.run.decodes[entry.domain]:
            estimate = speedup(entry.run, entry.domain, variant, entry.run.plain)
            if estimate is not None and not variant.is_plain:
                size, gamma = variant.vocab_size, variant.draft_length
                on_curve = surface.best_draft_length(size) == gamma
                place = (entry.case, entry.domain, entry.device)
                rows.append((*place, size, gamma, *vars(estimate).values(), on_curve))
    columns = ["case", "domain", "device", "vocab_size", "draft_length", "value", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=[*columns, "is_on_curve"])


@dataclass(frozen=True)
class AcceptanceCurve:
    """Mean acceptance length by size, of all devices of a panel that accept the same.

    Attributes:
        case: label of the case.
        domain: its name.
        devices: labels.
        draft_length: that is fastest on them.
        sizes: k `(n,)`.
        mean_acceptance_length: tokens per target pass `(n,)`.
    """

    case: str
    domain: str
    devices: list[str]
    draft_length: int
    sizes: IntArray
    mean_acceptance_length: Floats


_COMPARED_SIZES = [2**n for n in range(4, 18)]


def acceptance_curves(comparison: Comparison) -> list[AcceptanceCurve]:
    """Of every panel, at the fastest draft length of every device."""
    groups: dict[tuple[str, str, bytes, int], list[Entry]] = defaultdict(list)
    for entry in comparison.entries:
        surface, fastest = entry.surface, entry.surface.fastest
        row, _ = surface.place(fastest)
        at_sizes = surface.mean_acceptance_length[row, [surface.column(k) for k in _COMPARED_SIZES]]
        groups[entry.case, entry.domain, at_sizes.tobytes(), fastest.draft_length].append(entry)
    found = []
    for (case, domain, _, gamma), alike in groups.items():
        surface = alike[0].surface
        tau = surface.mean_acceptance_length[surface.draft_lengths.index(gamma)]
        found.append(AcceptanceCurve(case, domain, [e.device for e in alike], gamma, surface.sizes, tau))
    return found


def coverage_frame(comparison: Comparison) -> pd.DataFrame:
    """What sizes cover of each panel's held-out answers, on its first device."""
    frames = []
    for case, domain in comparison.panels:
        run = comparison.of(case, domain)[0].run
        frames.append(coverage_curves(run, domain).assign(case=case))
    return pd.concat(frames, ignore_index=True)


_PARTS = ("layer", "lm_head", "select")


def split_frame(comparison: Comparison) -> pd.DataFrame:
    """Median of every part of a chained draft step by case, device and k, over the domains of its runs."""
    rows = []
    for case in comparison.cases:
        for device, runs in comparison.runs_of(case).items():
            pooled: dict[tuple[str, int], list[float]] = defaultdict(list)
            for probe in (probe for run in runs for probes in run.probes.values() for probe in probes):
                for part in _PARTS:
                    pooled[part, probe.vocab_size] += probe.laps_ms.get(part, [])
            rows += [
                (case, device, part, size, float(np.median(samples)))
                for (part, size), samples in sorted(pooled.items())
                if samples
            ]
    return pd.DataFrame(rows, columns=["case", "device", "part", "vocab_size", "median_ms"])


def rank_by_speed(best: pd.DataFrame) -> pd.DataFrame:
    """Devices of each case and domain by measured tokens per second, fastest first; `RANK_COLUMNS`."""
    return _ranked(best, "tokens_per_s")


def rank_by_energy(best: pd.DataFrame) -> pd.DataFrame:
    """Devices of each case and domain by tokens per joule, most first; `RANK_COLUMNS`.

    Devices without a measured energy come last, without a place and with the reason as a note.
    """
    return _ranked(best, "tokens_per_joule")


def _ranked(best: pd.DataFrame, by: str) -> pd.DataFrame:
    ordered = best.assign(**{by: best[by].astype(float)})
    ordered = ordered.sort_values(
        ["case", "domain", by, "device"], ascending=[True, True, False, True], na_position="last"
    )
    place = ordered.groupby(["case", "domain"])[by].rank(ascending=False, method="min").astype("Int64")
    slower_than_plain = ordered["speedup_vs_plain_ci_high"] < 1
    note = ordered["energy_reason"].where(ordered[by].isna(), "")
    frame = ordered.assign(
        place=place,
        vocab_size=ordered["vocab_size"],
        draft_length=ordered["draft_length"],
        note=note.mask(slower_than_plain, "slower than plain decoding"),
    )
    return frame[RANK_COLUMNS].reset_index(drop=True)
