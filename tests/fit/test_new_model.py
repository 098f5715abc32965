"""A latency model is one class: what a user would add, made to win, and every task that meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.analysis.synthetic import Device, write_run

ROOT = Path(__file__).parents[2]

# The file of somebody who adds a model, and then the command line as it is.
WITH_A_NEW_MODEL = """
import sys

import numpy as np

from bench.cli import main
from bench.fit.latency_model import LatencyModel, Values, latency_model, slower_memory


@latency_model
class TwoLaunches(LatencyModel):
    name, label, precedence = "two_launches", "2 t1 + B/W", -1

    def why_not(self, work):
        return None if len(work) > 2 else "three sizes are needed"

    def solve(self, work, latencies_ms):
        design = np.stack([2 * np.ones(len(work)), work.total_bytes], axis=1)
        return np.linalg.lstsq(design, latencies_ms.T, rcond=None)[0].T

    def predict(self, theta, work):
        return 2 * theta[:, :1] + theta[:, 1:] * work.total_bytes

    def coefficients(self, theta):
        return [Values("t1_ms", "ms", theta[:, 0])]

    def factors(self, theta, here, there):
        return np.array([1.0, slower_memory(here, there)])


for arguments in sys.argv[1].split("|"):
    sys.argv[1:] = arguments.split()
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0, (arguments, ended.code)
"""


@pytest.mark.timeout(300)
def test_a_new_model_that_wins_is_fitted_moved_and_shown(tmp_path):
    runs = tmp_path / "runs"
    fast = write_run(runs / "h100", Device(bandwidth=2e12))  # less than the data sheet promises
    slow = write_run(runs / "l4", Device("NVIDIA L4", bandwidth=2e11, power_limit_w=72.0, uuid="GPU-2"))
    here = f"results_dir={tmp_path}"
    commands = [
        f"task=fit run={fast} {here}",
        f"task=report runs=[{fast},{slow}] out={tmp_path / 'page'} {here}",
        f"task=predict gpu=a10g predict.run={fast} predict.calibration={slow} {here}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_NEW_MODEL, "|".join(commands)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    step = json.loads((fast / "fit.json").read_text())["components"]["draft_step"]
    assert step["best"] == "two_launches"
    assert step["models"]["two_launches"]["coefficients"]["t1_ms"]["value"] > 0
    assert "2 t1 + B/W predicts held-out sizes within" in " ".join(done.stdout.split())
    assert "k* = " in done.stdout
    moved = pd.read_csv(next((tmp_path / "page").glob("tables/*transfer*.csv")))
    assert set(moved["model"]) == {"2 t1 + B/W"} and moved["mean_error"].notna().all()
