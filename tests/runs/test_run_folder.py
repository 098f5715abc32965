"""How a run's folder is made, found again, and kept to one process."""

import errno
import hashlib
import io
import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from bench.cli import CONF
from bench.device import CpuDevice
from bench.errors import OutputError
from bench.records import EndRecord, RecordWriter, SessionRecord, read_records
from bench.runs import run as runs
from bench.runs.bench import run_bench
from bench.runs.environment import data_ids
from bench.runs.folder import check_writable, note_hardware, note_telemetry, open_run, point_latest
from bench.surface.pace import Pace
from bench.telemetry.watch import Watch

HERE = {
    "device": "cuda:0",
    "device_name": "GPU",
    "dtype": "float32",
    "draft_fingerprint": "a",
    "cuda": {"driver": "580.1", "runtime": "13.0"},
}


def config(tmp_path, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("config", [f"results_dir={tmp_path}", *overrides]))


def begin(config, environment=HERE, *records):
    with open_run(config, environment) as run:
        writer = RecordWriter(run.path)
        for record in (SessionRecord("now", "host", 1), *records):
            writer.append(record)
        writer.close()
    return run


def finish(config, whole_head_ms, is_valid=True, environment=HERE):
    """A run that has ended, with the claim of its report."""
    run = begin(config, environment, EndRecord("now"))
    pace = {"whole_head_ms": whole_head_ms, "small_heads_ms": 0.1}
    headline = {"figure": "over_full", "is_valid": is_valid, **pace}
    of_run = {"folder": ".", "sha256": {"records.jsonl": "0"}, "headlines": [headline]}
    claim = {"tool": "vocabtrim-bench", "version": "1", "method": 5, "runs": [of_run]}
    (run.path / "claim.json").write_text(json.dumps(claim))
    return run


def test_a_run_is_reported_at_the_speed_of_the_first_one_that_asked_the_same(tmp_path):
    first = finish(config(tmp_path), 1.5)
    assert first.reference is None and first.reference_pace is None
    second = finish(config(tmp_path), 1.2)
    assert second.reference == {"run": first.path.name, "whole_head_ms": 1.5, "small_heads_ms": 0.1}
    assert second.reference_pace == Pace(1.5, 0.1)
    # The second was reported at 1.5 ms too, so it passes that on, even without the first.
    shutil.rmtree(first.path)
    unfinished = begin(config(tmp_path))
    assert unfinished.reference == second.reference
    assert json.loads((unfinished.path / "environment.json").read_text())["reference"] == second.reference
    finish(config(tmp_path, "measure.seed=5"), 9.0)
    assert begin(config(tmp_path)).reference == second.reference  # resumed


def test_a_run_without_a_reference_is_none_for_those_that_have_one(tmp_path):
    first = finish(config(tmp_path), 1.5)
    assert finish(config(tmp_path, "reference=false"), 1.2).reference is None
    assert finish(config(tmp_path), 1.3).reference["run"] == first.path.name


def test_a_resumed_run_can_do_without_its_reference(tmp_path):
    finish(config(tmp_path), 1.5)
    unfinished = begin(config(tmp_path))
    assert unfinished.reference is not None
    resumed = begin(config(tmp_path, "reference=false"))
    assert resumed.path == unfinished.path and resumed.reference is None
    assert json.loads((resumed.path / "environment.json").read_text())["reference"] is None


@pytest.mark.parametrize(
    ("other", "environment"),
    [
        ("domain=code", HERE),
        ("measure.seed=9", HERE),
        ("", {**HERE, "dtype": "bfloat16"}),
        ("reference=false", HERE),
    ],
)
def test_another_question_has_another_reference(tmp_path, other, environment):
    finish(config(tmp_path), 1.5)
    assert begin(config(tmp_path, *filter(None, [other])), environment).reference is None


