"""The real nvidia-ml-py against a scripted library: units, identity, and every way in which NVML says no."""

import json
import subprocess
import sys

import pytest

ONE = "gpu GPU-a 250 100\n"
NOT_SUPPORTED, NO_PERMISSION, UNKNOWN, GONE = 3, 4, 999, (1, 9, 15, 16, 18)
FAST = {
    "nvmlDeviceGetTotalEnergyConsumption": "energy_j",
    "nvmlDeviceGetTemperature": "temperature_c",
    "nvmlDeviceGetUtilizationRates": "utilization",
    "nvmlDeviceGetMemoryInfo": "memory_used_bytes",
    "nvmlDeviceGetCurrentClocksThrottleReasons": "throttle_reasons",
}


def test_a_sample_is_in_our_units(ask):
    script = f"{ONE}processes GPU-a 7 4242\n"
    found = json.loads(ask(script, "print(json.dumps({**gpu.fast(), **gpu.slow({7})}))"))
    assert found.pop("energy_j") < 250
    assert found == {
        "power_w": 250.0,
        "sm_clock_mhz": 1410,
        "memory_clock_mhz": 1215,
        "temperature_c": 56,
        "utilization": 0.87,
        "memory_used_bytes": 400,
        "throttle_reasons": ["power_cap"],
        "pcie_tx_bytes_per_s": 10240,
        "pcie_rx_bytes_per_s": 20480,
        "other_pids": [4242],
    }


def test_own_processes_are_no_strangers(ask):
    assert ask(ONE, "print(gpu.slow({4242})['other_pids'])") == "[]"


@pytest.mark.parametrize("pids", ["4242 0", "0 0"])
def test_a_container_that_is_told_other_numbers_has_no_strangers_to_name(ask, pids):
    """The driver lists the host's numbers, or nobody: a process that does not find itself knows nothing."""
    code = "print(json.dumps([gpu.slow({7})['other_pids'], gpu.unsupported['other_pids']]))"
    others, why = json.loads(ask(f"{ONE}processes GPU-a {pids}\n", code))
    assert others is None
    assert why.startswith("this process is not among those that the driver lists")


def test_what_does_not_change_is_described_once(ask):
    found = json.loads(ask(ONE, "print(json.dumps(gpu.describe()))"))
    assert found == {
        "driver": "580.00",
        "vbios": "96.00",
        "power_limit_w": 400.0,
        "power_limit_default_w": 700.0,
        "power_limit_range_w": [200.0, 700.0],
        "sm_clock_max_mhz": 1980,
        "memory_clock_max_mhz": 1980,
        "application_sm_clock_mhz": 1755,
        "ecc": "on",
        "mig": "off",
        "persistence": "on",
        "unsupported": {},
    }


@pytest.mark.parametrize("uuid", ["GPU-b", "b"])
def test_the_gpu_is_found_by_uuid_whatever_its_number(ask, uuid):
    script = "gpu GPU-c 1 1\ngpu GPU-a 2 2\ngpu GPU-b 3 3\n"
    assert ask(script, "print(gpu.fast()['power_w'], gpu.is_mig)", uuid) == "3.0 False"


@pytest.mark.parametrize("uuid", ["MIG-s", "s"])
def test_a_slice_has_memory_and_processes_of_its_own_and_no_energy(ask, uuid):
    script = "gpu GPU-a 2 2\ngpu MIG-s 0 0\nprocesses GPU-a 7 4242\nprocesses MIG-s 7 0\n"
    code = (
        "mig, found = gpu.describe()['mig'], {**gpu.fast(), **gpu.slow({7})}\n"
        "print(json.dumps([gpu.is_mig, mig, found, gpu.unsupported]))"
    )
    is_mig, mig, found, unsupported = json.loads(ask(script, code, uuid))
    assert (is_mig, mig) == (True, "a slice")
    assert (found["memory_used_bytes"], found["other_pids"]) == (500, [])
    assert (found["sm_clock_mhz"], found["temperature_c"]) == (1410, 56)  # of the whole GPU
    shared = ["power_w", "energy_j", "pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s"]
    assert [found[name] for name in shared] == [None] * 4
    assert unsupported == dict.fromkeys(shared, "a MIG slice has no sensor of its own")


@pytest.mark.parametrize(("code", "reason"), [(3, "not supported by this GPU"), (4, "no permission")])
@pytest.mark.parametrize("function", FAST)
def test_what_it_will_never_tell_is_none_and_asked_once(ask, function, code, reason):
    field = FAST[function]
    script = f"{ONE}error {function} {code}\n"
    asked = (
        "calls = []\n"
        f"whole = pynvml.{function}\n"
        f"pynvml.{function} = lambda *a: (calls.append(1), whole(*a))[1]\n"
        f"values = [gpu.fast()[{field!r}] for _ in range(3)]\n"
        f"print(json.dumps([values, len(calls), gpu.unsupported]))"
    )
    values, num_calls, unsupported = json.loads(ask(script, asked))
    assert values == [None] * 3
    assert num_calls == 1
    assert unsupported == {field: reason}


def test_a_passing_error_is_asked_again(ask):
    script = f"{ONE}error nvmlDeviceGetTemperature {UNKNOWN}\n"
    assert ask(script, "print(gpu.fast()['temperature_c'], gpu.unsupported)") == "None {}"


@pytest.mark.parametrize("code", GONE)
@pytest.mark.parametrize("function", [*FAST, "nvmlDeviceGetFieldValues"])
def test_a_gpu_that_is_gone_ends_the_telemetry(ask, function, code):
    script = f"{ONE}error {function} {code}\n"
    asked = "try:\n    gpu.fast()\nexcept NvmlError as error:\n    print(error)"
    assert ask(script, asked).startswith("the GPU stopped answering: ")


@pytest.mark.parametrize("setting", ["no_instant", "error nvmlDeviceGetFieldValues 3"])
def test_power_of_an_old_driver_is_its_average(ask, setting):
    assert ask(f"{ONE}{setting}\n", "print(gpu.fast()['power_w'])") == "250.0"
    # Without either there is none.
    script = f"{ONE}{setting}\nerror nvmlDeviceGetPowerUsage 3\n"
    assert ask(script, "print(gpu.fast()['power_w'], gpu.unsupported['power_w'])") == (
        "None not supported by this GPU"
    )


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("gpu GPU-z 1 1\n", "NVML knows no GPU GPU-a"),
        (f"{ONE}error nvmlInitWithFlags 9\n", "NVML does not start"),
        (f"{ONE}error nvmlDeviceGetHandleByUUID 4\n", "NVML does not give GPU GPU-a"),
    ],
)
def test_a_gpu_that_cannot_be_had_says_why(stubbed, script, said):
    code = (
        "from bench.telemetry.nvml import *\n"
        "try:\n    NvmlGpu('GPU-a')\nexcept NvmlError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=stubbed(script), capture_output=True, text=True, check=True
    )
    assert said in done.stdout
