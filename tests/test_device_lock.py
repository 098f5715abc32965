"""One measurement at a time on a device, and a lock that dies with its holder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.device import lock
from bench.errors import DeviceError

HOLD = """
import sys, time
from pathlib import Path
from bench.device.lock import hold_device
with hold_device("gpu-x", print, folder=Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds gpu-x."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_device_is_refused_with_its_holder(holder, tmp_path):
    with pytest.raises(DeviceError) as refused, lock.hold_device("gpu-x", print, 0, tmp_path):
        pass
    message = str(refused.value)
    assert f"gpu-x is being measured by process {holder.pid} (since 20" in message
    assert "another gpu=" in message and "\n" not in message


def test_another_device_is_free(holder, tmp_path):
    with lock.hold_device("gpu-y", pytest.fail, 0, tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / "gpu-y.lock").read_text()


def test_a_killed_holder_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.hold_device("gpu-x", pytest.fail, 0, tmp_path):
        signed = (tmp_path / "gpu-x.lock").read_text()
    assert f'"pid": {os.getpid()},' in signed and str(holder.pid) not in signed


def test_waiting_names_the_holder_once_and_ends_when_it_does(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_POLL_S", 0.01)
    said: list[str] = []

    def end_holder():
        while not said:
            time.sleep(0.01)
        time.sleep(0.1)
        holder.kill()

    thread = threading.Thread(target=end_holder)
    thread.start()
    with lock.hold_device("gpu-x", said.append, 30, tmp_path):
        thread.join()
    assert len(said) == 1 and f"process {holder.pid}" in said[0]


def test_an_error_inside_frees_the_device(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.hold_device("gpu-x", print, 0, tmp_path):
        raise ZeroDivisionError
    with lock.hold_device("gpu-x", pytest.fail, 0, tmp_path):
        pass


def test_a_lock_left_unsigned_is_taken(tmp_path):
    (tmp_path / "gpu-x.lock").write_text("{torn")
    with lock.hold_device("gpu-x", pytest.fail, 0, tmp_path):
        assert (tmp_path / "gpu-x.lock").read_text().startswith('{"pid"')


def test_a_holder_that_has_not_written_its_name_is_still_one(tmp_path):
    file = (tmp_path / "gpu-x.lock").open("w")
    lock.fcntl.flock(file, lock.fcntl.LOCK_EX)
    with (
        file,
        pytest.raises(DeviceError, match="an unknown process"),
        lock.hold_device("gpu-x", print, 0, tmp_path),
    ):
        pass


def test_the_folder_is_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_TMP", tmp_path)
    folder = lock.lock_folder()
    assert folder == tmp_path / f"vocabtrim-bench-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert lock.lock_folder() == folder


def test_a_link_in_the_folders_place_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_TMP", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"vocabtrim-bench-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError, match="not a folder of this user"):
        lock.lock_folder()


def test_a_folder_that_cannot_be_written_is_named():
    with (
        pytest.raises(DeviceError, match="cannot write the lock"),
        lock.hold_device("gpu-x", print, 0, Path("/proc/nowhere")),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cpu", "cpu"), ("auto", "gpu-aa"), ("cuda:0", "gpu-aa"), ("cuda:1", "gpu-bb"), ("cuda:2", "cuda-2")],
)
def test_a_gpu_is_known_by_its_uuid(monkeypatch, name, expected):
    gpus = [SimpleNamespace(uuid="aa"), SimpleNamespace(uuid="bb")]
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: len(gpus), get_device_properties=gpus.__getitem__
    )
    monkeypatch.setattr(lock, "torch", SimpleNamespace(cuda=cuda))
    assert lock.physical_id(name) == expected


def test_auto_without_a_gpu_is_the_cpu(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setattr(lock, "torch", SimpleNamespace(cuda=cuda))
    assert lock.physical_id("auto") == "cpu"
    assert lock.physical_id("cuda:0") == "cuda-0"
