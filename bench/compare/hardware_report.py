"""A comparison of hardware as a whole: tables, figures, captions and sentences, as any report takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.compare import latency_figures, question_figures, sentences, speed_figures
from bench.compare.comparison import Comparison, compare
from bench.compare.differences import pair_frame
from bench.compare.frames import best_frame, rank_by_energy, rank_by_speed, speed_frame, step_frame
from bench.compare.limits import limits
from bench.compare.load import LabelledRun
from bench.compare.transfer import transfer_frame
from bench.compare.verdicts_on_models import model_frame
from bench.report.drawing import Drawings


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
