import base64
import json
import zlib
from dataclasses import asdict

import pytest

from bench.errors import OutputError
from bench.records import (
    FILE_NAME,
    READABLE_VERSIONS,
    BaselineRecord,
    DecodeRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    RecordWriter,
    ReplayRecord,
    SampledReplayRecord,
    read_records,
)
from bench.variant import Variant

RECORDS = [
    RankingRecord("code", [0, 3], [4.0, 2.5], 1, None),
    PlanRecord("code", "code", [(64, 0, "plain"), (8, 3, "optimum+paper")]),
    ReplayRecord("code", "p1", "code", [4, 5, 1], [[1, 2], [3, 4]], [[9, 8], [7, 6]], 1.5),
    SampledReplayRecord("code", "p1", "code", [4, 5], [1, 8], [[[0.1, 1 / 3]]], 1.5),
    ProbeRecord("code", "p1", 8, 3, True, 1, {"verify": [3.5]}),
    DecodeRecord("code", "p1", 8, 3, 1, 12, [4, 5, 1], [1], 10.5, 11.0, {"verify": [3.5]}),
    BaselineRecord("code", "p1", 3, 20.0, 25.0),
]


@pytest.fixture
def folder(tmp_path):
    writer = RecordWriter(tmp_path)
    for record in RECORDS:
        writer.append(record)
    assert writer.num_written == len(RECORDS)
    writer.close()
    return tmp_path


def test_every_kind_comes_back_as_it_was_written(folder):
    assert list(read_records(folder)) == RECORDS


def test_ids_and_ranks_are_packed_and_timings_are_plain(folder):
    lines = map(json.loads, (folder / FILE_NAME).read_text().splitlines())
    found = {line["kind"]: line for line in lines}
    packed = found["replay"]["low"]
    assert packed.keys() == {"zlib"}
    assert json.loads(zlib.decompress(base64.b64decode(packed["zlib"]))) == [[1, 2], [3, 4]]
    assert found["ranking"]["candidate_ids"] is None
    assert found["probe"]["laps_ms"] == {"verify": [3.5]} and found["decode"]["token_ids"] == [4, 5, 1]


def test_a_file_of_format_2_says_the_same(folder, tmp_path):
    lines = [json.dumps({"schema": 2, "kind": record.kind, **asdict(record)}) for record in RECORDS]
    assert 2 in READABLE_VERSIONS and '"low": [[1, 2], [3, 4]]' in lines[2]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / FILE_NAME).write_text("\n".join(lines) + "\n")
    assert list(read_records(tmp_path / "old")) == list(read_records(folder)) == RECORDS


@pytest.mark.parametrize(
    "value",
    [
        {"zlib": "no base64"},
        {"zlib": base64.b64encode(b"not compressed").decode()},
        {"zlib": base64.b64encode(zlib.compress(b"no JSON")).decode()},
        {"zlib": 5},
        {"gzip": ""},
    ],
)
def test_a_packed_field_that_is_damaged_is_named(folder, value):
    path = folder / FILE_NAME
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), "low": value})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(OutputError, match="line 3: not a replay record") as raised:
        list(read_records(folder))
    assert "\n" not in str(raised.value)


def test_each_record_is_on_disk_before_the_next(tmp_path):
    writer = RecordWriter(tmp_path)
    for number, record in enumerate(RECORDS, start=1):
        writer.append(record)
        assert len((tmp_path / FILE_NAME).read_text().splitlines()) == number


def test_appending_again_keeps_what_was_there(folder):
    writer = RecordWriter(folder)
    writer.append(RECORDS[0])
    writer.close()
    assert list(read_records(folder)) == [*RECORDS, RECORDS[0]]


def test_a_torn_last_line_is_left_out(folder):
    path = folder / FILE_NAME
    path.write_text(path.read_text() + '{"schema": 2, "kind": "dec')
    assert list(read_records(folder)) == RECORDS


def test_a_broken_line_in_the_middle_is_named(folder):
    path = folder / FILE_NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{broken", *lines[1:]]) + "\n")
    with pytest.raises(OutputError, match="line 2: not valid JSON"):
        list(read_records(folder))


def test_another_schema_is_refused(folder):
    path = folder / FILE_NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(lines[0]), "schema": 99}), *lines[1:]]))
    with pytest.raises(OutputError, match="schema 99"):
        list(read_records(folder))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(OutputError, match="is .* a run"):
        list(read_records(tmp_path))
    with pytest.raises(OutputError, match="cannot write"):
        RecordWriter(tmp_path / "nosuch")


def test_replays_come_back_as_intervals():
    found = RECORDS[2].replayed()
    assert found.num_tokens == 3
    assert found.accepted_by_round(Variant(6, 1)) == [1]
