"""A comparison of hardware as a whole: tables, figures, captions and sentences, as any report takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.compare import latency_figures, sentences, speed_figures
from bench.compare.captions import CAPTIONS
from bench.compare.comparison import Comparison, compare
from bench.compare.differences import pair_frame
from bench.compare.frames import best_frame, rank_by_energy, rank_by_speed, speed_frame, step_frame
from bench.compare.limits import limits
from bench.compare.load import LabelledRun
from bench.compare.transfer import transfer_frame
from bench.compare.write import as_text, write_figures, write_tables
from bench.report.drawing import set_style


@dataclass(frozen=True)
class HardwareReport:
    """Everything that is said of several runs side by side.

    Attributes:
        comparison: the runs.
        best: as `bench.compare.frames.best_frame`.
        steps: as `bench.compare.frames.step_frame`.
        transferred: as `bench.compare.transfer.transfer_frame`.
    """

    comparison: Comparison
    best: pd.DataFrame
    steps: pd.DataFrame
    transferred: pd.DataFrame

    @classmethod
    def of(cls, runs: Sequence[LabelledRun]) -> "HardwareReport":
        """From runs with labels; see `bench.compare.load`."""
        comparison = compare(runs)
        steps, transferred = step_frame(comparison), transfer_frame(comparison)
        return cls(comparison, best_frame(comparison), steps, transferred)

    def tables(self) -> dict[str, pd.DataFrame]:
        """By file name."""
        return {
            "by_tokens_per_second": rank_by_speed(self.best),
            "by_tokens_per_joule": rank_by_energy(self.best),
            "best": self.best,
            "speedup_by_size": speed_frame(self.comparison),
            "step_latency": self.steps,
            "transfer": self.transferred,
            "pairs_of_runs": pair_frame(self.comparison.runs),
        }

    def figures(self) -> dict[str, Figure]:
        """By file name, as in `CAPTIONS`; those that nothing was measured for are left out."""
        set_style()
        drawn: dict[str, Figure | None] = {
            "speedup_by_size": speed_figures.speedup_figure(self.comparison),
            "best_size": speed_figures.best_size_figure(self.comparison, self.best),
            "throughput": speed_figures.throughput_figure(self.comparison, self.best),
            "energy": speed_figures.energy_figure(self.comparison, self.best),
            "step_latency": latency_figures.step_figure(self.comparison, self.steps),
            "transfer": latency_figures.transfer_figure(self.comparison, self.transferred),
        }
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def verdicts(self) -> list[str]:
        """What to use where."""
        return sentences.verdicts(self.best)

    def transfers(self) -> list[str]:
        """How well latency models move between devices."""
        return sentences.transfers(self.transferred)

    def limits(self) -> list[str]:
        """What cannot be compared, and what else differs."""
        return limits(self.comparison, self.steps)


def write_hardware_report(report: HardwareReport, folder: Path) -> None:
    """Writes `tables/`, `figures/` and `comparison.md` into a folder, which is made if it is not there."""
    tables = report.tables()
    write_tables(tables, folder / "tables")
    paths = write_figures(report.figures(), folder / "figures")
    lines = ["# Hardware compared", "", *(f"- **{text}**" for text in report.verdicts()), ""]
    for name, title in (
        ("by_tokens_per_second", "tokens per second"),
        ("by_tokens_per_joule", "tokens per joule"),
    ):
        shown = as_text(tables[name]).to_markdown(index=False, disable_numparse=True)
        lines += [f"## By {title}", "", shown, ""]
    for path in paths:
        caption = CAPTIONS[path.stem]
        lines += [f"![{caption}](figures/{path.name})", "", caption, ""]
    lines += ["## Latency models on other devices", "", *(f"- {text}" for text in report.transfers()), ""]
    lines += ["## What differs between the runs", "", *(f"- {text}" for text in report.limits()), ""]
    (folder / "comparison.md").write_text("\n".join(lines), "utf-8")
