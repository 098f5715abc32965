"""The real nvidia-ml-py against a scripted library: units, identity, and every way in which NVML says no."""

import json
import subprocess
import sys

import pytest

ONE = "gpu GPU-a 250 100\n"
NEVER = {3: "not supported by this GPU", 4: "no permission", 13: "not known to this driver",
         25: "not known to this driver"}  # fmt: skip
PASSING = (2, 10, 17, 21, 23, 27, 999)  # argument, timeout, system, no data, resources, not ready, unknown
GONE = (1, 9, 15, 16, 18)
# Every question of every kind: the function, and the fields that it answers.
FAST = {
    "nvmlDeviceGetTotalEnergyConsumption": ["energy_j"],
    "nvmlDeviceGetClockInfo": ["sm_clock_mhz", "memory_clock_mhz"],
    "nvmlDeviceGetTemperature": ["temperature_c"],
    "nvmlDeviceGetUtilizationRates": ["utilization"],
    "nvmlDeviceGetMemoryInfo": ["memory_used_bytes"],
    "nvmlDeviceGetCurrentClocksEventReasons": ["throttle_reasons"],
    "nvmlDeviceGetFieldValues": ["power_w"],
    "nvmlDeviceGetPowerUsage": ["power_w"],
}
SLOW = {
    "nvmlDeviceGetPcieThroughput": ["pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s"],
    "nvmlDeviceGetComputeRunningProcesses_v3": ["other_pids"],
}
FIXED = {
    "nvmlSystemGetDriverVersion": ["driver"],
    "nvmlDeviceGetVbiosVersion": ["vbios"],
    "nvmlDeviceGetEnforcedPowerLimit": ["power_limit_w"],
    "nvmlDeviceGetPowerManagementDefaultLimit": ["power_limit_default_w"],
    "nvmlDeviceGetPowerManagementLimitConstraints": ["power_limit_range_w"],
    "nvmlDeviceGetMaxClockInfo": ["sm_clock_max_mhz", "memory_clock_max_mhz"],
    "nvmlDeviceGetApplicationsClock": ["application_sm_clock_mhz"],
    "nvmlDeviceGetEccMode": ["ecc"],
    "nvmlDeviceGetMigMode": ["mig"],
    "nvmlDeviceGetPersistenceMode": ["persistence"],
}
QUESTIONS = {
    **dict.fromkeys(FAST, "gpu.fast()"),
    **dict.fromkeys(SLOW, "gpu.slow({4242})"),
    **dict.fromkeys(FIXED, "gpu.describe()"),
}
FIELDS = FAST | SLOW | FIXED
# Where one says no for good, another is asked.
SECOND_WAY = {
    "nvmlDeviceGetFieldValues": (*NEVER,),
    "nvmlDeviceGetCurrentClocksEventReasons": (13,),
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
        "throttle_reasons": ["hw_slowdown", "hw_thermal"],
        "pcie_tx_bytes_per_s": 10240,
        "pcie_rx_bytes_per_s": 20480,
        "other_pids": [4242],
    }


def test_an_answer_that_no_sensor_can_give_is_none_and_named(ask):
    read = "{**gpu.fast(), **gpu.slow({4242})}, gpu.describe(), gpu.impossible, gpu.unsupported"
    code = f"print(json.dumps([{read}]))"
    sample, fixed, impossible, unsupported = json.loads(ask(f"{ONE}garbage\n", code))
    assert sample.pop("other_pids") == []
    assert set(sample.values()) == {None}
    assert fixed["power_limit_w"] is None and fixed["sm_clock_max_mhz"] is None
    assert fixed["power_limit_default_w"] == 700
    assert fixed["ecc"] is None and fixed["mig"] == "off"
    described = {"power_limit_w", "sm_clock_max_mhz", "memory_clock_max_mhz", "ecc"}
    assert impossible.keys() == {*sample} | described
    assert fixed["impossible"] == impossible
    assert impossible["throttle_reasons"] == "0xffffffffffffffff" and impossible["temperature_c"] == "255"
    assert impossible["power_w"] == "4294967.295" and impossible["sm_clock_mhz"] == "0"
    assert unsupported == {}


def test_own_processes_are_not_other_processes(ask):
    assert ask(ONE, "print(gpu.slow({4242})['other_pids'])") == "[]"


@pytest.mark.parametrize("pids", ["4242 0", "0 0"])
def test_other_processes_are_not_known_in_a_container_with_its_own_process_ids(ask, pids):
    """The driver lists the host's numbers, or nobody: a process that does not find itself knows nothing."""
    code = "print(json.dumps([gpu.slow({7})['other_pids'], gpu.unsupported['other_pids']]))"
    others, why = json.loads(ask(f"{ONE}processes GPU-a {pids}\n", code))
    assert others is None
    assert why.startswith("the driver's list of processes does not contain this process")


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
        "impossible": {},
    }


def test_a_reason_that_this_program_does_not_know_is_named_by_its_bit(ask):
    assert json.loads(ask(f"{ONE}new_reason\n", "print(json.dumps(gpu.fast()['throttle_reasons']))")) == [
        "hw_slowdown",
        "unknown_0x10000000000",
    ]


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


# Asks three times under every code, and tells values, calls, reasons, or what was raised.
UNDER_EVERY_CODE = """
import os, sys
from pathlib import Path
function, question, script, codes = json.loads(sys.stdin.read())
whole, calls = getattr(pynvml, function), []
setattr(pynvml, function, lambda *a: (calls.append(1), whole(*a))[1])
for code in codes:
    Path(os.environ["NVML_STUB"]).write_text(f"{script}error {function} {code}\\n")
    calls.clear()
    gpu = NvmlGpu("a")
    try:
        values = [eval(question) for _ in range(3)]
        print(json.dumps([code, values, len(calls), gpu.unsupported]))
    except NvmlError as error:
        print(json.dumps([code, str(error), None, None]))
"""


