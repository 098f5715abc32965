"""Published GPUs beside measured runs; tables and runs are made here."""

import io

import pytest
from rich.console import Console

from bench.analysis.beside import MEASURED, PUBLISHED, published_beside, round_frame, round_sentence
from bench.analysis.load import label_runs, load_runs
from bench.analysis.run import read_run
from bench.gpu_tables.tidy import read_folder
from bench.records import IsolatedRecord
from bench.report.of_beside import step_figure
from bench.report.tasks import report_runs
from tests.analysis.synthetic import SIZES, Device, write_run
from tests.gpu_tables.synthetic import ENGINE, GPU, write_folder
from tests.report.synthetic import write_run as write_synthetic


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return read_folder(write_folder(tmp_path_factory.mktemp("wheel")), "tiny 1.0", "MIT")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    other = Device(name="NVIDIA L4", bandwidth=3e11, uuid="GPU-2")
    return [write_run(root / "here", Device()), write_run(root / "there", other)]


def test_the_same_draft_is_composed_at_the_sizes_that_were_measured(tables, folders):
    found = published_beside(load_runs(folders, folders[0].parent), tables)
    by_origin = found.steps.groupby("origin")["vocab_size"].unique()
    assert sorted(by_origin[MEASURED]) == sorted(by_origin[PUBLISHED]) == sorted(SIZES)
    rows = found.steps[found.steps["origin"] == PUBLISHED]
    assert set(rows["device"]) == {GPU} and set(rows["engine"]) == {ENGINE}
    assert rows["draft_step_ms"].is_monotonic_increasing and rows["share_of_full"].iloc[-1] == 1
    assert found.reasons == []


def test_a_run_of_the_same_gpu_shows_what_the_tables_are_off_by(tables, folders):
    runs = load_runs(folders, folders[0].parent)
    found = published_beside(runs, tables)
    # The other device is in no table.
    assert found.errors["device"].unique().tolist() == [runs[0].label]
    measured = found.steps[(found.steps["origin"] == MEASURED) & (found.steps["device"] == runs[0].label)]
    steps = found.errors[found.errors["part"] == "draft_step"].set_index("vocab_size")
    for row in measured.itertuples():
        assert steps["measured_ms"][row.vocab_size] == pytest.approx(row.draft_step_ms)
    assert (steps["error"] == steps["published_ms"] / steps["measured_ms"] - 1).all()


def test_rounds_are_composed_of_parts_on_their_own(tmp_path):
    """Heads take 0.5 or 5.5 ms and verification 24; the rest is given here."""
    run = read_run(write_synthetic(tmp_path / "run"))
    for part, size, tokens, ms in (
        ("select", 10, None, 0.25), ("select", 100, None, 0.25), ("layer", None, None, 2.0),
        ("extend", None, 4, 4.0),
    ):  # fmt: skip
        run.isolated.append(IsolatedRecord(part, size, tokens, "cold", [ms] * 6, [ms] * 6, 1, "precise", 0.0))
    rows = round_frame(label_runs([run], tmp_path)).set_index(["vocab_size", "draft_length"])
    for size, head in ((10, 0.5), (100, 5.5)):
        row, drafting = rows.loc[size, 3], 3 * (head + 0.25) + 2 * 2.0
        assert row["drafting_composed_ms"] == pytest.approx(drafting)
        assert row["composed_ms"] == pytest.approx(drafting + 24.0 + 4.0)
        # Inside rounds a selection takes 0.5 ms and an extension 3.
        assert row["drafting_measured_ms"] == pytest.approx(drafting + 3 * 0.25)
        assert row["measured_ms"] == pytest.approx(drafting + 3 * 0.25 + 24.0 + 3.0)
    assert "over 2 settings" in round_sentence(rows.reset_index())


def test_the_page_marks_what_others_published(tables, folders, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    page = report_runs(folders, folders[0].parent, tmp_path, None, console, tables).read_text("utf-8")
    assert "composed from kernels as published in tiny 1.0 (MIT), measured by others" in page
    assert GPU in page and "measured here" in page
    assert list(tmp_path.glob("*/tables/published_steps.csv"))
    axis = step_figure(published_beside(load_runs(folders, folders[0].parent), tables)).axes[0]
    assert axis.get_ylabel() == "draft step over that of the largest size"
    styles = {line.get_label(): line.get_linestyle() for line in axis.get_lines()}
    assert styles[GPU] == "--" and set(styles.values()) == {"-", "--"}


def test_without_tables_the_page_says_how_to_have_them(folders, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    page = report_runs(folders[:1], folders[0].parent, tmp_path, None, console).read_text("utf-8")
    assert "make gpus downloads them" in page
