"""The published example: derived from its records again, its tables are the same.

`python -m tests.report.test_example results/runs/<run id>` publishes a run as the example, with its report,
its page and the figures that the README quotes, and derives the examples of both engines and of a GPU again.
Given `results/example` it derives all again.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from bench.analysis.doubts import write_doubts
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.records import FILE_NAME, RecordWriter, read_records
from bench.report.sections import write_tables
from bench.report.tasks import render, report_runs
from tests.test_documentation import write_all

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "results" / "example"
OF_ENGINES = ROOT / "results" / "example-vllm"
OF_GPU = ROOT / "results" / "example-h200"
# All else in the folder of a run is derived.
MEASURED = ("config.yaml", "environment.json", FILE_NAME, "telemetry.jsonl")
# Fits solve linear systems, whose last digits differ from processor to processor; so may the order of equals.
FITTED = sorted(path.name for path in (EXAMPLE / "tables").glob("fit_*.csv"))


@pytest.fixture(scope="module")
def found() -> Findings:
    return Findings.of(read_run(EXAMPLE))


@pytest.fixture(scope="module")
def derived(found, tmp_path_factory) -> Path:
    """What the example's records say, written as a run and its page write it."""
    folder = tmp_path_factory.mktemp("derived")
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


def test_every_gain_of_a_report_is_over_the_same_full_vocabulary(found):
    own = found.cross[found.cross["source"] == found.cross["domain"]].set_index("domain")
    for answer in found.answers:
        gain = answer.over_full.estimate.value
        assert own.loc[answer.domain, "predicted_speedup_vs_full_vocab"] == pytest.approx(gain)
        assert answer.advice.baselines
        for other in answer.advice.baselines:
            assert other.over_full * other.advised_over_it.value == pytest.approx(gain)


def test_the_readme_says_of_the_gpu_what_its_run_says():
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    step = json.loads((OF_GPU / "fit.json").read_text("utf-8"))["components"]["draft_step"]
    found = re.search(r"k = ([\d,]+): (\d+)% predicted, (\d+)% measured", step["sentence"])
    assert found and step["setting"] == "isolated_cold_graph"
    size, predicted, measured = found.groups()
    assert (
        f"At k = {size}, FLOPs say that a draft step saves {predicted}%, and it saves {measured}%." in readme
    )


def publish(run: Path) -> None:
    """Makes a run the example: copies what was measured, and derives everything else."""
    found = Findings.of(read_run(run))
    if found.invalid:
        raise SystemExit(f"{run} cannot be the example: INVALID: {', '.join(found.invalid)}")
    content = {name: (run / name).read_bytes() for name in MEASURED}
    records = list(read_records(run))
    shutil.rmtree(EXAMPLE)
    EXAMPLE.mkdir()
    for name, data in content.items():
        (EXAMPLE / name).write_bytes(data)
    # Where the results went says something about one machine only.
    config = yaml.safe_load(content["config.yaml"]) | {"results_dir": "results"}
    (EXAMPLE / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    (EXAMPLE / FILE_NAME).unlink()  # an older run has an older format of records
    writer = RecordWriter(EXAMPLE)
    for record in records:
        writer.append(record)
    writer.close()
    os.chdir(ROOT)  # the page names the run relative to where its commands work
    console = Console()
    for folder in (OF_ENGINES, OF_GPU, EXAMPLE):
        render(folder, console)
        (folder / "surface.parquet").unlink()  # 12 MB, and nothing reads it
    for folder in (OF_ENGINES, OF_GPU):
        for drawing in (folder / "figures").glob("*.svg"):  # their reports have the PNG files
            drawing.unlink()
    report_runs([EXAMPLE], ROOT / "results" / "runs", ROOT / "results" / "reports", EXAMPLE, console)
    write_all()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.report.test_example results/runs/<run id>")
    publish(Path(sys.argv[1]).resolve())
