"""The launchers' YAML, with or without their plugins installed."""

import copy
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from omegaconf import open_dict

from bench.cli import SweepStart, explain, quote_text
from bench.config.gpu import match, read_specs

ROOT = Path(__file__).parents[2]
LAUNCHERS = ROOT / "conf" / "hydra" / "launcher"
# Launcher: the plugin's own configuration that it builds on, and the extra and package that bring it.
PLUGINS = {
    "gpus": ("joblib", "joblib", "hydra-joblib-launcher"),
    "slurm": ("submitit_slurm", "slurm", "hydra-submitit-launcher"),
    "ray_cluster": ("ray", "ray", "hydra-ray-launcher"),
}


@dataclass
class Submitit:
    """What ours changes of the plugin's own configuration: a misspelt key is found without the plugin."""

    gres: str | None = None
    constraint: str | None = None
    timeout_min: int = 60
    cpus_per_task: int | None = None
    stderr_to_stdout: bool = False
    name: str = "bench"
    additional_parameters: dict[str, Any] = field(default_factory=dict)


STAND_INS = {
    "joblib": {"n_jobs": -1, "batch_size": "auto", "pre_dispatch": "2*n_jobs"},
    "submitit_slurm": Submitit,
    "ray": {"ray": {"init": {"address": None}, "remote": {}}},
}


@pytest.fixture
def launchers():
    """The store's launchers, put back afterwards."""
    Plugins.instance()  # discovers the plugins that are installed, which fills the store
    store = ConfigStore.instance()
    before = copy.deepcopy(store.repo)
    yield store.repo["hydra"]["launcher"]
    store.repo = before


@pytest.fixture
def composed(launchers):
    """Composes with the plugins that are installed and stand-ins for the others."""
    for name, node in STAND_INS.items():
        if f"{name}.yaml" not in launchers:
            ConfigStore.instance().store(group="hydra/launcher", name=name, node=node)

    def compose_launcher(launcher: str, gpu: str, *more: str, conf: Path = ROOT / "conf"):
        overrides = [f"hydra/launcher={launcher}", quote_text(f"gpu={gpu}"), *more]
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("config", overrides, return_hydra_config=True)

    return compose_launcher


def test_every_launcher_builds_on_its_plugin_and_does_not_hide_it():
    ours = {path.stem: yaml.safe_load(path.read_text()) for path in LAUNCHERS.glob("*.yaml")}
    assert {name: config["defaults"][0] for name, config in ours.items()} == {
        name: plugin for name, (plugin, _, _) in PLUGINS.items()
    }
    assert not set(ours) & {"basic", "joblib", "submitit_slurm", "submitit_local", "ray", "ray_aws"}


def test_every_launcher_has_an_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for _, extra, package in PLUGINS.values():
        assert any(requirement.startswith(package) for requirement in extras[extra])


def test_every_kind_of_gpu_is_asked_for_by_its_kind():
    # A kind that does not say it would get any GPU.
    for path in (ROOT / "conf" / "gpu").glob("*.yaml"):
        if path.stem != "auto":
            assert {"slurm", "ray"} <= yaml.safe_load(path.read_text()).keys(), path.name


@pytest.mark.parametrize(
    ("gpu", "gres", "device"),
    [
        ("h100", "gpu:h100:1", "cuda:0"),
        ("a100-80gb-sxm", "gpu:a100:1", "cuda:0"),
        ("auto", "gpu:1", "auto"),
        ("3", "gpu:1", "cuda:3"),
        ("cpu", None, "cpu"),
    ],
)
def test_slurm_is_asked_for_the_gpu(composed, gpu, gres, device):
    config = composed("slurm", gpu)
    launcher = config.hydra.launcher
    assert (launcher.gres, config.gpu.device) == (gres, device)
    assert launcher.additional_parameters == ({"exclusive": True} if gpu == "cpu" else {})
    assert (launcher.cpus_per_task, launcher.timeout_min) == (None if gpu == "cpu" else 8, 240)


@pytest.mark.parametrize(
    ("gpu", "num_gpus", "kind"),
    [("h100-pcie", 1, "H100"), ("auto", 1, None), ("0", 1, None), ("cpu", 0, None), ("mi300x", 1, None)],
)
def test_ray_is_asked_for_the_gpu(composed, gpu, num_gpus, kind):
    remote = composed("ray_cluster", gpu).hydra.launcher.ray.remote
    assert (remote.num_gpus, remote.accelerator_type, remote.max_retries) == (num_gpus, kind, 0)


def test_what_a_sheet_asks_for_can_be_overridden(composed):
    more = [
        *("+hydra.launcher.additional_parameters.mail-user=me", "hydra.launcher.cpus_per_task=2"),
        "gpu.slurm.constraint=nvlink",
    ]
    launcher = composed("slurm", "cpu", *more).hydra.launcher
    assert launcher.additional_parameters == {"exclusive": True, "mail-user": "me"}
    assert (launcher.cpus_per_task, launcher.constraint) == (2, "nvlink")


NEW_GPU = """
device: cuda:0
name_pattern: 'NVIDIA X1'
spec:
  source: by hand
  peak_tflops: {bfloat16: 100}
  memory_bandwidth_gb_per_s: 1000
  memory_gib: 80
slurm: {gres: gpu:x1:1, constraint: nvlink}
ray: {accelerator_type: X1, resources: {x1: 1}}
"""


