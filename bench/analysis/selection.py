"""A selection's folder, read back for its figures and page."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class SelectionData:
    """What a selection left.

    Attributes:
        folder: where it is.
        summary: `summary.json`.
        coverage: one row per k.
        cross: coverage by (vocabulary chosen on, held-out responses of).
        lost: most frequent tokens left out.
        trials: of the estimator.
        pareto: frontier of coverage against FLOPs.
        frequencies: counts of the tokens seen, falling.
    """

    folder: Path
    summary: dict
    coverage: pd.DataFrame
    cross: pd.DataFrame
    lost: pd.DataFrame
    trials: pd.DataFrame
    pareto: pd.DataFrame
    frequencies: np.ndarray

    @property
    def size(self) -> int:
        """The exported k."""
        return self.summary["exported_vocab_size"]

    @property
    def judged(self) -> str:
        """The column of `coverage` that the utility was computed with."""
        return "coverage_train" if self.summary["coverage_of"] == "ranking" else "coverage_heldout"


def read_selection(folder: Path) -> SelectionData:
    """Reads `folder` as `task=select` wrote it."""
    with np.load(folder / "token_counts.npz", allow_pickle=False) as file:
        frequencies = np.sort(file["counts"])[::-1]
    return SelectionData(
        folder,
        json.loads((folder / "summary.json").read_text("utf-8")),
        pd.read_parquet(folder / "coverage.parquet"),
        pd.read_csv(folder / "cross_domain.csv", index_col=0),
        pd.read_csv(folder / "lost_tokens.csv", keep_default_na=False),
        pd.read_csv(folder / "tpe_trials.csv"),
        pd.read_csv(folder / "pareto.csv"),
        frequencies,
    )
