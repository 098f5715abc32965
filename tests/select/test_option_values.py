"""A hundred values of a selection's options: each ends in a result, or in one line with exit code 2."""

import itertools
import json

import pytest

from tests.select.in_process import check_ended, run_here

NUMBERS = ["0", "-1", "1e3", "2.5", "null", "abc", "[]", "1e999", "999999999999", "''"]
OPTIONS = {
    "select.k_min": NUMBERS,
    "select.k_max": NUMBERS,
    "select.multiple": NUMBERS,
    "select.min_coverage": NUMBERS,
    "select.vocab_size": NUMBERS,
    "domain.max_bad_share": NUMBERS,
    "domain.max_conversations": NUMBERS,
    "vocab.held_out_share": NUMBERS,
    "domain.roles": [
        "{}",
        "{a:assistant}",
        "{a:robot}",
        "{a:1}",
        "[]",
        "a",
        "null",
        "{a:[]}",
        "3",
        "{1:user}",
    ],
    "domain.columns.prompt": [
        "q",
        "'{q}'",
        "'{'",
        "'{nosuch}'",
        "'{q!z}'",
        "'{q:d}'",
        "null",
        "[]",
        "''",
        "nosuch",
    ],
}
CASES = list(
    itertools.chain.from_iterable([(key, value) for value in values] for key, values in OPTIONS.items())
)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "mine.jsonl"
    rows = [{"q": f"q{i}", "prompt": f"q{i}", "response": f"a wren {i}"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_there_are_a_hundred():
    assert len(CASES) == 100


@pytest.mark.parametrize(("key", "value"), CASES)
def test_a_value_ends_in_a_result_or_in_one_line(conversations, tmp_path, monkeypatch, key, value):
    out = tmp_path / "out"
    done = run_here(
        monkeypatch,
        *("task=select", "domain=jsonl", f"domain.path={conversations}", f"out={out}", "select.trials=1"),
        *("select.checkpoint=false", "domain.responses=dataset", "select.bootstrap_samples=100"),
        f"{key}={value}",
    )
    check_ended(done, out)