def test_a_gpu_is_added_by_one_file(composed, tmp_path):
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (conf / "gpu" / "x1.yaml").write_text(NEW_GPU)
    slurm, ray, here = (composed(launcher, "x1", conf=conf) for launcher in ("slurm", "ray_cluster", "gpus"))
    assert (slurm.hydra.launcher.gres, slurm.hydra.launcher.constraint) == ("gpu:x1:1", "nvlink")
    remote = ray.hydra.launcher.ray.remote
    assert (remote.num_gpus, remote.accelerator_type, remote.resources) == (1, "X1", {"x1": 1})
    for config in (slurm, ray, here):
        assert (config.gpu.device, config.gpu.spec.source) == ("cuda:0", "by hand")
    found = match("NVIDIA X1", read_specs(conf / "gpu"))
    assert (found.name, found.peak("bfloat16"), found.memory_bytes_per_s) == ("x1", 1e14, 1e12)


def test_ray_joins_no_cluster_unasked(composed):
    init = composed("ray_cluster", "cpu").hydra.launcher.ray.init
    assert (init.address, init.object_store_memory) == ("local", None)


def test_jobs_of_several_gpus_are_not_batched(composed):
    launcher = composed("gpus", "1").hydra.launcher
    assert (launcher.n_jobs, int(launcher.batch_size), launcher.pre_dispatch) == (8, 1, "all")


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_plugin_that_is_not_installed_names_its_extra(launchers, launcher):
    plugin, extra, _ = PLUGINS[launcher]
    launchers.pop(f"{plugin}.yaml", None)
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(MissingConfigException) as missing,
    ):
        compose("config", [f"hydra/launcher={launcher}"])
    assert explain(missing.value) == (
        f"this launcher is not installed: .venv/bin/python -m pip install -e '.[{extra}]'"
    )


def test_an_unknown_launcher_names_those_there_are(launchers):
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(MissingConfigException) as missing,
    ):
        compose("config", ["hydra/launcher=slrum"])
    assert explain(missing.value) == "unknown hydra/launcher 'slrum'; known are gpus, ray_cluster, slurm"


@pytest.mark.parametrize("launcher", ["slurm", "ray_cluster"])
def test_a_scheduler_is_asked_for_one_kind_of_gpu(composed, launcher, capsys, tmp_path):
    config = composed(launcher, "auto")
    with open_dict(config):
        config.hydra.runtime.cwd = str(tmp_path)
        config.hydra.overrides.task = ["domain=code", "gpu=h100,a100"]
    with pytest.raises(SystemExit) as stopped:
        SweepStart().on_multirun_start(config)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and SweepStart.folder is None
    assert (
        f"gpu=h100,a100 is impossible with hydra/launcher={launcher}" in said and "one sweep for each" in said
    )
    assert not list(tmp_path.iterdir())


# A launcher that fails as submitit does where there is `sbatch` but no configured Slurm.
BROKEN = """
from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher

class BrokenLauncher(Launcher):
    def __init__(self, **parameters):
        pass

    def setup(self, *, hydra_context, task_function, config):
        pass

    def launch(self, job_overrides, initial_job_idx):
        ERROR

node = {"_target_": "", **PARAMETERS}
ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=node)
"""
BROKEN_CLASS = "hydra_plugins.broken_launcher.BrokenLauncher"
SBATCH = (
    "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\\n"
    "sbatch: error: _establish_config_source: failed to fetch config\\n"
    "sbatch: fatal: Could not establish a configuration source\\n"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            f"raise RuntimeError('{SBATCH}')",
            "hydra/launcher=slurm failed: sbatch: fatal: Could not establish a configuration source; sinfo "
            "must list a partition here that hydra.launcher.partition and .account may use - log: ",
        ),
        (
            "import submitit_of_another_machine",
            "hydra/launcher=slurm: No module named 'submitit_of_another_machine'; this launcher is not "
            "installed: .venv/bin/python -m pip install -e '.[slurm]' - log: ",
        ),
    ],
)
def test_what_a_launcher_dies_of_is_one_line(error, said, tmp_path):
    plugin = tmp_path / "hydra_plugins" / "broken_launcher"
    plugin.mkdir(parents=True)
    code = BROKEN.replace("ERROR", error).replace("PARAMETERS", repr(asdict(Submitit())))
    (plugin / "__init__.py").write_text(code)
    sweep = tmp_path / "sweep"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "bench", "-m", "hydra/launcher=slurm", "task=report", "run=a,b",
         f"hydra.sweep.dir={sweep}", f"hydra.launcher._target_={BROKEN_CLASS}"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [
        f"bench: sweep in {sweep}: one log per job",
        f"bench: {said}{sweep / 'launcher.log'}",
        f"bench: 0 of 2 jobs of {sweep} are done",
        "bench: 2 of 2 jobs never started: task=report run=a, task=report run=b",
        f"bench: to complete the rest, run the sweep again with hydra.sweep.dir={sweep}",
    ]
    assert "Traceback" in (sweep / "launcher.log").read_text()
