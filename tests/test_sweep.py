"""Jobs of a sweep: processes of their own, notes of how they ended, and what is left to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import sweep
from bench.errors import OutputError
from bench.sweep import with_sweeps_opened

# Stands for the interpreter: called as `python -m bench JOB hydra.mode=RUN`.
PYTHON = """#!/bin/sh
echo "ran $3 in $PWD with ${OMP_NUM_THREADS:-no} threads and mode $4"
case $3 in
  job=good) ;;
  job=bad) echo "bench: gpu=9 does not exist" ; exit 2 ;;
  job=silent) exit 3 ;;
  job=killed) kill -9 $$ ;;
  job=run*) mkdir -p runs/$3; REAL -c "from pathlib import Path; from bench.sweep import note_run as note
note(Path('runs/$3'))" ;;
  job=cores) REAL -c "import os; print('cores', *sorted(os.sched_getaffinity(0)))" ;;
  job=long) echo started; exec sleep 60 ;;
esac
"""

PYTHON_ITSELF = sys.executable


@pytest.fixture
def folder(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(PYTHON.replace("REAL", PYTHON_ITSELF))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sweep.prepare_sweep(tmp_path / "sweep", ["python", "-m", "bench", "-m"])
    return tmp_path / "sweep"


def run(folder: Path, *jobs: str) -> None:
    for job in jobs:
        sweep.run_job(folder, job, [f"job={job}"], folder.parent)


def test_failures_are_listed_with_reason_and_log_and_lose_nothing(folder):
    run(folder, "bad", "good", "killed", "silent")
    lines, exit_code = sweep.describe_end(folder)
    assert lines == [
        f"1 of 4 started jobs of {folder} are done",
        f"job job=bad failed: gpu=9 does not exist - log: {folder}/bad.log",
        f"job job=killed failed: killed by SIGKILL - log: {folder}/killed.log",
        f"job job=silent failed: ran job=silent in {folder.parent} with no threads and mode hydra.mode=RUN - "
        f"log: {folder}/silent.log",
        f"to complete the rest, run the sweep again with hydra.sweep.dir={folder}",
    ]
    assert exit_code == 128 + 9


def test_a_sweep_that_went_well(folder, capsys):
    run(folder, "good")
    assert sweep.describe_end(folder) == ([f"1 of 1 started jobs of {folder} are done"], 0)
    log = (folder / "good.log").read_text()
    said = f"ran job=good in {folder.parent} with no threads and mode hydra.mode=RUN\n"
    # Of jobs that are not known beforehand, each has a tag of its own.
    tag = sweep.tag_of(["job=good"], None)
    assert log == f"$ python -m bench job=good hydra.mode=RUN tag={tag}\n{said}"
    assert said in capsys.readouterr().out
    note = json.loads((folder / "good.job.json").read_text())
    assert (note["overrides"], note["exit_code"], note["log"]) == (["job=good"], 0, "good.log")


def test_a_sweep_over_nothing_is_wrong_input(folder):
    lines, exit_code = sweep.describe_end(folder)
    assert exit_code == 2 and len(lines) == 1 and "nothing fits what the sweep asks for" in lines[0]


def test_running_it_again_completes_the_rest(folder, capsys):
    run(folder, "bad", "good")
    before = (folder / "good.job.json").stat().st_mtime_ns
    python = Path(sys.executable)
    python.write_text(PYTHON.replace("exit 2", "exit 0"))
    sweep.prepare_sweep(folder, ["again"])
    assert sweep.describe_end(folder) == ([f"1 of 1 started jobs of {folder} are done"], 0)
    capsys.readouterr()
    run(folder, "bad", "good")
    assert f"job=good: already done, see {folder}/good.log" in capsys.readouterr().out
    assert (folder / "good.job.json").stat().st_mtime_ns == before
    assert sweep.describe_end(folder) == ([f"2 of 2 started jobs of {folder} are done"], 0)


def test_a_job_that_never_ended_is_a_failure(folder):
    run(folder, "good")
    path = folder / "good.job.json"
    note = {**json.loads(path.read_text()), "exit_code": None, "duration_s": None, "host": "node7"}
    path.write_text(json.dumps(note))
    lines, exit_code = sweep.describe_end(folder)
    assert "it did not end on node7" in lines[1] and exit_code == 1


def test_launchers_do_not_change_the_number_of_threads(folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as joblib and Ray do for their workers
    run(folder, "good")
    assert "with no threads" in (folder / "good.log").read_text()


def test_the_shells_own_number_of_threads_reaches_every_job(folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    sweep.prepare_sweep(folder, ["again"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run(folder, "good")
    assert "with 3 threads" in (folder / "good.log").read_text()


def test_an_interrupted_job_is_ended_and_listed(folder):
    code = (
        "import signal, sys; from pathlib import Path; from bench import sweep\n"
        # Tests that run in the background of a shell have it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sweep._GRACE_S = 0.2\n"
        f"sys.executable = {sys.executable!r}\n"
        f"sweep.run_job(Path({str(folder)!r}), 'long', ['job=long'], Path('/'))"
    )
    with subprocess.Popen([PYTHON_ITSELF, "-c", code], stderr=subprocess.PIPE) as supervisor:
        while "started" not in ((folder / "long.log").read_text() if (folder / "long.log").exists() else ""):
            time.sleep(0.02)
        supervisor.send_signal(signal.SIGINT)
        assert supervisor.wait(20) != 0
    lines, exit_code = sweep.describe_end(folder)
    assert "job job=long failed: it was stopped" in lines[1] and exit_code == 1


def test_a_schedulers_limit_ends_one_job_and_not_the_sweep(folder, monkeypatch):
    def limit(number, frame):
        raise RuntimeError("timed out")

    monkeypatch.setattr(sweep, "_GRACE_S", 0.2)
    before = signal.signal(signal.SIGALRM, limit)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        run(folder, "long", "good")
    finally:
        signal.signal(signal.SIGALRM, before)
    lines, exit_code = sweep.describe_end(folder)
    assert lines[0].startswith("1 of 2 started jobs")
    assert lines[1] == f"job job=long failed: RuntimeError: timed out - log: {folder}/long.log"
    assert exit_code == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["domain=code", "gpu='0'"], "domain=code,gpu=0-01234567"),
        ([], "defaults-01234567"),
        (["domain.path=/home/me/my file.jsonl"], "domain.path=_home_me_my_file.jsonl-01234567"),
        (["a=" + "x" * 200], "a=" + "x" * 78 + "-01234567"),
    ],
)
def test_names_of_jobs_are_file_names(overrides, expected):
    assert sweep.job_name(overrides, "0123456789") == expected


def test_the_same_words_with_other_values_behind_them_are_another_job():
    assert sweep.job_name(["domain=code"], "aaaaaaaaaa") != sweep.job_name(["domain=code"], "bbbbbbbbbb")


@pytest.mark.parametrize(
    ("jobs", "tags"),
    [
        # Folders are called after the domain or the run anyway.
        ([["domain=code"], ["domain=writing"]], [None, None]),
        ([["task=report", "run=a"], ["task=report", "run=b"]], [None, None]),
        ([["out=a", "domain=code"], ["out=b", "domain=code"]], [None, None]),
        ([["domain.path=a.jsonl"], ["domain.path=b.jsonl"]], ["path=a.jsonl", "path=b.jsonl"]),
        (
            [["domain=code", "select.multiple=1"], ["domain=code", "select.multiple=64"]],
            ["multiple=1", "multiple=64"],
        ),
        ([["runs=[A,C]"], ["runs=[B,C]"]], ["runs=_A,C", "runs=_B,C"]),
        # One folder was asked for: whatever differs makes a folder in it.
        ([["out=x", "domain=code"], ["out=x", "domain=writing"]], ["domain=code", "domain=writing"]),
        ([["tag=t", "gpu=cpu"], ["tag=t", "gpu='0'"]], ["t-gpu=cpu", "t-gpu=0"]),
        ([["hydra.x=1", "run=a"], ["hydra.x=2", "run=a"]], [None, None]),
    ],
)
def test_what_keeps_the_output_of_jobs_apart(jobs, tags):
    assert [sweep.tag_of(job, jobs) for job in jobs] == tags


def test_tags_that_would_be_one_are_told_apart():
    jobs = [
        ["domain.path='a b'"],
        ["domain.path=a_b"],
        [f"domain.path={'x' * 90}1"],
        [f"domain.path={'x' * 90}2"],
    ]
    tags = [sweep.tag_of(job, jobs) for job in jobs]
    assert len(set(tags)) == 4 and all(tag.startswith(("path=a_b-", "path=xxx")) for tag in tags)
    assert sweep.tag_of(["domain=code", "seed=1"], None) != sweep.tag_of(["domain=code", "seed=2"], None)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the sweep's folder"):
        sweep.prepare_sweep(tmp_path / "file", [])


def test_jobs_that_never_started_are_counted_and_named(folder):
    sweep.prepare_sweep(folder, ["again"], [["job=good"], ["job=bad"], ["job=lost", "gpu='0'"]])
    run(folder, "good", "bad")
    lines, exit_code = sweep.describe_end(folder)
    assert lines[0] == f"1 of 3 jobs of {folder} are done"
    assert lines[2] == "1 of 3 jobs never started: job=lost gpu='0'"
    assert lines[3] == f"to complete the rest, run the sweep again with hydra.sweep.dir={folder}"
    assert exit_code == 2
    (folder / "bad.job.json").unlink()
    lines, exit_code = sweep.describe_end(folder)
    assert lines[0] == f"1 of 3 jobs of {folder} are done" and exit_code == 1
    assert lines[1] == "2 of 3 jobs never started: job=bad, job=lost gpu='0'"


def test_a_sweep_names_its_runs_and_what_merges_them(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep.runs_of_sweep(folder) == []
    run(folder, "run1", "good", "run2")
    runs = [tmp_path / "runs" / "job=run1", tmp_path / "runs" / "job=run2"]
    assert sweep.runs_of_sweep(folder) == [path.resolve() for path in runs]
    lines, _ = sweep.describe_end(folder)
    assert lines[1:] == [
        "run: runs/job=run1",
        "run: runs/job=run2",
        'one report over them: make report RUNS="sweep"',
    ]
    # A sweep stands for its runs wherever runs are named, and other folders for themselves.
    other = tmp_path / "runs"
    assert with_sweeps_opened([other, folder]) == [other, *sweep.runs_of_sweep(folder)]
    # A folder of results that was copied as a whole still knows them.
    copied = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "runs", copied / "runs")
    shutil.copytree(folder, copied / "sweep")
    assert sweep.runs_of_sweep(copied / "sweep") == [(copied / "runs" / path.name).resolve() for path in runs]


def test_the_run_of_a_job_that_failed_is_not_among_them(folder):
    run(folder, "run1")
    path = folder / "run1.job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "exit_code": 1}))
    assert sweep.runs_of_sweep(folder) == []
    assert sweep.describe_end(folder)[1] == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU cannot be shared")
def test_jobs_on_several_devices_share_the_cores_and_do_not_meet(folder):
    before = os.sched_getaffinity(0)
    jobs = [["job=cores", "gpu='0'"], ["job=cores", "gpu='1'"]]
    assert sweep.devices_of(jobs) == ["gpu='0'", "gpu='1'"]
    sweep.prepare_sweep(folder, ["again"], jobs, sweep.devices_of(jobs))
    shares = []
    for place, job in enumerate(jobs):
        sweep.run_job(folder, f"cores{place}", job, folder.parent)
        said = (folder / f"cores{place}.log").read_text().split("cores ")[-1]
        shares.append({int(cpu) for cpu in said.split()})
    assert not shares[0] & shares[1] and shares[0] | shares[1] == before
    assert abs(len(shares[0]) - len(shares[1])) <= 2
    assert os.sched_getaffinity(0) == before
    sweep.prepare_sweep(folder, ["again"], jobs[:1], sweep.devices_of(jobs[:1]))
    sweep.run_job(folder, "alone", jobs[0], folder.parent)
    assert {int(cpu) for cpu in (folder / "alone.log").read_text().split("cores ")[-1].split()} == before
