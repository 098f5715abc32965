import itertools
import json

import pytest

from bench.analysis.load import load_runs
from bench.errors import ConfigError, OutputError
from tests.analysis.synthetic import Device, Experiment, write_run


def labels(paths):
    return {item.run.folder.name: item.label for item in load_runs(paths)}


def started(minute: int, **changes) -> Experiment:
    return Experiment(started_at=f"2026-01-01T00:{minute:02}:00+00:00", seed=minute, num_prompts=2, **changes)


def test_equal_runs_are_numbered_by_their_start_whatever_the_order(tmp_path):
    paths = [write_run(tmp_path / name, None, started(n)) for n, name in enumerate("cab")]
    for order in itertools.permutations(paths):
        assert labels(order) == {
            "c": "H100 80GB HBM3", "a": "H100 80GB HBM3 #2", "b": "H100 80GB HBM3 #3"
        }  # fmt: skip


def test_domains_of_one_device_stand_together(tmp_path):
    one, two = Device(uuid="GPU-1"), Device(uuid="GPU-2")
    runs = [("a1", one, "code"), ("b2", two, "writing"), ("a2", two, "code"), ("b1", one, "writing")]
    paths = [write_run(tmp_path / n, d, started(i, domains=(t,))) for i, (n, d, t) in enumerate(runs)]
    found = labels(paths)
    # GPU 1 started first, and what GPU 2 measured again is kept together as well.
    assert found["a1"] == found["b1"] == "H100 80GB HBM3"
    assert found["a2"] == found["b2"] == "H100 80GB HBM3 #2"
    assert labels(paths[:2]) == {"a1": "H100 80GB HBM3", "b2": "H100 80GB HBM3"}


def test_one_gpu_in_two_containers_is_one_device(tmp_path):
    here, there = Device(host="3fa9"), Device(host="77c0")
    paths = [
        write_run(tmp_path / "a", here, started(0)),
        write_run(tmp_path / "b", there, started(1, domains=("writing",))),
    ]
    assert set(labels(paths).values()) == {"H100 80GB HBM3"}
    other = write_run(tmp_path / "c", Device(host="77c0", uuid="GPU-2"), started(2))
    assert labels([*paths, other])["c"] == "H100 80GB HBM3 (on 77c0)"
    assert labels([*paths, other])["b"] == "H100 80GB HBM3 (on 3fa9)"


def test_another_case_on_the_same_device_is_no_repeat(tmp_path):
    paths = [
        write_run(tmp_path / name, None, started(n, dtype=dtype))
        for n, (name, dtype) in enumerate([("a", "bfloat16"), ("b", "float32")])
    ]
    assert set(labels(paths).values()) == {"H100 80GB HBM3"}


def test_a_folder_of_runs_stands_for_them(tmp_path):
    write_run(tmp_path / "machine" / "a", Device(power_limit_w=350.0), started(0))
    other = write_run(tmp_path / "b", Device(power_limit_w=700.0), started(1))
    (tmp_path / "machine" / "latest").symlink_to("a")
    assert labels([tmp_path / "machine", other]) == {
        "a": "H100 80GB HBM3 (350 W)", "b": "H100 80GB HBM3 (700 W)"
    }  # fmt: skip


def test_one_run_twice_is_refused(tmp_path):
    first = write_run(tmp_path / "a", None, started(0))
    copy = write_run(tmp_path / "b", None, started(0))
    assert copy != first
    with pytest.raises(ConfigError, match=r"b and .*a are the same run; name every run once"):
        load_runs([first, copy])


def test_nothing_named():
    with pytest.raises(ConfigError, match="no run is named"):
        load_runs([])


@pytest.mark.parametrize("missing", ["records.jsonl", "environment.json", "config.yaml"])
def test_a_folder_that_is_no_run(tmp_path, missing):
    run = write_run(tmp_path / "a", None, started(0))
    (run / missing).unlink()
    with pytest.raises(OutputError, match=f"a is not a run: it has no {missing}; name a folder"):
        load_runs([run])


def test_another_schema(tmp_path):
    run = write_run(tmp_path / "a", None, started(0))
    path = run / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(lines[0]), "schema": 1}), *lines[1:]]))
    with pytest.raises(OutputError, match="a was written with record schema 1, this version reads "):
        load_runs([run])


def test_an_unfinished_run(tmp_path):
    run = write_run(tmp_path / "a", None, started(0))
    path = run / "records.jsonl"
    # Without its last line, which says that it has ended, and the measurement before it.
    path.write_text("\n".join(path.read_text().splitlines()[:-2]))
    with pytest.raises(OutputError, match="a is unfinished: it stopped before its last measurement"):
        load_runs([run])


def test_a_finished_run_whose_last_measurement_failed_is_read(tmp_path):
    run = write_run(tmp_path / "a", None, started(0))
    path = run / "records.jsonl"
    failed = {"schema": 2, "kind": "failure", "case": ["baseline", "code"], "error": "E", "message": "m"}
    path.write_text("\n".join([*path.read_text().splitlines()[:-2], json.dumps(failed)]) + "\n")
    assert [item.run.failures[0].message for item in load_runs([run])] == ["m"]


def test_records_of_something_else(tmp_path):
    run = write_run(tmp_path / "a", None, started(0))
    (run / "records.jsonl").write_text("hello\n")
    with pytest.raises(OutputError, match="its first line is not a record"):
        load_runs([run])
