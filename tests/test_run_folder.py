"""How a run's folder is made, found again, and kept to one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.cli import _CONF
from bench.errors import OutputError
from bench.records import EndRecord, RecordWriter, SessionRecord
from bench.run_folder import check_writable, open_run

HERE = {"device": "cuda:0", "device_name": "GPU", "dtype": "float32", "draft_fingerprint": "a"}


def config(tmp_path, *overrides):
    with initialize_config_dir(str(_CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("config", [f"results_dir={tmp_path}", *overrides]))


def begin(config, environment=HERE, *records):
    with open_run(config, environment) as run:
        writer = RecordWriter(run.path)
        for record in (SessionRecord("now", "host", 1), *records):
            writer.append(record)
        writer.close()
    return run


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


@pytest.mark.parametrize("key", ["device_name", "dtype", "draft_fingerprint", "packages", "git", "task"])
def test_another_machine_model_or_version_is_another_run(tmp_path, key):
    assert begin(config(tmp_path)).path != begin(config(tmp_path), {**HERE, key: "changed"}).path


def test_what_is_only_read_does_not_make_another_run(tmp_path):
    assert begin(config(tmp_path)).path == begin(config(tmp_path, "export.domain=code")).path


def test_a_torn_line_is_removed_and_said(tmp_path):
    path = begin(config(tmp_path)).path
    with (path / "records.jsonl").open("a") as file:
        file.write('{"schema"')
    again = begin(config(tmp_path))
    assert again.was_torn and again.path == path
    lines = (path / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["session", "session"]


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    path = begin(config(tmp_path)).path
    code = (
        "import sys, time; from pathlib import Path; from bench.run_folder import _hold\n"
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
