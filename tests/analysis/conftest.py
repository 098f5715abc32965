"""Runs of SYNTHETIC devices, which do not exist; see synthetic.py."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

from bench.analysis.devices import DeviceFindings
from bench.analysis.load import load_runs
from tests.analysis.synthetic import Device, Experiment, write_run

H100_700 = Device(noise=0.01)
H100_350 = replace(H100_700, power_limit_w=350.0, verify_ms=1.9, uuid="GPU-2")
L4 = replace(
    H100_700, name="NVIDIA L4", bandwidth=3e11, verify_ms=9.0, power_limit_w=72.0, uuid="GPU-3", host="beta"
)
DEVICES = {"h700": H100_700, "h350": H100_350, "l4": replace(L4, driver="575.2")}
LABELS = ["H100 80GB HBM3 (350 W)", "H100 80GB HBM3 (700 W)", "L4"]


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory):
    """Two domains on two H100 with different power limits and on an L4, whose run has fewer prompts."""
    root = tmp_path_factory.mktemp("synthetic")
    folders = []
    for seed, (name, device) in enumerate(DEVICES.items()):
        experiment = Experiment(
            domains=("code", "writing"), num_prompts=6 if name == "l4" else 8, num_tokens=25, seed=seed
        )
        folders.append(write_run(root / name, device, experiment))
    return folders


@pytest.fixture(scope="session")
def report(run_folders):
    """The comparison of `run_folders`."""
    return DeviceFindings.of(load_runs(run_folders))


@pytest.fixture(autouse=True)
def closed_figures():
    """No figure outlives its test."""
    yield
    plt.close("all")
