import pandas as pd
import pytest

from bench.errors import AssetError, ConfigError
from bench.gpu_tables.tidy import COLUMNS, TableKey, read_csv, read_folder
from tests.gpu_tables.synthetic import ENGINE, GPU, VERSION, products, write_folder


@pytest.fixture
def tables(tmp_path):
    return read_folder(write_folder(tmp_path), "tiny 1.0", "Apache-2.0")


def test_tables_have_one_set_of_names_and_units(tables):
    key = tables.find(GPU, ENGINE, "bfloat16")
    assert key == TableKey(GPU, ENGINE, VERSION, "bfloat16")
    rows = tables.products(key)
    assert list(rows.columns) == COLUMNS
    row = rows[(rows["m"] == 1) & (rows["n"] == 4096) & (rows["k"] == 4096)].iloc[0]
    # 4 us and 33,570,816 bytes at 2.5 TB/s.
    assert row["latency_ms"] == pytest.approx(0.004 + 33_570_816 / 2.5e9)
    gpu = tables.gpus[GPU]
    assert (gpu.memory_bytes_per_s, gpu.peak_flops_per_s["fp8"]) == (3.35e12, 1.978e15)
    assert gpu.device_name == "NVIDIA H100 80GB HBM3"


def test_a_dtype_without_a_table_is_refused_with_those_there_are(tables):
    with pytest.raises(ConfigError, match="no nvfp4 table in tiny 1.0: choose bfloat16, fp8"):
        tables.find(GPU, ENGINE, "nvfp4")
    with pytest.raises(ConfigError, match=r"no table of b60 with vllm in tiny 1.0: it has h100_sxm \(vllm\)"):
        tables.find("b60", "vllm", "bfloat16")


def test_the_newest_version_of_an_engine_is_taken(tmp_path):
    folder = write_folder(tmp_path)
    older = folder / "data" / GPU / "gemm" / ENGINE / "0.5.9.post2"
    older.mkdir()
    products(["bfloat16"]).to_parquet(older / "gemm_perf.parquet")
    tables = read_folder(folder, "tiny", "")
    assert {key.version for key in tables.keys_of(GPU, ENGINE)} == {VERSION}


def test_a_folder_without_tables_or_with_a_torn_one_is_refused(tmp_path):
    with pytest.raises(AssetError, match="holds no table"):
        read_folder(tmp_path, "tiny", "")
    folder = write_folder(tmp_path / "torn")
    path = folder / "data" / GPU / "gemm" / ENGINE / VERSION / "gemm_perf.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AssetError, match=r"gemm_perf.parquet cannot be read.*delete its folder"):
        read_folder(folder, "tiny", "").keys_of(GPU, ENGINE)


def write_csv(path, **changed):
    rows = {
        "gpu": "our H100", "engine": "vllm", "dtype": "bfloat16", "m": [1, 1], "n": [1024, 2048], "k": 4096,
        "latency_ms": [0.01, 0.02],
    } | changed  # fmt: skip
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_measurements_of_ones_own_are_read_by_the_same_loader(tmp_path):
    found = read_csv(write_csv(tmp_path / "ours.csv"))
    key = found.find("our H100", "vllm", "bfloat16")
    assert not found.is_published and key.version == "unknown"
    assert found.products(key)["latency_ms"].tolist() == [0.01, 0.02]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latency_ms": [0.01, 0.0]}, "row 2.*all above 0"),
        ({"n": [1024, 2048.5]}, "row 2.*whole numbers"),
        ({"m": ["one", "two"]}, "row 1: .*must be numbers, and m is 'one'"),
        ({"latency_ms": [0.01, "fast"]}, "row 2: .*latency_ms is 'fast'"),
        ({"gpu": ["our H100", None]}, "row 2: gpu is empty"),
        ({"n": [1024, 65536], "latency_ms": [10.0, 200.0]}, "row 2: .*2.68 GB/s.*in milliseconds"),
        ({"n": [1024, 65536], "latency_ms": [1e-5, 2e-6]}, "row 2: .*in milliseconds"),
        ({"n": [1024, 1024]}, "n = 1024, k = 4096 in bfloat16 is there twice"),
        ({"dtype": "int3"}, "dtype int3 is unknown"),
        ({"clock": 1}, "nothing is known of the column clock"),
    ],
)
def test_a_row_that_is_no_measurement_is_named(tmp_path, changed, message):
    path = write_csv(tmp_path / "ours.csv", **changed)
    with pytest.raises(ConfigError, match=message) as refused:
        read_csv(path)
    assert f"gpu_tables={path}" in str(refused.value)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "ours.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="lacks gpu, engine, dtype"):
        read_csv(tmp_path / "ours.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_csv(tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match="has no rows"):
        read_csv(write_csv(tmp_path / "empty.csv", m=[], n=[], latency_ms=[], k=[]))
