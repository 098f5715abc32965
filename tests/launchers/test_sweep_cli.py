"""A sweep from the command line, by every launcher that this machine has: a job fails, and is completed."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.report.synthetic import write_run
from tests.test_cli import run

# The basic launcher needs nothing; the others run where their plugin is installed (make test-launchers).
LAUNCHERS = [
    "basic",
    *(pytest.param(name, marks=pytest.mark.launcher) for name in ("gpus", "slurm", "ray_cluster")),
]
MODULES = {
    "gpus": "hydra_plugins.hydra_joblib_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray_cluster": "hydra_plugins.hydra_ray_launcher",
}


def need(launcher: str) -> None:
    module = MODULES.get(launcher)
    if module and (not importlib.util.find_spec("hydra_plugins") or not importlib.util.find_spec(module)):
        pytest.skip(f"{module} is not installed")
    if launcher == "slurm" and not shutil.which("sbatch"):
        pytest.skip("this machine has no Slurm")


def sweep(launcher: str, results: Path):
    # The job that fails comes first.
    arguments = ["-m", f"hydra/launcher={launcher}", "gpu=cpu", "task=report", "run=late,there"]
    return run(*arguments, f"results_dir={results}", f"hydra.sweep.dir={results / 'sweep'}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failed_job_is_listed_loses_no_other_and_is_completed_later(launcher, tmp_path):
    need(launcher)
    (tmp_path / "runs").mkdir()
    there = write_run(tmp_path / "runs" / "there")
    done = sweep(launcher, tmp_path)
    assert done.returncode == 2, done.stderr
    assert (there / "report.md").exists()
    said = [line for line in done.stderr.splitlines() if line.startswith("bench: ")]
    assert said[0] == f"bench: sweep in {tmp_path / 'sweep'}: one log per job"
    assert said[1] == f"bench: 1 of 2 jobs of {tmp_path / 'sweep'} are done"
    assert "run=late" in said[2] and "failed: run=late is not a run" in said[2]
    assert "run=late is not a run" in Path(said[2].rpartition("log: ")[2]).read_text()
    assert said[3].endswith(f"hydra.sweep.dir={tmp_path / 'sweep'}")

    (there / "report.md").unlink()
    late = write_run(tmp_path / "runs" / "late")
    again = sweep(launcher, tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"bench: 2 of 2 jobs of {tmp_path / 'sweep'} are done" in again.stderr.splitlines()
    assert (late / "report.md").exists()
    assert not (there / "report.md").exists(), "a job that was done ran again"
