import pytest
import yaml

from bench.config.gpu import (
    GPU_FOLDER,
    GpuConfig,
    PeakConfig,
    SpecConfig,
    data_sheet,
    match,
    read_specs,
    require_present,
)
from bench.cost.hardware import HardwareSpec
from bench.errors import ConfigError, DeviceError

DEVICE_NAMES = {
    "Tesla T4": "t4",
    "NVIDIA A10G": "a10g",
    "NVIDIA L4": "l4",
    "NVIDIA L40S": "l40s",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA GeForce RTX 5090": "rtx5090",
    "A100-PCIE-40GB": "a100-40gb-pcie",
    "NVIDIA A100-PCIE-40GB": "a100-40gb-pcie",
    "NVIDIA A100-SXM4-40GB": "a100-40gb-sxm",
    "NVIDIA A100 80GB PCIe": "a100-80gb-pcie",
    "NVIDIA A100-SXM4-80GB": "a100-80gb-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "AMD Instinct MI300X": "mi300x",
}
OTHERS = [
    "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
    "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    "NVIDIA A10",
    "NVIDIA L40",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA H100 NVL",
    "NVIDIA H200 NVL",
    "NVIDIA GB200",
    "GRID T4-8Q",
    "AMD EPYC (2 threads)",
    "",
]


@pytest.mark.parametrize("device_name, model", DEVICE_NAMES.items())
def test_the_names_that_drivers_report(device_name, model):
    found = [spec.name for spec in read_specs() if match(device_name, [spec])]
    assert found == [model]
    assert match(device_name).name == model


@pytest.mark.parametrize("device_name", OTHERS)
def test_slices_and_relatives_are_not_the_whole_card(device_name):
    assert match(device_name) is None


def test_every_model_is_reached_by_a_name():
    assert {spec.name for spec in read_specs()} == set(DEVICE_NAMES.values())


def test_values_are_in_bytes_and_per_second():
    spec = match("NVIDIA A100-SXM4-80GB")
    assert spec.memory_bytes_per_s == 2.039e12
    assert (spec.cache_bytes, spec.memory_bytes) == (40 * 2**20, 80 * 2**30)
    assert spec.peak("bfloat16") == spec.peak("float16") == 312e12
    assert (spec.peak("tfloat32"), spec.peak("float32")) == (156e12, 19.5e12)


def test_peaks_are_dense():
    # Twice the multiply-adds of every tensor core per clock; sparsity would double it.
    cores, per_clock, boost_hz = 432, 256, 1.41e9
    assert match("NVIDIA A100-PCIE-40GB").peak("bfloat16") == pytest.approx(
        2 * cores * per_clock * boost_hz, rel=0.01
    )
    assert match("NVIDIA L4").peak("bfloat16") == pytest.approx(242e12 / 2)
    assert match("NVIDIA H100 80GB HBM3").peak("bfloat16") == pytest.approx(1979e12 / 2)


@pytest.mark.parametrize("spec", read_specs(), ids=lambda spec: spec.name)
def test_every_sheet_is_consistent(spec):
    assert spec.source
    # tensor cores are faster the narrower the type, and never slower than the ordinary units
    peaks = [spec.peak(dtype) for dtype in ("float32", "tfloat32", "bfloat16") if spec.peak(dtype)]
    assert peaks == sorted(peaks)
    assert 1e11 < spec.memory_bytes_per_s < 1e13
    assert spec.memory_bytes >= 16 * 2**30


def test_what_a_gpu_lacks_is_none():
    t4 = match("Tesla T4")
    assert t4.peak("bfloat16") is None and t4.peak("tfloat32") is None
    l40s = match("NVIDIA L40S")
    assert l40s.cache_bytes is None
    assert l40s.with_cache(96 * 2**20).cache_bytes == 96 * 2**20
    assert t4.with_cache(7).cache_bytes == 4 * 2**20


def test_a_named_gpu_that_is_not_here_is_refused():
    h100 = match("NVIDIA H100 PCIe").name_pattern
    require_present(h100, "NVIDIA H100 PCIe")
    with pytest.raises(DeviceError, match=r"gpu=h100-pcie is not the device here, which is Tesla T4;"):
        require_present(h100, "Tesla T4")
    with pytest.raises(DeviceError, match=r"gpu=h100-pcie is not here: this machine has no GPU, .* gpu=cpu"):
        require_present(h100, None)
    with pytest.raises(DeviceError, match=r"gpu='X1' is not the device here"):
        require_present("X1", "X2")


