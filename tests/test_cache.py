"""Where assets are kept, and two processes that build one at the same time."""

from pathlib import Path

import pytest

from bench.assets import CATALOG, Wheel, build_once, cache_dir, fetch, sha256_of
from bench.errors import AssetError


@pytest.fixture
def no_variables(monkeypatch):
    for name in ("VOCABTRIM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/user")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "/home/user/.cache/vocabtrim-bench"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/vocabtrim-bench"),
        ({"XDG_CACHE_HOME": "/xdg", "VOCABTRIM_CACHE": "/chosen"}, "/chosen"),
        ({"VOCABTRIM_CACHE": "~/models"}, "/home/user/models"),
        ({"XDG_CACHE_HOME": "", "VOCABTRIM_CACHE": ""}, "/home/user/.cache/vocabtrim-bench"),
    ],
)
def test_the_first_variable_that_is_set_decides(no_variables, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_the_second_of_two_builders_takes_what_the_first_moved_in(tmp_path):
    target = tmp_path / "built"

    def build_while_another_finishes(folder):
        (folder / "whose").write_text("second")
        build_once(target, lambda first: (first / "whose").write_text("first"))

    assert build_once(target, build_while_another_finishes) == target
    assert (target / "whose").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_pin_is_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path))
    (tmp_path / "assets" / "tiny-aaaaaaaaaaaa").mkdir(parents=True)
    monkeypatch.setitem(CATALOG, "tiny", Wheel("tiny==1", "a" * 64, ("*",), "MIT"))
    assert fetch("tiny").name == "tiny-aaaaaaaaaaaa"
    monkeypatch.setitem(CATALOG, "tiny", Wheel("tiny==2", "b" * 64, ("*",), "MIT"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(AssetError, match="could not download tiny==2"):
        fetch("tiny")


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")
