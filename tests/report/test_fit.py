"""Latency models of a run read back: series by hand, `fit.json`, the task, and without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.report.fit import judge_run, series_of, times_of, write_fit
from bench.report.fit_figures import fit_figure, fit_table
from bench.report.frames import read_run
from bench.report.surfaces import Surfaces
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
    assert len(sizes[sizes >= 512]) >= 10 and sizes[-1] == 49152
    assert step.model(step.best).scores.loo_mape <= 0.05
    # FLOPs alone leave out what does not shrink.
    assert step.model("flops_published").scores.loo_mape > step.model(step.best).scores.loo_mape
    decision = step.model(step.best).decisions["speed"]
    assert sizes[0] <= decision.vocab_size <= sizes[-1] and decision.regret >= 0


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
    figure = fit_figure(judgement, "draft_step")
    above, below = figure.axes
    assert above.get_ylabel() == "draft step (ms)" and "prediction error (%)" in below.get_ylabel()
    table = fit_table(judgement.components["draft_step"])
    assert table.loc[0, "note"] == "best"
    assert f"{table.loc[0, 'held_out_error']:.1%}" in " ".join(
        t.get_text() for t in above.get_legend().get_texts()
    )


def test_the_task_fits_an_earlier_run_without_torch(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "run")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from bench.report.render import render_fit\n"
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
