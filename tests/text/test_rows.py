"""Rows of local files: every format, one at a time, and what is wrong with a broken one."""

import gzip
import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config import DomainSource, Source
from bench.errors import DomainError
from bench.text import content_id
from bench.text.rows import read_rows

ROWS = [{"prompt": "a"}, {"prompt": "b \u2028 c"}]


def values(path):
    return [row.value for row in read_rows(path)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"prompt": "a"}\r\n\n{"prompt": "b \u2028 c"}\n'),
        ("a.ndjson", '\ufeff{"prompt": "a"}\n{"prompt": "b \u2028 c"}'),
        ("a.json", '{"prompt": "a"}\n{"prompt": "b \u2028 c"}\n'),
        ("a.json", '[{"prompt": "a"},\n {"prompt": "b \u2028 c"}]\n'),
        ("a.json", '{"data":\n [{"prompt": "a"}, {"prompt": "b \u2028 c"}]}'),
        ("a.json", '{"data": [{"prompt": "a"}, {"prompt": "b \u2028 c"}]}'),
        (
            "a.json",
            '\n{"about": {"data": [1]}, "data": [{"prompt": "a"}, {"prompt": "b \u2028 c"}], "n": 2}\n',
        ),
        ("a.json", '{"about": {"n": 1}\n, "data": [{"prompt": "a"}, {"prompt": "b \u2028 c"}]}'),
        ("a.txt", '{"prompt": "a"}\n{"prompt": "b \u2028 c"}\n'),
    ],
)
def test_every_way_to_write_json(tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8", newline="")
    assert values(tmp_path / name) == ROWS
    with gzip.open(tmp_path / f"{name}.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    assert values(tmp_path / f"{name}.gz") == ROWS


def test_parquet(tmp_path):
    pd.DataFrame({"turns": [["x", "y"], ["z"]], "n": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    found = list(read_rows(tmp_path / "a.parquet"))
    assert [row.value for row in found] == [{"turns": ["x", "y"], "n": 1}, {"turns": ["z"], "n": 2}]
    assert found[1].place == f"{tmp_path}/a.parquet, row 2"


def test_reading_stops_where_the_reader_stops(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{broken\n')
    rows = read_rows(tmp_path / "a.jsonl")
    assert next(rows).value == {"prompt": "a"}


@pytest.mark.parametrize(
    ("name", "content", "number", "reason"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n{"prompt": "b"}', 2, "line 2: not valid JSON"),
        (
            "a.jsonl",
            b'{"prompt": "\xe9"}\n{"prompt": "b"}',
            1,
            "line 1: not valid Unicode; write .* in UTF-8",
        ),
        ("a.jsonl", b'{"prompt": "\\ud83d"}\n{"prompt": "b"}', 1, "line 1: not valid Unicode"),
        ("a.jsonl", b"[" * 200_000 + b'\n{"prompt": "b"}', 1, "line 1: not valid JSON: nested too deeply"),
        ("a.json", b'[{"prompt": "\\ud83d"}, {"prompt": "b"}]', 1, "row 1: not valid Unicode"),
        ("a.txt", b'{"prompt": "b"}\nhello', 2, "line 2: not valid JSON"),
    ],
)
def test_one_broken_row_costs_no_other(tmp_path, name, content, number, reason):
    (tmp_path / name).write_bytes(content)
    rows = list(read_rows(tmp_path / name))
    (broken,) = [row for row in rows if row.error]
    assert broken.number == number and re.search(reason, str(broken.error))
    assert {"prompt": "b"} in [row.value for row in rows if not row.error]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b'[{"prompt": "a"}, {"prompt"]', "a.json, row 2: not valid JSON"),
        ("a.json", b'[{"prompt": "a"} {"prompt": "b"}]', "a.json, row 1: not valid JSON"),
        ("a.json", b'[{"prompt": "a"},', "a.json, row 2: not valid JSON"),
        ("a.json", b'[{"prompt": "a"}, ]', "a.json, row 2: not valid JSON"),
        ("a.json", b'[{"prompt": "a"}] junk', "a.json: not valid JSON"),
        ("a.json", b'[{"prompt": "a"}', "a.json, row 1: not valid JSON"),
        ("a.json", b'{"n" 1,\n "data": []}', "a.json: not valid JSON"),
        ("a.csv", b"prompt\nHi\n", "line 1: not valid JSON.*must end in one of .jsonl"),
        ("a.json", b'{"rows":\n []}', "expected a list of rows"),
        ("a.jsonl", b"\n \n", "holds no prompts"),
        ("a.json", b"[]", "holds no prompts"),
        ("a.json", b"", "holds no prompts"),
        ("a.parquet", b"PAR", "cannot be read: .*Parquet"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_place(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DomainError, match=reason) as caught:
        values(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_cut_off_download_is_named(tmp_path):
    whole = gzip.compress(b"".join(b'{"prompt": "%d"}\n' % i for i in range(5000)))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DomainError, match="a.jsonl.gz cannot be read: Compressed file ended"):
        values(tmp_path / "a.jsonl.gz")


def test_a_long_first_line_is_one_row(tmp_path):
    long = {"prompt": "x" * 100_000}
    (tmp_path / "a.json").write_text(f"{json.dumps(long)}\n{json.dumps(long)}\n")
    assert values(tmp_path / "a.json") == [long, long]


_JSON_ROWS = st.lists(
    st.dictionaries(st.text(), st.text() | st.integers() | st.none()), min_size=1, max_size=5
)


@given(_JSON_ROWS, st.sampled_from([None, 2]), st.booleans())
def test_rows_survive_every_format(tmp_path_factory, rows, indent, ascii_only):
    folder = tmp_path_factory.mktemp("rows")
    dumped = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    texts = {
        "lines.jsonl": "\n".join(dumped),
        "array.json": json.dumps(rows, indent=indent, ensure_ascii=ascii_only),
        "data.json": json.dumps({"n": 1, "data": rows}, indent=indent, ensure_ascii=ascii_only),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8", newline="")
        assert values(folder / name) == rows
        assert [row.number for row in read_rows(folder / name)] == list(range(1, len(rows) + 1))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DomainError, match="nosuch.jsonl cannot be read"):
        values(tmp_path / "nosuch.jsonl")


def test_a_large_array_is_not_decoded_at_once(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": str(i)} for i in range(1000)]))
    decoded = []
    original = json.JSONDecoder.raw_decode
    monkeypatch.setattr(
        json.JSONDecoder, "raw_decode", lambda self, *a: decoded.append(1) or original(self, *a)
    )
    rows = read_rows(tmp_path / "a.json")
    next(rows), next(rows)
    assert len(decoded) <= 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"prompt": "a"}\n'.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00\x00", "is compressed with zstd; decompress it"),
        # mtime: the content is the test's id, and both test processes must name it alike.
        (
            "a.jsonl",
            gzip.compress(b'{"prompt": "a"}\n', mtime=0),
            "is compressed with gzip; end its name in .gz",
        ),
        ("a.jsonl", b"PAR1....PAR1", "is a Parquet file; end its name in .parquet"),
        ("a.json", b"PK\x03\x04....", "is a zip archive; extract the file"),
    ],
)
def test_a_file_of_another_format_is_named_as_what_it_is(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DomainError, match=re.escape(f"domain.path={tmp_path / name} {said}")):
        values(tmp_path / name)


def test_a_pipe_or_a_device_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    for path in (tmp_path / "a.jsonl", Path("/dev/zero")):
        with pytest.raises(DomainError, match="is a pipe or a device; write its content to a file first"):
            values(path)
        with pytest.raises(DomainError, match="is a pipe or a device"):
            content_id(DomainSource("mine", Source.file, str(path)))


def test_a_number_that_is_too_long_is_named_in_plain_words(tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"prompt": "a"}}\n{{"prompt": {"9" * 5000}}}\n')
    found = list(read_rows(tmp_path / "a.jsonl"))
    assert found[0].error is None
    assert str(found[1].error).endswith("line 2: not valid JSON: a number has too many digits")
