"""A coverage curve that a user brings: what share of tokens k tokens cover."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.errors import ConfigError
from bench.vocab.draft_vocab import Floats, IntArray

_NAMES = ("coverage_heldout", "coverage", "coverage_train")


@dataclass(frozen=True)
class CoverageTable:
    """Coverage at some sizes.

    Attributes:
        sizes: vocabulary sizes, ascending `(n,)`.
        coverage: share of tokens inside each `(n,)`.
    """

    sizes: IntArray
    coverage: Floats

    def at(self, sizes: IntArray) -> Floats:
        """Coverage of other sizes `(m,)`, on straight lines; beyond the table as at its ends."""
        return np.interp(sizes, self.sizes, self.coverage)


def read_coverage(path: Path, key: str) -> CoverageTable:
    """Reads CSV or Parquet with `vocab_size` and `coverage`, or a selection's folder.

    Args:
        path: of the table or folder.
        key: configuration key that named it, for errors.

    Raises:
        ConfigError: it cannot be read, or holds no coverage.
    """
    path = path / "coverage.parquet" if path.is_dir() else path
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}={path} cannot be read: {error}") from error
    name = next((c for c in _NAMES if c in table), None)
    if name is None or "vocab_size" not in table or table[name].isna().all():
        raise ConfigError(f"{key}={path} needs the columns vocab_size and coverage")
    table = table.dropna(subset=[name]).sort_values("vocab_size")
    values = table[name].to_numpy(dtype=float)
    if values.min() < 0 or values.max() > 1:
        raise ConfigError(f"{key}={path}: {name} must lie between 0 and 1")
    return CoverageTable(table["vocab_size"].to_numpy(dtype=np.int64), values)