@pytest.mark.parametrize(
    "family, device_name, is_one",
    [
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("h100", "NVIDIA H100 PCIe", True),
        ("h100", "NVIDIA H100 NVL", True),
        ("h100", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", False),
        ("h100", "NVIDIA H200", False),
        ("h100", "NVIDIA GH200 480GB", False),
        ("a100", "NVIDIA A100-SXM4-80GB", True),
        ("a100", "A100-PCIE-40GB", True),
        ("a100", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", False),
        ("a100", "NVIDIA A10G", False),
    ],
)
def test_a_family_takes_its_whole_cards_only(family, device_name, is_one):
    pattern = yaml.safe_load((GPU_FOLDER / f"{family}.yaml").read_text("utf-8"))["name_pattern"]
    if is_one:
        require_present(pattern, device_name)
    else:
        with pytest.raises(DeviceError, match=f"gpu={family} is not the device here, which is {device_name}"):
            require_present(pattern, device_name)


def test_a_family_has_no_data_sheet_of_its_own():
    pattern = yaml.safe_load((GPU_FOLDER / "h100.yaml").read_text("utf-8"))["name_pattern"]
    with pytest.raises(ConfigError, match="gpu=h100 is several cards: choose h100-pcie or h100-sxm"):
        data_sheet(GpuConfig(name_pattern=pattern))
    with pytest.raises(ConfigError, match="gpu='X1' has no data sheet: give gpu.spec, or choose"):
        data_sheet(GpuConfig(name_pattern="X1"))
    sheet = SpecConfig("by hand", 100.0, 8.0, peak_tflops=PeakConfig(bfloat16=2.0))
    own = data_sheet(GpuConfig(name_pattern="X1", spec=sheet))
    assert (own.memory_bytes_per_s, own.peak("bfloat16")) == (1e11, 2e12)
    t4 = match("Tesla T4")
    assert data_sheet(GpuConfig(name_pattern=t4.name_pattern, spec=_config_of("t4"))) == t4


def _config_of(name: str) -> SpecConfig:
    values = yaml.safe_load((GPU_FOLDER / f"{name}.yaml").read_text("utf-8"))["spec"]
    return SpecConfig(**{**values, "peak_tflops": PeakConfig(**values["peak_tflops"])})


def test_files_that_only_choose_a_device_hold_no_spec():
    assert {"auto", "cpu"} <= {path.stem for path in GPU_FOLDER.glob("*.yaml")}
    assert not {"auto", "cpu"} & {spec.name for spec in read_specs()}


def sheet(**changes) -> dict:
    spec = {
        "source": "a data sheet",
        "memory_bandwidth_gb_per_s": 100,
        "memory_gib": 8,
        "peak_tflops": {"float32": 1},
    }
    return {"device": "auto", "name_pattern": "X1", "spec": {**spec, **changes}}


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "x1.yaml").write_text(yaml.safe_dump(sheet()))
    (spec,) = read_specs(tmp_path)
    assert spec == HardwareSpec("x1", "a data sheet", "X1", {"float32": 1e12}, 1e11, None, 8 * 2**30)


@pytest.mark.parametrize(
    "values, message",
    [
        (sheet(memory_bandwidth_gb_per_s=0), r"gpu\.spec\.memory_bandwidth_gb_per_s=0 is impossible"),
        (sheet(memory_gib=-1), r"gpu\.spec\.memory_gib=-1 is impossible"),
        (sheet(cache_mib=0), r"gpu\.spec\.cache_mib=0 is impossible"),
        (sheet(source=" "), r"gpu\.spec\.source=.* the name of the data sheet"),
        (sheet(peak_tflops={"bfloat16": -3}), r"gpu\.spec\.peak_tflops\.bfloat16=-3 is impossible"),
        (sheet(peak_tflops={"int8": 3}), r"x1\.yaml is not a GPU's data sheet: .*int8"),
        (sheet(bandwidth=3), r"x1\.yaml is not a GPU's data sheet: .*bandwidth"),
        ({**sheet(), "name_pattern": "("}, r"x1\.yaml is not a GPU's data sheet"),
        ({"spec": {"source": "x"}}, r"x1\.yaml is not a GPU's data sheet: 'name_pattern'"),
        (["a", "list"], "expected keys and values"),
    ],
)
def test_a_broken_sheet_is_named(tmp_path, values, message):
    (tmp_path / "x1.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        read_specs(tmp_path)


def test_yaml_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "x1.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"x1\.yaml cannot be read"):
        read_specs(tmp_path)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="rates must be above 0"):
        HardwareSpec("x", "measured", None, {"float32": 0.0}, 1.0, None, None)
    spec = SpecConfig("sheet", 1.0, 1.0, peak_tflops=PeakConfig(bfloat16=2.0))
    assert spec.hardware("x", "X").peak_flops_per_s == {"bfloat16": 2e12}
