"""The launchers' YAML, with or without their plugins installed."""

import copy
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from omegaconf import open_dict

from bench.cli import SweepStart, explain, quote_gpu_index

ROOT = Path(__file__).parents[2]
LAUNCHERS = ROOT / "conf" / "hydra" / "launcher"
# Launcher: the plugin's own configuration that it builds on, and the extra and package that bring it.
PLUGINS = {
    "gpus": ("joblib", "joblib", "hydra-joblib-launcher"),
    "slurm": ("submitit_slurm", "slurm", "hydra-submitit-launcher"),
    "ray_cluster": ("ray", "ray", "hydra-ray-launcher"),
}
# What the plugins' configurations have that ours change, so that a misspelt key is found without a plugin.
STAND_INS = {
    "joblib": {"n_jobs": -1, "batch_size": "auto", "pre_dispatch": "2*n_jobs"},
    "submitit_slurm": {
        "gres": None,
        "timeout_min": 60,
        "cpus_per_task": None,
        "stderr_to_stdout": False,
        "name": "bench",
        "additional_parameters": {},
    },
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

    def compose_launcher(launcher: str, gpu: str):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(
                "config",
                [f"hydra/launcher={launcher}", quote_gpu_index(f"gpu={gpu}")],
                return_hydra_config=True,
            )

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


@pytest.mark.parametrize("scheduler", ["slurm_gpu", "ray_gpu"])
def test_every_kind_of_gpu_is_asked_for_by_its_kind(scheduler):
    # A kind without a file would get any GPU.
    gpus = {path.stem for path in (ROOT / "conf" / "gpu").glob("*.yaml")}
    kinds = {gpu for gpu in gpus if not gpu.isdecimal()} - {"auto"}
    assert {path.stem for path in (LAUNCHERS / scheduler).glob("*.yaml")} == kinds


@pytest.mark.parametrize(
    ("gpu", "gres", "device"),
    [
        ("h100", "gpu:h100:1", "cuda:0"),
        ("a100", "gpu:a100:1", "cuda:0"),
        ("auto", "gpu:1", "auto"),
        ("0", "gpu:1", "cuda:0"),
        ("cpu", None, "cpu"),
    ],
)
def test_slurm_is_asked_for_the_gpu(composed, gpu, gres, device):
    config = composed("slurm", gpu)
    assert (config.hydra.launcher.gres, config.gpu.device) == (gres, device)
    assert ("exclusive" in config.hydra.launcher.additional_parameters) == (gpu == "cpu")
    assert config.hydra.launcher.timeout_min == 240


@pytest.mark.parametrize(
    ("gpu", "num_gpus", "kind"), [("h100", 1, "H100"), ("auto", 1, None), ("0", 1, None), ("cpu", 0, None)]
)
def test_ray_is_asked_for_the_gpu(composed, gpu, num_gpus, kind):
    remote = composed("ray_cluster", gpu).hydra.launcher.ray.remote
    assert (remote.num_gpus, remote.get("accelerator_type"), remote.max_retries) == (num_gpus, kind, 0)


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
