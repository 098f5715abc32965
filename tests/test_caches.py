"""Cached files: damaged ones are made again, and a cache that cannot be written costs no run."""

import multiprocessing
import os

import numpy as np
import pytest

from bench import caches
from bench.caches import keep, read_kept


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(caches, "_said", set())


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return file["a"].tolist()


def save(file):
    np.savez(file, a=np.arange(1000))


@pytest.mark.parametrize("left", [0, 1, 30, 1000])
def test_a_torn_file_is_removed_and_made_again(tmp_path, capsys, left):
    path = tmp_path / "kept.npz"
    assert keep(path, save) and load(path) == list(range(1000))
    os.truncate(path, left)
    assert read_kept(path, load) is None and not path.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "kept.npz is damaged" in line and line.endswith("it is made again")
    assert keep(path, save) and read_kept(path, load) == list(range(1000))


def test_what_was_never_kept_is_no_damage(tmp_path, capsys):
    assert read_kept(tmp_path / "nosuch.npz", load) is None
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for name in ("a", "b"):
        assert not keep(tmp_path / "file" / name, save)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    assert not keep(tmp_path / "a", full) and list(tmp_path.iterdir()) == []


def write_often(path, number):
    for _ in range(40):
        assert keep(path, lambda file: np.savez(file, a=np.full(5000, number)))


def test_two_writers_of_one_file_leave_one_whole_file(tmp_path):
    path = tmp_path / "kept.npz"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, number)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(set(load(path))) == 1 and list(tmp_path.iterdir()) == [path]
