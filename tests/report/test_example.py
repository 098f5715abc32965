"""The published example: derived from its records again, its tables are the same."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.doubts import write_doubts
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.report.sections import write_tables

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
# Fits solve linear systems, whose last digits differ from processor to processor; so may the order of equals.
FITTED = sorted(path.name for path in (EXAMPLE / "tables").glob("fit_*.csv"))


@pytest.fixture(scope="module")
def derived(tmp_path_factory) -> Path:
    """What the example's records say, written as a run and its page write it."""
    folder, found = tmp_path_factory.mktemp("derived"), Findings.of(read_run(EXAMPLE))
    write_tables(found.tables(), folder / "tables")
    write_doubts(found.doubts, folder)
    return folder


def test_doubts_derived_again_are_the_same(derived):
    assert (derived / "doubts.json").read_bytes() == (EXAMPLE / "doubts.json").read_bytes()


@pytest.mark.parametrize("name", ["summary", "latency", "cross_domain", "sizes"])
@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
def test_tables_derived_again_are_the_same(derived, name, suffix):
    found = (derived / "tables" / f"{name}.{suffix}").read_bytes()
    assert found == (EXAMPLE / "tables" / f"{name}.{suffix}").read_bytes()
    beside = EXAMPLE / f"{name}.{suffix}"
    assert not beside.exists() or beside.read_bytes() == found


@pytest.mark.parametrize("name", FITTED)
def test_fits_derived_again_are_the_same_but_for_rounding(derived, name):
    found, published = (pd.read_csv(folder / "tables" / name) for folder in (derived, EXAMPLE))
    assert set(found.columns) == set(published.columns)
    keys = [key for key in ("domain", "model", "vocab_size", "num_tokens") if key in found]
    found, published = (table.sort_values(keys, ignore_index=True) for table in (found, published))
    for column in published:
        if published[column].dtype.kind == "f":
            np.testing.assert_allclose(found[column], published[column], rtol=1e-6, atol=1e-9)
        else:
            assert found[column].tolist() == published[column].tolist()


def test_there_is_no_table_that_is_not_published(derived):
    assert len(FITTED) >= 7
    names = [{p.name for p in (folder / "tables").iterdir()} for folder in (derived, EXAMPLE)]
    assert names[0] == names[1]
