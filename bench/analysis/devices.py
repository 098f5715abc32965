"""Everything that a report says of several runs side by side, computed once; draws nothing."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import pandas as pd

from bench.analysis.comparison import (
    AcceptanceCurve,
    Comparison,
    acceptance_curves,
    best_frame,
    compare,
    confident_frame,
    coverage_frame,
    curve_frame,
    decoded_frame,
    rank_by_energy,
    rank_by_speed,
    speed_frame,
    split_frame,
)
from bench.analysis.differences import SETTINGS, format_setting, pair_frame
from bench.analysis.findings import Findings
from bench.analysis.load import CASE_NAMES, Case, format_case_value
from bench.analysis.metrics import format_value
from bench.analysis.transfer import model_frame, step_frame, transfer_frame

# The details of more runs than these would bury the comparison: each has a report of its own.
MOST_DETAILED = 3


@dataclass(frozen=True)
class DeviceFindings:
    """What several runs say side by side; tables as the function of their name says.

    Attributes:
        comparison: the runs.
    """

    comparison: Comparison

    @classmethod
    def of(cls, runs: Sequence[Findings]) -> "DeviceFindings":
        """From runs with labels; see `bench.analysis.load`."""
        return cls(compare(runs))

    @property
    def detailed(self) -> dict[str, Findings]:
        """Runs that are shown in detail too, by the prefix of their files; none where they are many."""
        runs = self.comparison.runs if len(self.comparison.runs) <= MOST_DETAILED else []
        return {f"run{place}-": run for place, run in enumerate(runs, start=1)}

    @cached_property
    def best(self) -> pd.DataFrame:
        """What is best on every device, predicted and as decoded."""
        return best_frame(self.comparison)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Predicted speedup at every size."""
        return curve_frame(self.comparison)

    @cached_property
    def decoded(self) -> pd.DataFrame:
        """Measured speedup of every draft."""
        return decoded_frame(self.comparison)

    @cached_property
    def confident(self) -> pd.DataFrame:
        """Ranges of sizes that may be as good as the best."""
        return confident_frame(self.comparison)

    @cached_property
    def accepted(self) -> list[AcceptanceCurve]:
        """What every size brings per target pass."""
        return acceptance_curves(self.comparison)

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """What every size covers of held-out answers."""
        return coverage_frame(self.comparison)

    @cached_property
    def split(self) -> pd.DataFrame:
        """Where the time of a draft step goes."""
        return split_frame(self.comparison)

    @cached_property
    def stacked(self) -> pd.DataFrame:
        """The same with a column per part; a size without a layer takes that of its neighbour."""
        table = self.split.pivot(index=["case", "device", "vocab_size"], columns="part", values="median_ms")
        by_device = table.groupby(level=["case", "device"])
        return by_device.transform(lambda column: column.ffill().bfill()).reset_index()

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A chained draft step by size, with the device's bandwidth."""
        return step_frame(self.comparison)

    @cached_property
    def transferred(self) -> pd.DataFrame:
        """The latency model of every device on every other."""
        return transfer_frame(self.comparison)

    @cached_property
    def models(self) -> pd.DataFrame:
        """Which latency model holds on every device."""
        return model_frame(self.comparison)

    @property
    def by_speed(self) -> pd.DataFrame:
        """Devices by measured tokens per second."""
        return rank_by_speed(self.best)

    @property
    def by_energy(self) -> pd.DataFrame:
        """Devices by tokens per joule."""
        return rank_by_energy(self.best)

    def tables(self) -> dict[str, pd.DataFrame]:
        """What is written as files, by name."""
        return {
            "by_tokens_per_second": self.by_speed,
            "by_tokens_per_joule": self.by_energy,
            "best": self.best,
            "speedup_by_size": speed_frame(self.curves, self.comparison),
            "step_latency": self.steps,
            "draft_step_split": self.split,
            "transfer": self.transferred,
            "latency_models": self.models,
            "pairs_of_runs": pair_frame(self.comparison.runs),
        }

    def verdicts(self) -> list[str]:
        """What to use where: one sentence per case and domain."""
        return verdicts(self.best)

    def transfers(self) -> list[str]:
        """How well latency models move between devices."""
        return transfers(self.transferred)

    def limits(self) -> list[str]:
        """What cannot be compared, and what else differs."""
        return limits(self.comparison, self.steps)


