"""The report of a draft that was measured alone, from records whose law is known."""

import json
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from bench.analysis.findings import DraftFindings
from bench.analysis.fit import judge_draft
from bench.analysis.latency_models import reduction_table, utility_choices
from bench.analysis.run import read_draft_run, read_run, step_frame
from bench.errors import OutputError
from bench.records import CoverageRecord
from bench.report.of_draft import cache_figure, step_figure
from bench.report.tasks import render_draft, render_fit, report_runs
from tests.report.synthetic_draft import BYTES_PER_S, LAYER_MS, SIZES, T0_MS, WARM, write_draft_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_draft_run(tmp_path_factory.mktemp("draft"))


@pytest.fixture(scope="module")
def draft(folder):
    return read_draft_run(folder)


@pytest.fixture(scope="module")
def judgement(draft):
    return judge_draft(draft)


def quiet() -> Console:
    return Console(record=True, width=200, file=StringIO())


def test_cold_times_count_and_warm_ones_stand_beside(draft):
    steps = step_frame(draft)
    assert steps["vocab_size"].tolist() == list(SIZES)
    assert (steps["layer_ms"] == LAYER_MS).all()
    assert steps["draft_step_warm_ms"].to_numpy() == pytest.approx(WARM * steps["draft_step_ms"].to_numpy())
    # A head of 131,072 rows: half a millisecond, and 640 x 4 bytes of each row, its logit and its input.
    head_ms = steps.set_index("vocab_size")["lm_head_ms"][131072]
    assert head_ms == pytest.approx(T0_MS + 1e3 * (131072 * 641 + 640) * 4 / BYTES_PER_S)
    assert steps["saving"].iloc[-1] == 0
    assert steps["saving"].is_monotonic_decreasing


def test_the_law_is_recovered_and_is_the_best(judgement):
    assert judgement.components.keys() == {"lm_head", "draft_step"}
    assert judgement.setting == "isolated_cold"
    for judged in judgement.components.values():
        assert judged.best == "bytes_affine"
        model = judged.model("bytes_affine")
        assert model.scores.loo_mape < 1e-3
        rate = next(c for c in model.fitted.coefficients() if c.name == "bytes_per_s")
        assert rate.ci_low <= BYTES_PER_S <= rate.ci_high
        assert judged.model("flops_published").scores.loo_mape > 0.005


def test_predicted_savings_stand_beside_the_measured(judgement):
    table = reduction_table(judgement.components["draft_step"])
    assert table["t0 + B/W"].to_numpy() == pytest.approx(table["measured"].to_numpy(), abs=1e-3)
    assert {"FLOPs, as published", "t0 + F/P"} <= set(table.columns)
    assert "monotone, no model" not in table.columns


def test_without_acceptance_there_is_no_k_and_a_reason(folder, judgement, tmp_path):
    render_fit(folder, quiet())
    found = json.loads((folder / "fit.json").read_text("utf-8"))
    assert found["setting"] == "isolated_cold" and "no acceptance" in found["why_no_speed"]
    for component in found["components"].values():
        for model in component["models"].values():
            assert model["chosen_k"] is None and model["chosen_k_by_utility"] is None
    assert utility_choices(judgement.components["lm_head"]).empty


def test_with_a_coverage_the_utility_chooses(tmp_path):
    curve = CoverageRecord("curve.csv", [512, 8192, 262144], [0.4, 0.95, 1.0])
    judged = judge_draft(read_draft_run(write_draft_run(tmp_path, coverage=curve))).components["draft_step"]
    choices = utility_choices(judged).set_index("model")
    assert choices.loc["t0 + B/W", "chosen_k"] == 8192 and choices.loc["t0 + B/W", "regret_utility"] == 0
    render_draft(tmp_path, quiet())
    page = (tmp_path / "report.md").read_text("utf-8")
    assert "the measured draft step chooses k = 8,192, t0 + B/W chooses 8,192" in page


def test_everything_is_written(folder):
    console = quiet()
    written = report_runs([folder], folder.parent, folder.parent / "reports", None, console)
    assert written == folder / "report.md"
    page = written.read_text("utf-8")
    said = console.export_text()
    for text in (page, said):
        assert "predicts held-out sizes within" in text and "no acceptance" in text
        assert "the LM head" in text and "tied" in text
    assert "No k is chosen by utility: no coverage is known" in page
    assert " 16,384 | " in page
    latency = pd.read_csv(folder / "latency.csv")
    assert set(latency["setting"]) == {"isolated_cold", "isolated_warm"}
    assert set(latency["part"]) == {"layer", "lm_head", "select", "draft_step"}
    names = ("draft_latency", "isolated", "roofline", "fit_lm_head", "fit_draft_step")
    for name in names:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
        assert f"figures/{name}.png" in page


def test_axes_have_units(draft):
    axis = step_figure(DraftFindings.of(draft)).axes[0]
    assert "(ms)" in axis.get_ylabel() and "(tokens)" in axis.get_xlabel()
    axis = cache_figure(DraftFindings.of(draft)).axes[0]
    assert "(ms)" in axis.get_ylabel() and "(tokens)" in axis.get_xlabel()


def test_a_device_that_does_not_tell_its_cache_has_warm_times(tmp_path):
    draft = read_draft_run(write_draft_run(tmp_path, caches=("warm",)))
    assert judge_draft(draft).setting == "isolated_warm"
    render_draft(tmp_path, quiet())
    assert "all times are with a warm cache" in (tmp_path / "report.md").read_text("utf-8")


def test_few_sizes_fit_no_model_and_say_so(tmp_path):
    judged = judge_draft(read_draft_run(write_draft_run(tmp_path, sizes=(512, 262144))))
    step = judged.components["draft_step"]
    assert "bytes_affine" in {unfit.model.name for unfit in step.unfit}
    render_draft(tmp_path, quiet())
    assert "2 sizes cannot judge 2 parameters" in (tmp_path / "report.md").read_text("utf-8")


def test_it_is_no_run_of_a_pair(folder, tmp_path):
    with pytest.raises(OutputError, match="measured a draft alone.*task=report and task=fit"):
        read_run(folder)
    write_draft_run(tmp_path, sizes=(), caches=())
    with pytest.raises(OutputError, match="no draft step was timed yet"):
        read_draft_run(tmp_path)
