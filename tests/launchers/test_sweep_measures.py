"""Sweeps that measure, by every launcher that this machine has: a run per domain, and both in one report."""

import json

import pandas as pd
import pytest

from bench.analysis.load import load_runs
from bench.sweep import runs_of_sweep
from tests.launchers.test_sweep_cli import MODULES, need
from tests.test_cli import run

DOMAINS = ("code", "writing")
# Every part of a run once, and no more than that.
SMALL = (
    *("experiment=smoke", "gpu=cpu", "measure.num_prompts=1", "measure.max_new_tokens=12"),
    *("measure.draft_lengths=[2]", "vocab.sizes=[full,1024]", "timing.budget_s=0.02"),
)


@pytest.mark.launcher
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", MODULES)
def test_two_domains_are_measured_and_merge(launcher, tmp_path):
    need(launcher)
    sweep = tmp_path / "sweep"
    done = run(
        *(f"domain={','.join(DOMAINS)}", "-m", f"hydra/launcher={launcher}", *SMALL),
        *(f"results_dir={tmp_path}", f"hydra.sweep.dir={sweep}"),
    )
    assert done.returncode == 0, done.stderr + "".join(path.read_text() for path in sweep.glob("*.log"))
    said = [line.removeprefix("bench: ") for line in done.stderr.splitlines() if line.startswith("bench: ")]
    runs = runs_of_sweep(sweep)
    assert said == [
        f"sweep in {sweep}: one log per job",
        f"2 of 2 jobs of {sweep} are done",
        *(f"run: {path}" for path in runs),
        f'one report over them: make report RUNS="{sweep}"',
    ]
    assert sorted(tmp_path.glob("runs/2*")) == sorted(runs)

    loaded = load_runs(runs)
    assert [list(item.run.decodes) for item in loaded] == [[domain] for domain in DOMAINS]
    # Both were measured on one device, which has one name in everything that is drawn of them.
    assert len({item.label for item in loaded}) == 1
    assert all(json.loads((path / "environment.json").read_text())["cpu_affinity"] >= 1 for path in runs)

    # The sweep's folder stands for its runs.
    merged = run("task=compare", f"runs=[{sweep}]", f"out={tmp_path / 'both'}")
    assert merged.returncode == 0, merged.stderr
    table = pd.concat(pd.read_csv(path) for path in sorted((tmp_path / "both").glob("tables/*.csv")))
    assert set(DOMAINS) <= set(table["domain"].dropna())