def verdicts(best: pd.DataFrame) -> list[str]:
    """One sentence per case and domain: the best size of every device, and the fastest of them.

    Args:
        best: of `bench.analysis.comparison.best_frame`.
    """
    several = best["case"].nunique() > 1
    found = []
    for (case, domain), rows in best.groupby(["case", "domain"], sort=True):
        where = f"{domain} ({case})" if several else domain
        found.append(
            f"{where}:{_fastest_device(rows)} Predicted fastest: {_best_sizes(rows)}.{_most_frugal(rows)}"
        )
    return found


def _best_sizes(rows: pd.DataFrame) -> str:
    """Best (k, gamma) and the devices that have it."""
    devices: dict[str, list[str]] = {}
    for _, row in rows.iterrows():
        equal = f"({row['confident_low']:,} to {row['confident_high']:,} are as good)"
        text = f"k = {row['vocab_size']:,} {equal}, gamma = {row['draft_length']}"
        devices.setdefault(text, []).append(row["device"])
    return "; ".join(f"{text} on {', '.join(names)}" for text, names in devices.items())


def _fastest_device(rows: pd.DataFrame) -> str:
    if len(rows) < 2:
        return ""
    ordered = rows.sort_values("tokens_per_s", ascending=False)
    first, second = ordered.iloc[0], ordered.iloc[1]
    speed = format_value("tokens_per_s", first["tokens_per_s"], with_unit=True)
    return (
        f" {first['device']} is fastest as decoded, with {speed}, "
        f"{first['tokens_per_s'] / second['tokens_per_s']:.2f}x as fast as {second['device']}."
    )


def _most_frugal(rows: pd.DataFrame) -> str:
    known = rows[rows["tokens_per_joule"].notna()]
    if known.empty:
        reasons = ", ".join(sorted(set(rows["energy_reason"])))
        return f" Energy per token: {reasons}."
    first = known.sort_values("tokens_per_joule", ascending=False).iloc[0]
    most = format_value("tokens_per_joule", first["tokens_per_joule"])
    return f" Most tokens per joule: {first['device']}, {most}."


def transfers(transferred: pd.DataFrame) -> list[str]:
    """How well latency models moved to other devices, by case, and why others could not be."""
    found = []
    for case, rows in transferred[transferred["mean_error"].notna()].groupby("case", sort=True):
        worst = rows.sort_values("mean_error").iloc[-1]
        found.append(
            f"{case}: a device's latency model, moved by the data sheets, predicts the draft step of another "
            f"with a mean error of {rows['mean_error'].median():.1%} (median of {len(rows)} ordered pairs of "
            f"devices), at worst {worst['mean_error']:.1%}, from {worst['source']} to {worst['target']}."
        )
    reasons = sorted(set(transferred.loc[transferred["mean_error"].isna(), "reason"]))
    return found + ([f"Not every latency model could be moved: {'; '.join(reasons)}."] if reasons else [])


def limits(comparison: Comparison, steps: pd.DataFrame) -> list[str]:
    """One sentence for everything that keeps runs apart or may explain a difference.

    Pair by pair the same is said by `bench.analysis.differences.pair_frame`.

    Args:
        comparison: the comparison.
        steps: as `bench.analysis.transfer.step_frame`.
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


def _cases(runs: Sequence[Findings]) -> Iterator[str]:
    for item in fields(Case):
        values = [format_case_value(item.name, getattr(Case.of(run.run), item.name)) for run in runs]
        if len(set(values)) > 1:
            yield f"A difference in {CASE_NAMES[item.name]} keeps runs apart: {_by_value(values, runs)}."


def _settings(runs: Sequence[Findings]) -> Iterator[str]:
    for what, read in SETTINGS:
        values = [format_setting(read(run.run.environment)) for run in runs]
        if len(set(values)) > 1:
            said = _by_value(values, runs)
            yield f"{what[0].upper()}{what[1:]} differs, and may explain a difference: {said}."


def _pairs(runs: Sequence[Findings]) -> Iterator[str]:
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


def _by_value(values: Sequence[str], runs: Sequence[Findings]) -> str:
    """Every value with the devices that have it."""
    devices: dict[str, set[str]] = defaultdict(set)
    for value, run in zip(values, runs, strict=True):
        devices[value].add(run.label)
    return "; ".join(f"{value} on {', '.join(sorted(devices[value]))}" for value in sorted(devices))
