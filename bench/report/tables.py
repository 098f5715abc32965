"""The tables of one run, as figures and page take them."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Tables:
    """Tidy tables of a run.

    Attributes:
        latency: of every part of a round, by vocabulary size or draft length.
        summary: one row for everything that was decoded.
        cross: acceptance and speed of each domain with the vocabulary chosen on each source.
    """

    latency: pd.DataFrame
    summary: pd.DataFrame
    cross: pd.DataFrame
