"""The published example: derived from its records again, its tables are the same."""

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.report.page import render, run_report

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
SOURCES = ("records.jsonl", "environment.json", "config.yaml", "telemetry.jsonl")
# Fits solve linear systems, whose last digits differ from processor to processor; so may the order of equals.
FITTED = sorted(path.name for path in (EXAMPLE / "tables").glob("fit_*.csv"))


@pytest.fixture(scope="module")
def derived(tmp_path_factory) -> Path:
    """The example's run and its page, made from what was measured alone."""
    folder = tmp_path_factory.mktemp("derived")
    (folder / "run").mkdir()
    for name in SOURCES:
        shutil.copy(EXAMPLE / name, folder / "run")
    console = Console(file=io.StringIO(), width=120)
    render(folder / "run", console)
    run_report([folder / "run"], folder, folder, str(folder / "page"), console)
    return folder


@pytest.mark.parametrize("name", ["summary.csv", "latency.csv", "cross_domain.csv", "doubts.json"])
def test_a_run_derived_again_is_the_same(derived, name):
    assert (derived / "run" / name).read_bytes() == (EXAMPLE / name).read_bytes()


@pytest.mark.parametrize("name", ["summary", "latency", "cross_domain", "sizes"])
@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
def test_tables_of_its_page_derived_again_are_the_same(derived, name, suffix):
    path = Path("tables") / f"{name}.{suffix}"
    assert (derived / "page" / path).read_bytes() == (EXAMPLE / path).read_bytes()


@pytest.mark.parametrize("name", FITTED)
def test_fits_derived_again_are_the_same_but_for_rounding(derived, name):
    found, published = (pd.read_csv(folder / "tables" / name) for folder in (derived / "page", EXAMPLE))
    assert set(found.columns) == set(published.columns)
    keys = [key for key in ("domain", "model", "vocab_size", "num_tokens") if key in found]
    found, published = (table.sort_values(keys, ignore_index=True) for table in (found, published))
    for column in published:
        if published[column].dtype.kind == "f":
            np.testing.assert_allclose(found[column], published[column], rtol=1e-9, atol=1e-9)
        else:
            assert found[column].tolist() == published[column].tolist()


def test_there_is_no_table_that_is_not_published(derived):
    assert len(FITTED) >= 7
    names = [{p.name for p in (folder / "tables").iterdir()} for folder in (derived / "page", EXAMPLE)]
    assert names[0] == names[1]
