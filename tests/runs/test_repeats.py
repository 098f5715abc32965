"""Several processes of one run: one after the other, each fresh, and none that ends badly is overlooked."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.config import Config, DomainConfig, GpuConfig, MeasureConfig, PairConfig, VocabConfig
from bench.errors import BenchError, ConfigError, FailedCasesError
from bench.records import ProbeRecord, ServedRecord
from bench.runs.repeats import run_in_processes
from bench.runs.run import _known_to


def config(folder, repeats=3, resume=True):
    return Config(
        PairConfig(None, "smollm2-135m-instruct", "smollm2-135m-eagle3"),
        DomainConfig("code"),
        GpuConfig(),
        VocabConfig(["full"]),
        MeasureConfig([1], 2, 8, repeats=repeats),
        results_dir=str(folder),
        resume=resume,
    )


def note(config, part, text=""):
    with (Path(config.results_dir) / "log").open("a") as file:
        what = (os.getpid(), part.process, part.num_processes, part.others_failed, config.resume, text)
        print(*what, file=file)


def log(folder):
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def measure(config, console, part):
    note(config, part)


def fail_in_the_second(config, console, part):
    note(config, part)
    if part.process == 1:
        raise FailedCasesError("2 cases could not be measured")


def refuse(config, console, part):
    note(config, part)
    raise ConfigError("gpu=9 does not exist")


def die_in_the_second(config, console, part):
    note(config, part)
    if part.process == 1:
        os.kill(os.getpid(), signal.SIGKILL)


class StoppedError(BenchError):
    exit_code = 130


def be_interrupted(config, console, part):
    note(config, part, "began")
    try:
        if part.process == 0:
            os.kill(os.getppid(), signal.SIGINT)  # what reaches only the first process
        time.sleep(60)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; the 7 records so far are kept") from None


@pytest.fixture
def heeds_interrupts():
    """Tests that run in the background of a shell have interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_every_process_is_fresh_and_knows_its_number(tmp_path):
    run_in_processes(config(tmp_path, resume=False), measure)
    pids, numbers, counts, failed, resumes, *_ = zip(*log(tmp_path), strict=True)
    assert len({*pids, str(os.getpid())}) == 4
    assert numbers == ("0", "1", "2") and set(counts) == {"3"} and set(failed) == {"False"}
    assert resumes == ("False", "True", "True")  # only the first may start a new folder


def test_cases_that_fail_in_one_process_do_not_stop_the_others(tmp_path):
    with pytest.raises(FailedCasesError, match="2 cases"):
        run_in_processes(config(tmp_path), fail_in_the_second)
    assert [line[3] for line in log(tmp_path)] == ["False", "False", "True"]


@pytest.mark.parametrize(
    ("run", "text", "exit_code", "num_started"),
    [
        (refuse, "gpu=9 does not exist", 2, 1),
        (die_in_the_second, "process 2 of 3 ended with signal 9; what it measured is kept", 1, 2),
        (be_interrupted, "interrupted; the 7 records so far are kept", 130, 1),
    ],
)
def test_what_ends_a_process_ends_the_run_in_one_line(
    tmp_path, heeds_interrupts, run, text, exit_code, num_started
):
    with pytest.raises(BenchError, match=text) as raised:
        run_in_processes(config(tmp_path), run)
    assert raised.value.exit_code == exit_code and "\n" not in str(raised.value)
    assert len(log(tmp_path)) == num_started


def test_a_resumed_process_knows_its_own_records_and_those_that_all_share():
    """The processes of another engine, which `ServedRecord` counts, are not those of the run."""
    times = {"order": 1, "laps_ms": {}}
    probes = [ProbeRecord("code", "a", 8, 1, False, **times, process=process) for process in (0, 1)]
    served = [
        ServedRecord("vllm", "code", 8, 1, 1, number, "1", 1.0, 1.0, ["a"], [[1]], [[1]], [[1.0]], {})
        for number in (0, 1, 2)
    ]
    known = list(_known_to(0, [*probes, *served]))
    assert known == [probes[0], *served]
    assert list(_known_to(1, [*probes, *served])) == [probes[1], *served]


def test_repeats_of_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"measure\.repeats=0"):
        replace(MeasureConfig([1], 2, 8), repeats=0)
