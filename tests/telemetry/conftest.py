"""A stub libnvidia-ml.so.1 behind the real nvidia-ml-py, compiled once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "nvml_stub.c"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory):
    """Folder with the stub library; without a C compiler these tests fail, and say why."""
    return compiled(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_library_folder(tmp_path_factory):
    """As of a driver that lacks the newest functions."""
    return compiled(tmp_path_factory.mktemp("old-nvml"), "-DOLD_DRIVER")


def compiled(folder: Path, *options: str) -> Path:
    library = folder / "libnvidia-ml.so.1"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", *options, "-o", library, STUB], check=True)
    return folder


@pytest.fixture
def stubbed(library_folder, tmp_path):
    """Makes the environment of a process whose NVML follows a script."""

    def environment(script: str, folder: Path = library_folder) -> dict[str, str]:
        path = tmp_path / "script"
        path.write_text(script)
        found = {"LD_LIBRARY_PATH": str(folder), "NVML_STUB": str(path), "PYTHONPATH": str(ROOT)}
        return {**os.environ, **found}

    return environment


@pytest.fixture
def ask(stubbed, library_folder):
    """Runs Python with `gpu` made by `NvmlGpu` on the first GPU, and returns what it prints."""

    def run(script: str, code: str, uuid: str = "GPU-a", folder: Path = library_folder) -> str:
        text = f"import json\nfrom bench.telemetry.nvml import *\ngpu = NvmlGpu({uuid!r})\n{code}"
        done = subprocess.run(
            [sys.executable, "-c", text],
            env=stubbed(script, folder),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
