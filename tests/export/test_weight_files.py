"""Weight files that cannot be written are an error of one line."""

import signal

import pytest
import torch

from bench.errors import OutputError
from bench.export.files import replace_folder, save_pickled, save_tensors


def test_a_disk_that_is_full_is_an_error_of_one_line(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with (
            pytest.raises(OutputError, match="cannot write") as first,
            replace_folder(tmp_path / "a", "m") as out,
        ):
            save_tensors({"a": torch.zeros(9999)}, out / "a.safetensors", {})
        with (
            pytest.raises(OutputError, match="cannot write") as second,
            replace_folder(tmp_path / "b", "m") as out,
        ):
            save_pickled(list(range(9999)), out / "b.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, was)
    assert "\n" not in f"{first.value}{second.value}"
    assert not list(tmp_path.iterdir())
