"""Latency models of a run read back: series by hand, `fit.json`, the task, and without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.analysis.fit import goals_of, judge_run, series_of, times_of, write_fit
from bench.analysis.latency_models import LatencyFindings, decision_table, fit_table, size_table
from bench.analysis.run import read_run
from bench.analysis.surfaces import Surfaces
from bench.analysis.transfer import step_medians
from bench.fit.judge import judge
from bench.fit.series import LatencySeries, draft_work, verify_work
from bench.report.latency_figures import fit_figure
from bench.stats.estimates import median
from tests.fit.synthetic import bytes_law, decoder_lm, series, smollm2_draft
from tests.report.synthetic import write_run
from tests.test_cli import check_refused, run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "results" / "example"


@pytest.fixture(scope="module")
def judgement():
    return judge_run(Surfaces(read_run(EXAMPLE)))


def test_times_by_hand(tmp_path):
    small = read_run(write_run(tmp_path))
    # Select 0.5 ms, layer 2 ms, head 0.5 or 5.5 ms: chained steps of 3 and 8 ms.
    assert set(times_of([small], "draft_step")[10]) == {3.0}
    assert set(times_of([small], "draft_step")[100]) == {8.0}
    assert set(times_of([small], "lm_head")[100]) == {5.5}
    assert {size: set(times) for size, times in times_of([small], "verify").items()} == {4: {24.0}}


def test_the_example_holds_what_is_claimed_of_it(judgement):
    step = judgement.components["draft_step"]
    sizes = step.series.work.sizes
    assert len(sizes) >= 8 and sizes[-1] == 49152
    # FLOPs alone leave out what does not shrink.
    assert step.model("flops_published").scores.loo_mape > step.model(step.best).scores.loo_mape
    decision = step.model(step.best).decisions["code"].speed
    assert sizes[0] <= decision.vocab_size <= sizes[-1] and decision.regret >= 0


def test_head_and_step_tell_the_same_speed(judgement):
    head, step = (judgement.components[name].models[0].decisions for name in ("lm_head", "draft_step"))
    assert head.keys() == step.keys() == {"code", "function_calling", "writing"}
    for domain, decisions in step.items():
        assert decisions.draft_length == head[domain].draft_length
        assert decisions.speed.best_value == pytest.approx(head[domain].speed.best_value, rel=0.02)


@pytest.mark.parametrize("gamma", [1, 3])
def test_goals_by_hand(tmp_path, gamma):
    write_run(tmp_path, draft_length=gamma)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8"))
    config["select"] = {"coverage_weight": 0.5}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    surfaces = Surfaces(read_run(tmp_path))
    work = draft_work(smollm2_draft(), "draft_step", np.array([10, 100]), 20)
    # Head and selection of 1 or 6 ms; a chained step has a layer of 2 ms more.
    heads = LatencySeries("lm_head", work, [np.array([0.5]), np.array([5.5])])
    steps = LatencySeries("draft_step", work, [np.array([3.0]), np.array([8.0])])
    for timed in (heads, steps):
        goal = goals_of(surfaces, timed)["code"]
        assert goal.draft_length == goal.speed.runs_per_round == gamma
        assert goal.speed.sizes[[0, -1]].tolist() == [10, 100]
        # gamma heads, gamma - 1 layers, a verification of 24 ms and an extension of 3 ms; everything is
        # accepted, so that gamma + 1 tokens come of a round.
        round_ms = gamma * 1.0 + (gamma - 1) * 2.0 + 24 + 3
        found = goal.speed.worth(np.interp(goal.speed.sizes, [10, 100], timed.medians_ms))
        assert found[0] == pytest.approx(1e3 * (gamma + 1) / round_ms)
        assert found[-1] == pytest.approx(1e3 * (gamma + 1) / (round_ms + 5 * gamma))
    verify = LatencySeries("verify", verify_work(decoder_lm(), np.array([4]), 20), [np.array([24.0])])
    assert goals_of(surfaces, verify) == {}


def test_every_domain_has_its_decision(judgement):
    table = decision_table(judgement.components["draft_step"])
    assert list(table["domain"].unique()) == ["code", "function_calling", "writing"]
    assert (table["regret_tokens_per_s"] >= 0).all() and (table["tokens_per_s"] > 0).all()
    lost = (table["best_tokens_per_s"] - table["tokens_per_s"]).to_numpy()
    assert lost == pytest.approx(table["regret_tokens_per_s"].to_numpy())
    assert decision_table(judgement.components["verify"]).empty
    by_model = fit_table(judgement.components["draft_step"], "writing").set_index("model")
    row = table[table["domain"] == "writing"].set_index("model").loc["t0 + B/W"]
    assert by_model.loc["t0 + B/W", "domain"] == "writing"
    assert by_model.loc["t0 + B/W", "draft_length"] == row["draft_length"]
    assert by_model.loc["t0 + B/W", "chosen_k"] == row["chosen_k"]


def test_fit_json_says_for_every_component_and_model(judgement, tmp_path):
    found = json.loads(write_fit(judgement, tmp_path).read_text("utf-8"))
    assert found["components"].keys() == {"lm_head", "draft_step", "verify"}
    for component in found["components"].values():
        assert component["best"] in component["models"]
        for model in component["models"].values():
            assert {
                "coefficients",
                "r2",
                "mape",
                "loo_mape",
                "chosen_k",
                "regret_tokens_per_s",
            } <= model.keys()
        best = component["models"][component["best"]]
        errors = [m["loo_mape"] for name, m in component["models"].items() if name != "monotone"]
        assert best["loo_mape"] <= min(error for error in errors if error is not None) + 1e-3
    assert list(tmp_path.iterdir()) == [tmp_path / "fit.json"]


def test_the_figure_and_the_table_tell_the_same(judgement):
    _, step, verify = LatencyFindings.of(judgement).components
    figure = fit_figure(step)
    above, saved, below = figure.axes
    assert above.get_ylabel() == "draft step (ms)" and "prediction error (%)" in below.get_ylabel()
    assert "latency reduction R(k)\n(% of" in saved.get_ylabel()
    # Every curve of latency is also one of reductions, which end at none for the full vocabulary.
    curves = [line for line in saved.get_lines() if len(line.get_xdata()) > 100]
    assert len(curves) == len([line for line in above.get_lines() if len(line.get_xdata()) > 100])
    assert [curve.get_ydata()[-1] for curve in curves] == [0] * len(curves)
    assert len(fit_figure(verify).axes) == 2
    table = fit_table(judgement.components["draft_step"])
    assert table.loc[0, "note"] == "best"
    assert f"{table.loc[0, 'held_out_error']:.1%}" in " ".join(
        t.get_text() for t in above.get_legend().get_texts()
    )


def test_every_size_has_its_reduction_and_its_distance_to_the_limits(judgement):
    step = judgement.components["draft_step"]
    table = size_table(step)
    assert table["vocab_size"].tolist() == step.series.work.sizes.tolist()
    smallest, full = table.iloc[0], table.iloc[-1]
    assert smallest["reduction"] == pytest.approx(1 - smallest["measured_ms"] / full["measured_ms"])
    assert (table["reduction_ci_low"] <= table["reduction"]).all()
    assert (table["reduction"] <= table["reduction_ci_high"]).all()
    names = {model.fitted.model.name for model in step.models}
    assert {f"reduction_{name}" for name in names} <= set(table.columns)
    rate = step.series.work.total_bytes[-1] / (full["measured_ms"] / 1e3)
    assert full["bandwidth_share"] == pytest.approx(rate / judgement.spec.memory_bytes_per_s)
    t0_ms = step.model(step.efficiency.launch_model).fitted.coefficient("t0_ms")
    assert smallest["launch_share"] == pytest.approx(t0_ms / smallest["measured_ms"])
    verify = size_table(judgement.components["verify"])
    assert verify.columns[0] == "num_tokens" and not any("reduction" in name for name in verify.columns)


def test_comparisons_tell_the_intervals_of_the_fit(judgement, tmp_path):
    step, found = judgement.components["draft_step"], step_medians([read_run(EXAMPLE)])
    assert found == dict(zip(step.series.work.sizes.tolist(), step.medians, strict=True))
    # Steps of one prompt drift together: taken as independent they would seem better known.
    alone = [median(samples) for samples in step.series.samples_ms]
    widths = [sum(e.ci_high - e.ci_low for e in estimates) for estimates in (step.medians, alone)]
    assert widths[0] > widths[1]
    small = step_medians([read_run(write_run(tmp_path))])
    assert small[10] == median(np.full(12, 3.0)) and list(small) == [10, 100]


def test_without_a_data_sheet_shares_are_empty():
    table = size_table(judge(series(bytes_law(), 0.01), None, "bfloat16", num_resamples=20))
    assert table["bandwidth_share"].isna().all() and table["launch_share"].notna().all()


def test_the_task_fits_an_earlier_run_without_torch(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "run")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from bench.report.tasks import render_fit\n"
        f"render_fit(Path({str(tmp_path / 'run')!r}), Console())\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "predicts held-out sizes within" in " ".join(done.stdout.split())
    assert (tmp_path / "run" / "fit.json").exists()


def test_a_run_that_does_not_say_its_draft_is_refused(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text("utf-8"))
    (tmp_path / "run" / "environment.json").write_text(json.dumps({**environment, "shapes": None}))
    config = (tmp_path / "run" / "config.yaml").read_text("utf-8")
    (tmp_path / "run" / "config.yaml").write_text(config.replace("draft: smollm2-135m-eagle3", "draft: mine"))
    check_refused(run("task=fit", f"run={tmp_path / 'run'}"), ["does not say the shape of its draft"])


def test_series_carry_the_work_of_every_size():
    series = {item.component: item for item in series_of([read_run(EXAMPLE)])}
    head = series["lm_head"].work
    assert head.flops.tolist() == [2 * 576 * int(k) for k in head.sizes]
