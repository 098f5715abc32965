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


def read_coverage(
    path: Path, key: str, domain: str | None = None, domain_key: str | None = None
) -> CoverageTable:
    """Reads CSV or Parquet with `vocab_size` and `coverage`, or a selection's folder.

    Args:
        path: of the table or folder.
        key: configuration key that named it, for errors.
        domain: whose rows are taken, of a table with a column `domain`; None where it has one domain at most.
        domain_key: configuration key of that; None where a domain cannot be named.

    Raises:
        ConfigError: it cannot be read, or holds no coverage curve.
    """
    path = path / "coverage.parquet" if path.is_dir() else path
    named = f"{key}={path}"
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{named} cannot be read: {error}") from error
    name = next((column for column in _NAMES if column in table), None)
    if name is None or "vocab_size" not in table or table[name].isna().all():
        raise ConfigError(f"{named} needs the columns vocab_size and coverage")
    domains = sorted(table["domain"].unique()) if "domain" in table else []
    if domain is not None and domain not in domains:
        raise ConfigError(f"{domain_key}={domain}: {path} is of {', '.join(domains) or 'no named domain'}")
    if domain is None and len(domains) > 1:
        mend = f"set {domain_key} to {' or '.join(domains)}" if domain_key else "give the table of one"
        raise ConfigError(f"{named} mixes domains: {mend}")
    if domain is not None:
        table = table[table["domain"] == domain]
    return _curve(table[["vocab_size", name]].set_axis(["vocab_size", "coverage"], axis=1), named)


def _curve(table: pd.DataFrame, named: str) -> CoverageTable:
    """Ascending, each size once."""
    table = table.dropna().drop_duplicates().sort_values("vocab_size", ignore_index=True)
    twice = table["vocab_size"][table["vocab_size"].duplicated()]
    if len(twice):
        raise ConfigError(f"{named} has several coverages of vocab_size {twice.iloc[0]:,}; give one curve")
    values = table["coverage"].to_numpy(dtype=float)
    if values.min() < 0 or values.max() > 1:
        raise ConfigError(f"{named}: coverage must lie between 0 and 1")
    if (np.diff(values) < 0).any():
        raise ConfigError(f"{named}: coverage must not fall with vocab_size; give one curve")
    return CoverageTable(table["vocab_size"].to_numpy(dtype=np.int64), values)
