import pytest

from bench.device import CpuDevice
from bench.device.cpu import last_level_cache_bytes
from bench.errors import DeviceError


def add_cache(sysfs, cpu, index, level, kind, size, shared_by):
    folder = sysfs / f"cpu{cpu}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared_by)):
        (folder / name).write_text(f"{value}\n")


@pytest.fixture
def two_dies(tmp_path):
    """Four CPUs; each pair shares a last-level cache of 2 MiB."""
    for cpu in range(4):
        pair = "0-1" if cpu < 2 else "2-3"
        add_cache(tmp_path, cpu, 0, 1, "Data", "32K", cpu)
        add_cache(tmp_path, cpu, 1, 1, "Instruction", "64K", cpu)
        add_cache(tmp_path, cpu, 2, 3, "Unified", "2M", pair)
    return tmp_path


def test_the_last_level_counts_once_for_all_who_share_it(two_dies):
    assert last_level_cache_bytes(two_dies, {0, 1}) == 2 << 20
    assert last_level_cache_bytes(two_dies, {0, 3}) == 4 << 20
    assert last_level_cache_bytes(two_dies, {0, 1, 2, 3}) == 4 << 20


def test_instruction_caches_hold_no_weights(tmp_path):
    add_cache(tmp_path, 0, 0, 1, "Data", "32K", "0")
    add_cache(tmp_path, 0, 1, 1, "Instruction", "64K", "0")
    assert last_level_cache_bytes(tmp_path, {0}) == 32 << 10


def test_a_kernel_that_does_not_say_is_none_and_not_zero(tmp_path):
    assert last_level_cache_bytes(tmp_path, {0}) is None
    add_cache(tmp_path, 0, 0, 3, "Unified", "unknown", "0")
    assert last_level_cache_bytes(tmp_path, {0}) is None


def test_marks_are_the_host_clock():
    device = CpuDevice()
    start, end = device.mark(), device.mark()
    assert device.elapsed_ms(start, end) == (end - start) / 1e6 >= 0
    assert not device.asynchronous and device.uuid is None


def test_an_eviction_writes_twice_the_cache():
    device = CpuDevice()
    device.cache_bytes = 8 << 10
    device.evict_cache()
    device.evict_cache()
    assert device._buffer.nbytes == 16 << 10
    assert (device._buffer == 2).all()


def test_no_eviction_without_a_known_size():
    device = CpuDevice()
    device.cache_bytes = None
    with pytest.raises(DeviceError, match="cache=cold is impossible"):
        device.evict_cache()
