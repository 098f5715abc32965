"""A comparison of hardware as a whole: tables, figures, captions and sentences, as any report takes them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.analysis import compared as sentences
from bench.analysis.compared import (
    best_frame,
    model_frame,
    rank_by_energy,
    rank_by_speed,
    speed_frame,
    step_frame,
    transfer_frame,
)
from bench.analysis.comparison import Comparison, compare, limits
from bench.analysis.differences import pair_frame
from bench.analysis.load import LabelledRun
from bench.report import device_figures as question_figures
from bench.report import device_figures as speed_figures
from bench.report import latency_figures
from bench.report.device_figures import CAPTIONS
from bench.report.drawing import Drawings
from bench.report.sections import Grid, Picture, Section, told


@dataclass(frozen=True)
class HardwareReport:
    """Everything that is said of several runs side by side.

    Attributes:
        comparison: the runs.
        best: as `bench.compare.frames.best_frame`.
        steps: as `bench.compare.frames.step_frame`.
        split: as `bench.compare.question_figures.split_frame`.
        transferred: as `bench.compare.transfer.transfer_frame`.
        models: as `bench.compare.verdicts_on_models.model_frame`.
    """

    comparison: Comparison
    best: pd.DataFrame
    steps: pd.DataFrame
    split: pd.DataFrame
    transferred: pd.DataFrame
    models: pd.DataFrame

    @classmethod
    def of(cls, runs: Sequence[LabelledRun]) -> "HardwareReport":
        """From runs with labels; see `bench.compare.load`."""
        comparison = compare(runs)
        steps, transferred = step_frame(comparison), transfer_frame(comparison)
        split = question_figures.split_frame(comparison)
        return cls(comparison, best_frame(comparison), steps, split, transferred, model_frame(comparison))

    def tables(self) -> dict[str, pd.DataFrame]:
        """By file name."""
        return {
            "by_tokens_per_second": rank_by_speed(self.best),
            "by_tokens_per_joule": rank_by_energy(self.best),
            "best": self.best,
            "speedup_by_size": speed_frame(self.comparison),
            "step_latency": self.steps,
            "draft_step_split": self.split,
            "transfer": self.transferred,
            "latency_models": self.models,
            "pairs_of_runs": pair_frame(self.comparison.runs),
        }

    def drawings(self) -> Drawings:
        """By file name, as in `CAPTIONS`; those that nothing was measured for draw nothing."""
        return {
            "speedup_by_size": lambda: speed_figures.speedup_figure(self.comparison),
            "best_size": lambda: speed_figures.best_size_figure(self.comparison, self.best),
            "acceptance_by_size": lambda: question_figures.acceptance_figure(self.comparison),
            "draft_step_split": lambda: question_figures.split_figure(self.comparison, self.split),
            "throughput": lambda: speed_figures.throughput_figure(self.comparison, self.best),
            "energy": lambda: speed_figures.energy_figure(self.comparison, self.best),
            "step_latency": lambda: latency_figures.step_figure(self.comparison, self.steps),
            "transfer": lambda: latency_figures.transfer_figure(self.comparison, self.transferred),
        }

    def verdicts(self) -> list[str]:
        """What to use where."""
        return sentences.verdicts(self.best)

    def transfers(self) -> list[str]:
        """How well latency models move between devices."""
        return sentences.transfers(self.transferred)

    def limits(self) -> list[str]:
        """What cannot be compared, and what else differs."""
        return limits(self.comparison, self.steps)


# Several runs side by side, as a part of the page.

_TABLES = {
    "by_tokens_per_second": "Devices by measured tokens per second.",
    "by_tokens_per_joule": "Devices by measured tokens per joule; those without a measured energy come last.",
    "transfer": "Error of a device's latency model on another, after scaling by the data sheets.",
}

_MODEL_SHARES = {
    "measured_saving": "measured saving",
    "flops_predicted_saving": "saving by FLOPs",
    "flops_held_out_error": "error of FLOPs",
    "held_out_error": "error of the best model",
    "flops_largest_regret_share": "lost by FLOPs",
    "bandwidth_share": "of the bandwidth",
    "launch_share": "fixed share (t0)",
}


def hardware_section(report: HardwareReport, drawn: Collection[str]) -> Section:
    """What differs between devices, and what cannot be compared.

    Args:
        report: the comparison.
        drawn: names of the figures that there are.
    """
    tables = report.tables()
    empty = {
        "by_tokens_per_joule": report.best["tokens_per_joule"].isna().all(),
        "transfer": not len(tables["transfer"]),
    }
    shown = [Grid.of(tables[name], caption) for name, caption in _TABLES.items() if not empty.get(name)]
    limits = Section(
        "limits", "What differs between the runs, and what cannot be compared", points=report.limits()
    )
    return Section(
        "hardware",
        "How do the devices compare?",
        report.verdicts(),
        report.transfers(),
        [Picture(name, caption) for name, caption in CAPTIONS.items() if name in drawn],
        shown,
        [part for part in (_models(report), limits) if not part.is_empty],
    )


def _models(report: HardwareReport) -> Section:
    """What FLOPs would have saved and lost on every device."""
    table = report.models
    several = table["case"].nunique() > 1
    shown = pd.DataFrame({"case": table["case"]} if several else {})
    shown["device"] = table["device"]
    for name, heading in _MODEL_SHARES.items():
        shown[heading] = [told(value, ".1%") for value in table[name]]
    shown.insert(len(shown.columns) - 2, "on", [value or "" for value in table["flops_regret_domain"]])
    shown["best model"], shown["note"] = table["best_model"], table["note"]
    caption = (
        "Latency models of a chained draft step on every device. Savings: of the smallest size that was "
        "measured, over the full vocabulary. Lost: speed that the k of FLOPs gives away on the domain where "
        "it loses most. Limits: of the step with the full vocabulary."
    )
    return Section("models", "Would FLOPs have picked it on these devices?", grids=[Grid.of(shown, caption)])
