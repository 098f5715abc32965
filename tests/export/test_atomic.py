"""A result appears whole or not at all, and nobody's folder is lost."""

from pathlib import Path

import pytest

from bench.errors import OutputError
from bench.export.files import replace_folder


def contents(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_new_folder_appears_with_all_its_files(tmp_path):
    target = tmp_path / "a" / "b"
    with replace_folder(target, "mark") as folder:
        (folder / "mark").write_text("1")
        assert not target.exists()
    assert contents(target) == ["mark"] and contents(target.parent) == ["b"]


def test_an_earlier_result_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "b"
    for name in ("old", "new"):
        with replace_folder(target, "mark") as folder:
            (folder / "mark").write_text(name)
            (folder / name).write_text("x")
    assert contents(target) == ["mark", "new"] and contents(tmp_path) == ["b"]


def test_an_error_leaves_the_earlier_result(tmp_path):
    target = tmp_path / "b"
    with replace_folder(target, "mark") as folder:
        (folder / "mark").write_text("old")
    with pytest.raises(ZeroDivisionError), replace_folder(target, "mark") as folder:
        (folder / "mark").write_text("new")
        raise ZeroDivisionError
    assert (target / "mark").read_text() == "old" and contents(tmp_path) == ["b"]


def test_a_folder_of_the_users_is_refused(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="has no mark"), replace_folder(tmp_path / "b", "mark"):
        raise AssertionError("must not get here")
    assert contents(tmp_path / "b") == ["thesis.txt"]


def test_a_link_stays_and_the_folder_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "b"
    link.symlink_to(tmp_path / "disk")
    for name in ("old", "new"):
        with replace_folder(link, "mark") as folder:
            (folder / "mark").write_text(name)
    assert link.is_symlink() and (tmp_path / "disk" / "mark").read_text() == "new"
    assert contents(tmp_path) == ["b", "disk"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_swap_that_fails_leaves_the_earlier_result_and_nothing_else(tmp_path, monkeypatch, failing):
    target = tmp_path / "b"
    with replace_folder(target, "mark") as folder:
        (folder / "mark").write_text("old")
    rename, calls = Path.replace, []

    def fail_once(path, to):
        calls.append(path)
        if len(calls) == failing:
            raise OSError(16, "Device or resource busy")
        return rename(path, to)

    monkeypatch.setattr(Path, "replace", fail_once)
    with (
        pytest.raises(OutputError, match="busy; nothing was changed"),
        replace_folder(target, "mark") as folder,
    ):
        (folder / "mark").write_text("new")
    assert (target / "mark").read_text() == "old" and contents(tmp_path) == ["b"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), replace_folder(tmp_path / "file" / "b", "mark"):
        raise AssertionError("must not get here")