@pytest.mark.parametrize("function", QUESTIONS)
def test_every_error_at_every_question(stubbed, function):
    """None with the reason and asked once; None this time; or no more: whatever it means, nothing else."""
    codes = [*NEVER, *PASSING, *GONE]
    script = f"{ONE}no_instant\n" if function == "nvmlDeviceGetPowerUsage" else ONE
    done = subprocess.run(
        [sys.executable, "-c", "import json\nfrom bench.telemetry.nvml import *\n" + UNDER_EVERY_CODE],
        input=json.dumps([function, QUESTIONS[function], script, codes]),
        env=stubbed(script), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reported = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, *_ in reported] == codes
    fields = FIELDS[function]
    for code, values, num_calls, unsupported in reported:
        if code in GONE:
            assert values.startswith("the GPU stopped answering: "), code
        elif code in SECOND_WAY.get(function, ()):
            assert all(value[field] is not None for value in values for field in fields), code
            assert unsupported == {}
        else:
            assert [value[field] for value in values for field in fields] == [None] * 3 * len(fields), code
            reasons = {field: NEVER[code] for field in fields} if code in NEVER else {}
            assert unsupported == reasons, code
            assert num_calls == len(fields) * (1 if code in NEVER else 3), code
            if QUESTIONS[function] != "gpu.describe()":  # one that says no takes no other with it
                others = {name: value for name, value in values[-1].items() if name not in fields}
                assert None not in others.values(), code


@pytest.mark.parametrize("function", ["nvmlDeviceGetCurrentClocksThrottleReasons"])
@pytest.mark.parametrize(("code", "reason"), list(NEVER.items()))
def test_the_second_way_may_be_closed_too(ask, old_library_folder, function, code, reason):
    code_ = "print(gpu.fast()['throttle_reasons'], gpu.unsupported['throttle_reasons'])"
    assert ask(f"{ONE}error {function} {code}\n", code_, folder=old_library_folder) == f"None {reason}"


def test_an_old_driver_is_asked_by_its_own_names(ask, old_library_folder):
    code = (
        "found = {**gpu.fast(), **gpu.slow({4242})}\n"
        "print(json.dumps([found['throttle_reasons'], found['other_pids'], gpu.unsupported]))"
    )
    reasons, others, unsupported = json.loads(ask(ONE, code, folder=old_library_folder))
    assert (reasons, others) == (["power_cap"], None)
    assert unsupported == {"other_pids": "not known to this driver"}


def test_a_known_curve_of_power_gives_exact_joules_by_either_method(ask, tmp_path):
    """250 W, and 100 W from 2.05 s on; of 1.03 to 3.57 s that is 250 * 1.02 + 100 * 1.52 = 407 J."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    code = (
        "from pathlib import Path; from bench.telemetry.windows import energy_between\n"
        f"clock, rows = Path({str(clock)!r}), []\n"
        "for i in range(41):\n"
        "    clock.write_text(str(i / 10))\n"
        "    rows.append({'time_s': i / 10, **gpu.fast()})\n"
        "counted = energy_between(rows, 1.03, 3.57)\n"
        "integrated = energy_between([{**row, 'energy_j': None} for row in rows], 1.03, 3.57)\n"
        "print(json.dumps([[e.method, e.energy_j] for e in (counted, integrated)]))"
    )
    found = json.loads(ask(f"{ONE}step 2.05\nclock {clock}\n", code))
    assert found == [
        ["counter", pytest.approx(407, abs=0.002)],  # it counts whole millijoules
        ["integrated", pytest.approx(407, abs=1e-9)],
    ]


def test_a_library_that_is_gone_closes_without_a_word(ask):
    assert ask(f"{ONE}error nvmlShutdown 1\n", "print(gpu.close())") == "None"


def test_the_driver_version_needs_no_gpu(stubbed, tmp_path):
    code = "from bench.telemetry.nvml import driver_version; print(driver_version())"

    def reported(script, **changed):
        environment = {**stubbed(script), **changed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert reported(ONE) == "580.00"
    assert reported(f"{ONE}error nvmlInitWithFlags 9\n") == "None"
    assert reported(f"{ONE}error nvmlSystemGetDriverVersion 999\n") == "None"
    assert reported(ONE, LD_LIBRARY_PATH=str(tmp_path)) == "None"


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
        ("gpu GPU-z 1 1\n", "NVML has no GPU GPU-a"),
        (f"{ONE}error nvmlInitWithFlags 9\n", "NVML does not start"),
        *((f"{ONE}error nvmlInitWithFlags {code}\n", "NVML does not start") for code in (4, 12, 18, 999)),
        *(
            (f"{ONE}error nvmlDeviceGetHandleByUUID {code}\n", "NVML cannot open GPU GPU-a")
            for code in (1, 4, 15, 999)
        ),
        (f"{ONE}error nvmlDeviceGetHandleByUUID 2\n", "NVML has no GPU GPU-a"),
        (
            "gpu GPU-b 1 1\ngpu MIG-a 1 1\nerror nvmlDeviceGetDeviceHandleFromMigDeviceHandle 4\n",
            "NVML cannot open GPU GPU-a",
        ),
    ],
)
def test_a_gpu_that_cannot_be_opened_says_why(stubbed, script, said):
    code = (
        "from bench.telemetry.nvml import *\n"
        "try:\n    NvmlGpu('GPU-a')\nexcept NvmlError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=stubbed(script), capture_output=True, text=True, check=True
    )
    assert said in done.stdout