def test_a_run_that_says_nothing_is_no_reference(tmp_path):
    finish(config(tmp_path), 1.5)
    invalid, of_graphs, damaged, killed = (
        finish(config(tmp_path), 3.0, is_valid=False),
        finish(config(tmp_path), None),
        finish(config(tmp_path), 4.0),
        finish(config(tmp_path), 5.0),
    )
    assert {run.reference_pace for run in (invalid, of_graphs, damaged, killed)} == {Pace(1.5, 0.1)}
    (damaged.path / "claim.json").write_text("{")
    (killed.path / "claim.json").unlink()
    for run in (invalid, of_graphs):
        environment = json.loads((run.path / "environment.json").read_text())
        (run.path / "environment.json").write_text(json.dumps({**environment, "reference": None}))
    assert begin(config(tmp_path)).reference_pace == Pace(1.5, 0.1)


def test_an_unfinished_run_is_found_again_and_a_finished_one_is_left_alone(tmp_path):
    first = begin(config(tmp_path))
    assert first.earlier == [] and "-cuda0-" in first.path.name
    again = begin(config(tmp_path), {**HERE, "started_at": "later"}, EndRecord("now"))
    assert again.path == first.path
    assert again.earlier == [SessionRecord("now", "host", 1)]
    assert begin(config(tmp_path)).path != first.path


@pytest.mark.parametrize("overrides", [["measure.seed=9"], ["domain=code"], ["resume=false"]])
def test_another_configuration_is_another_run(tmp_path, overrides):
    assert begin(config(tmp_path)).path != begin(config(tmp_path, *overrides)).path


@pytest.mark.parametrize(
    "key", ["device_name", "dtype", "draft_fingerprint", "identity", "packages", "code", "task"]
)
def test_another_machine_model_or_version_is_another_run(tmp_path, key):
    assert begin(config(tmp_path)).path != begin(config(tmp_path), {**HERE, key: "changed"}).path


def test_another_driver_is_another_run(tmp_path):
    other = {**HERE, "cuda": {**HERE["cuda"], "driver": "580.2"}}
    assert begin(config(tmp_path)).path != begin(config(tmp_path), other).path


def test_a_prompt_file_that_was_edited_is_another_run(tmp_path):
    """Prompts of a file are named by their lines, so records of the old text would pass for the new."""
    prompts = tmp_path / "prompts.jsonl"
    wanted = config(tmp_path, "domain=jsonl", f"domain.path={prompts}")

    def run_now():
        return begin(wanted, {**HERE, "data": data_ids(wanted.domain.sources())})

    prompts.write_text('{"prompt": "one"}\n')
    first, same = run_now(), run_now()
    prompts.write_text('{"prompt": "two"}\n')
    edited = run_now()
    assert same.path == first.path and len(same.earlier) == 1
    assert edited.path != first.path and edited.earlier == []
    told = json.loads((edited.path / "environment.json").read_text())["data"]
    assert told == {"jsonl": "sha256:" + hashlib.sha256(b'{"prompt": "two"}\n').hexdigest()}


