import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench.analysis.run import find_run, name_of_run
from bench.analysis.summary import SUMMARY_COLUMNS
from bench.errors import ConfigError
from bench.report.tasks import render
from tests.report.synthetic import write_run


def test_render_writes_tables_figures_page_and_says_the_answer(tmp_path):
    folder, said = write_run(tmp_path / "run"), io.StringIO()
    render(folder, Console(file=said, width=200))
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == SUMMARY_COLUMNS
    assert [(r["role"], r["vocab_size"], r["draft_length"]) for r in rows] == [
        ("plain", "100", "0"),
        ("full", "100", "3"),
        ("paper", "20", "3"),
        ("optimum+lossless", "10", "3"),
    ]
    surface = pd.read_parquet(folder / "surface.parquet")
    assert list(surface["vocab_size"]) == list(range(1, 101))
    assert surface["tokens_per_s"].notna().sum() == 3
    page = (folder / "report.md").read_text()
    parts = (
        "trim to 10 tokens",
        "figures/speedup.png",
        "1.20x as fast as transformers.generate",
        "Replay: 7 ms a prompt",
        "0 of the decodes' rounds accepted another number",
        "mean absolute error 0.0%",
    )
    for part in parts:
        assert part in page
    assert "trim to 10 tokens" in said.getvalue()
    assert "plain loop is 1.20x as fast" in said.getvalue()


def test_drawing_twice_gives_the_same_tables(tmp_path):
    folder, console = write_run(tmp_path / "run"), Console(file=io.StringIO())
    render(folder, console)
    first = [(folder / name).read_bytes() for name in ("summary.csv", "latency.csv", "report.md")]
    render(folder, console)
    assert [(folder / name).read_bytes() for name in ("summary.csv", "latency.csv", "report.md")] == first


def test_runs_are_found_by_id_by_path_and_as_latest(tmp_path):
    runs = tmp_path / "runs"
    folder = write_run(runs / "one")
    (runs / "latest").symlink_to("one")
    assert (
        find_run(runs, "one") == find_run(runs, "latest") == find_run(runs, str(folder)) == folder.resolve()
    )
    (runs / "latest").unlink()
    (runs / "latest.txt").write_text("one\n")
    assert find_run(runs, "latest") == folder.resolve()
    beside = write_run(tmp_path / "example")
    assert find_run(runs, "example") == beside.resolve()


def test_an_unknown_run_lists_the_known(tmp_path):
    write_run(tmp_path / "one")
    with pytest.raises(ConfigError, match="run=two is not a run.*one"):
        find_run(tmp_path, "two")


def test_a_run_is_named_as_short_as_it_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_of_run(tmp_path / "results" / "runs", tmp_path / "results" / "runs" / "r1") == "r1"
    assert name_of_run(Path("results/runs"), tmp_path / "copied" / "r2") == "copied/r2"
    assert name_of_run(Path("results/runs"), Path("/elsewhere/r3")) == "/elsewhere/r3"
