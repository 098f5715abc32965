"""What every file of `make microbench` says about the machine."""

import pytest

from bench.device import open_device
from bench.runs.environment import describe


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    machine_info["bench"] = describe(open_device("auto"))