def test_what_the_driver_told_an_earlier_session_is_kept(tmp_path):
    path = begin(config(tmp_path)).path
    for limit_w in (700, 700, 350):
        note_telemetry(path, Watch({"power_limit_w": limit_w}))
    environment = json.loads((path / "environment.json").read_text())
    assert environment["telemetry"] == {"gpu": {"power_limit_w": 350}, "why_not": None}
    assert environment["earlier_telemetry"] == [{"gpu": {"power_limit_w": 700}, "why_not": None}]


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that takes no more text: what a full or a read-only one does, also to root."""

    def refuse(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)


def test_a_full_disk_when_telemetry_is_noted_is_one_line(tmp_path, request):
    path = begin(config(tmp_path)).path
    before = (path / "environment.json").read_text()
    request.getfixturevalue("full_disk")
    with pytest.raises(OutputError, match=r"cannot write into .*: No space left on device; set results_dir"):
        note_telemetry(path, Watch())
    assert (path / "environment.json").read_text() == before
    assert not list(path.glob("*.partial"))


def test_a_full_disk_when_the_newest_run_is_noted_is_one_line(tmp_path, full_disk):
    with pytest.raises(OutputError, match=r"cannot write into .*: No space left on device") as caught:
        point_latest(tmp_path / "run")
    assert caught.value.exit_code == 2


def test_what_is_only_read_does_not_make_another_run(tmp_path):
    assert begin(config(tmp_path)).path == begin(config(tmp_path, "export.domain=code")).path


def test_how_a_scheduler_is_asked_does_not_make_another_run(tmp_path):
    first = begin(config(tmp_path)).path
    assert begin(config(tmp_path, "gpu.slurm.constraint=nvlink", "gpu.ray.num_gpus=2")).path == first


def test_a_torn_line_is_removed_and_said(tmp_path):
    path = begin(config(tmp_path)).path
    with (path / "records.jsonl").open("a") as file:
        file.write('{"schema"')
    again = begin(config(tmp_path))
    assert again.was_torn and again.path == path
    lines = (path / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["session", "session"]


def test_what_the_device_does_at_best_is_measured_once(tmp_path):
    def never():
        raise AssertionError("it was known")

    folder = begin(config(tmp_path), {**HERE, "hardware": None}).path
    note_hardware(folder, lambda: {"memory_bytes_per_s": 9e9})
    note_hardware(folder, never)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["hardware"] == {"memory_bytes_per_s": 9e9} and environment["device_name"] == "GPU"
    # A run is found again by what was known when it was made.
    assert begin(config(tmp_path), {**HERE, "hardware": None}).path == folder
    sheet = begin(config(tmp_path, "resume=false"), {**HERE, "hardware": {"name": "H100"}}).path
    note_hardware(sheet, never)


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    path = begin(config(tmp_path)).path
    code = (
        "import sys, time; from pathlib import Path; from bench.runs.folder import _hold\n"
        f"with _hold(Path({str(path)!r})):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"being written by process {holder.pid} on .*resume=false"):
            begin(config(tmp_path))
        holder.kill()
    assert begin(config(tmp_path)).path == path


def test_runs_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OutputError, match="cannot write into .*runs: .*set results_dir"):
        check_writable(Path(tmp_path / "runs"))


def test_a_second_run_is_told_the_whole_command_of_the_first(tmp_path, monkeypatch):
    """Square brackets are markup to what prints, and `vocab.sizes=[full,1024]` would lose its value."""
    holding = "cpu is being measured by process 7 (vocab.sizes=[full,1024] results_dir=[red]); waiting"

    @contextmanager
    def held(device_id, on_wait):
        on_wait(holding)
        yield

    monkeypatch.setattr(runs, "hold_device", held)
    monkeypatch.setattr(runs, "_run_on_locked_device", lambda *_: tmp_path)
    said = io.StringIO()
    run_bench(config(tmp_path, "gpu=cpu"), Console(file=said, width=40))
    assert said.getvalue() == holding + "\n"


def test_a_report_that_is_interrupted_can_be_written_later(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "open_device", lambda *_: CpuDevice())
    monkeypatch.setattr(runs, "note_hardware", lambda *_: None)

    def interrupted(*_):
        raise KeyboardInterrupt

    job = runs.Job(HERE, torch.float32, lambda *_: (_ for _ in ()), interrupted)
    with pytest.raises(
        runs.InterruptedReportError, match="all records are in .* make report ARGS="
    ) as raised:
        runs._run_on_locked_device(config(tmp_path), lambda *_: job, Console(quiet=True), runs.Part())
    assert raised.value.exit_code == 130
    (folder,) = (path for path in (tmp_path / "runs").glob("2*") if path.is_dir())
    assert str(folder) in str(raised.value) and isinstance(list(read_records(folder))[-1], EndRecord)
