"""`task=gpus`, and a prediction from published tables; the tables are small ones."""

import io
import json
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from rich.console import Console

import bench.predict.gpus as gpus
import bench.predict.latency as latency
from bench.analysis.gpus import KERNELS
from bench.config import GpuConfig
from bench.config.select import GpusConfig
from bench.errors import AssetError, CheckpointError, ConfigError
from bench.gpu_tables.compose import TableLatency
from bench.gpu_tables.tidy import read_folder
from bench.predict.model import Calibration, DataSheetLatency
from bench.surface.schedule import ALLOWED_LOSS
from tests.gpu_tables.synthetic import DENSE, EAGLE3, ENGINE, GPU, product_ms, write_folder
from tests.predict.test_predict import config_of
from tests.test_cli import check_refused, run

H100 = GpuConfig(name_pattern="NVIDIA H100 80GB HBM3")
RATES = {"rates": [0.8, 0.6], "acceptance_rate_by_size": {1024: 0.6, 65536: 0.8}}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return read_folder(write_folder(tmp_path_factory.mktemp("wheel")), "tiny 1.0", "MIT")


@pytest.fixture
def published(monkeypatch, tables):
    for module in (gpus, latency):
        monkeypatch.setattr(module, "published", lambda: tables)
        monkeypatch.setattr(module, "notice_of", lambda name: None)


@pytest.fixture
def files(tmp_path):
    for name, values in (("target", DENSE), ("draft", EAGLE3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(RATES))
    return tmp_path


def asked(files, **changed):
    config = config_of(profile=str(files / "rates.yaml"))
    wanted = GpusConfig(
        target=str(files / "target"), draft=str(files / "draft" / "config.json"), dtypes=["bfloat16"],
        batches=[1], contexts=[512],
    )  # fmt: skip
    return replace(config, gpus=wanted, out=str(files / "page"), **changed)


def quiet():
    return Console(file=io.StringIO(), width=300)


def test_two_configurations_and_rates_give_a_page(published, files):
    console = quiet()
    found = gpus.run_gpus(asked(files), console)
    assert found.question.pair.name == "target with draft"
    assert found.choices[["gpu", "engine", "dtype"]].drop_duplicates().values.tolist() == [
        [GPU, ENGINE, "bfloat16"]
    ]
    assert (files / "page" / "index.html").exists()
    assert f"Page: {files / 'page' / 'index.html'}" in console.file.getvalue()


def test_draft_lengths_by_batch_on_every_gpu(published, files):
    config = asked(files)
    found = gpus.run_gpus(replace(config, gpus=replace(config.gpus, batches=[1, 8, 64])), quiet())
    assert len(found.schedules) == len(
        found.schedules[["gpu", "engine", "dtype", "context", "host"]].drop_duplicates()
    )
    assert len(found.schedules) and (found.schedules["largest_loss"] <= ALLOWED_LOSS).all()
    for row in found.schedules.itertuples():
        ranges = json.loads(row.schedule)
        assert ranges[0][0] == 1 and ranges[-1][1] == 64
        assert row.largest_loss <= max(row.constant_largest_loss, ALLOWED_LOSS)
    assert (files / "page" / "tables" / "schedules.csv").exists()
    assert "draft lengths by batch" in (files / "page" / "index.html").read_text("utf-8")


def test_measurements_of_your_own_stand_beside_the_published(published, tables, files):
    rows = tables.products(tables.find(GPU, ENGINE, "bfloat16")).assign(version="ours")
    rows.assign(latency_ms=2 * rows["latency_ms"]).to_csv(files / "ours.csv", index=False)
    found = gpus.run_gpus(asked(files, gpu_tables=str(files / "ours.csv")), quiet())
    alone = found.choices[found.choices["host"] == KERNELS]
    by_version = alone.set_index("version")["full_lm_head_ms"]
    assert by_version["ours"] == pytest.approx(2 * by_version.drop("ours").iloc[0], rel=0.05)
    assert found.origins == ["tiny 1.0 (MIT)", "ours.csv (your own)"]


def test_what_is_missing_for_a_table_of_your_own_is_named(published, tables, files):
    rows = tables.products(tables.find(GPU, ENGINE, "bfloat16")).assign(gpu="our GPU")
    rows.to_csv(files / "ours.csv", index=False)
    found = gpus.run_gpus(asked(files, gpu_tables=str(files / "ours.csv")), quiet())
    reasons = found.refused.set_index("gpu")["reason"]
    assert "no table of attention for our GPU with vllm" in reasons["our GPU"]


def test_a_table_with_too_few_rows_is_named_and_the_others_stand(published, tables, files):
    rows = tables.products(tables.find(GPU, ENGINE, "bfloat16")).assign(gpu="our GPU")
    rows.head(3).to_csv(files / "ours.csv", index=False)
    found = gpus.run_gpus(asked(files, gpu_tables=str(files / "ours.csv")), quiet())
    assert "make no curve; at least 4" in found.refused.set_index("gpu")["reason"]["our GPU"]
    assert set(found.choices["gpu"]) == {GPU}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": [GPU, "nosuch"]}, "gpus.names: no table is of nosuch; there are"),
        ({"engines": [ENGINE, "nosuch"]}, "gpus.engines: no table is of nosuch; there are"),
        ({"dtypes": ["bfloat16", "int3"]}, "gpus.dtypes: int3 is unknown; known are"),
        ({"judge_widths": [17]}, "gpus.judge_widths: no table has six LM heads at 17"),
    ],
)
def test_a_name_that_no_table_has_is_refused(published, files, changed, message):
    config = asked(files)
    with pytest.raises(ConfigError, match=message):
        gpus.run_gpus(replace(config, gpus=replace(config.gpus, **changed)), quiet())
    assert not (files / "page").exists()


def test_a_kind_that_cannot_be_composed_is_refused_with_the_reason(published, files):
    other = {
        **DENSE,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 8,
    }
    (files / "target" / "config.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="8 experts, but not how many a token takes"):
        gpus.run_gpus(asked(files), quiet())


def test_a_source_of_acceptance_is_needed(published, files):
    config = asked(files)
    with pytest.raises(ConfigError, match="give predict.profile=<file of rates by position>"):
        gpus.run_gpus(replace(config, predict=replace(config.predict, profile=None)), quiet())


def test_a_coverage_is_a_source_with_an_acceptance_rate(published, files):
    (files / "curve.csv").write_text("vocab_size,coverage\n1024,0.7\n65536,1.0\n")
    config = asked(files)
    predict = replace(config.predict, profile=None, coverage=str(files / "curve.csv"))
    with pytest.raises(ConfigError, match="predict.full_acceptance"):
        gpus.run_gpus(replace(config, predict=predict), quiet())
    found = gpus.run_gpus(replace(config, predict=replace(predict, full_acceptance=0.8)), quiet())
    assert found.question.lengths.mean[0, 0, -1] == pytest.approx(1.8)


def source_of(gpu=H100, dtype="bfloat16", **predict):
    config = config_of(gpu, **predict)
    spec = latency.HardwareSpec("h100", "by hand", None, {}, 3.35e12, None, None)
    return latency.latency_of(config.gpu, config.predict, spec, dtype, Calibration(), quiet())


def test_a_prediction_takes_tables_where_there_are_any_and_says_so(published):
    found, origin = source_of()
    assert (
        isinstance(found, TableLatency) and origin == f"published kernels of {GPU}, {ENGINE} 0.24.0, bfloat16"
    )
    head = found.wide.curve(1, pd.array([8192]).to_numpy(), 4096)[0]
    assert head == pytest.approx(product_ms(1, 8192, 4096), rel=0.03)
    assert isinstance(source_of(source="tables")[0], TableLatency)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"source": "data_sheet"}, "the data sheet of h100"),
        ({"dtype": "float32"}, "the tables here are in 16 bits, not float32"),
        ({"gpu": GpuConfig(name_pattern="Tesla T4")}, "nobody published kernels of h100"),
        ({"launch_us": 1.0}, "the data sheet of h100"),
    ],
)
def test_else_it_takes_the_data_sheet_and_says_why(published, options, reason):
    found, origin = source_of(**options)
    assert isinstance(found, DataSheetLatency) and reason in origin


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "float32"}, "predict.source=tables: the tables here are in 16 bits"),
        ({"gpu": GpuConfig(name_pattern="Tesla T4")}, "nobody published kernels of h100"),
        ({"gpu": GpuConfig()}, "name a GPU, such as gpu=h100-sxm"),
        ({"launch_us": 1.0}, "predict.launch_us says nothing of tables"),
    ],
)
def test_tables_that_are_asked_for_and_are_not_there_are_refused(published, options, reason):
    with pytest.raises(ConfigError, match=reason):
        source_of(source="tables", **options)


def test_without_a_network_the_data_sheet_is_taken_and_said(published, monkeypatch):
    def fail():
        raise AssetError("no network")

    monkeypatch.setattr(latency, "published", fail)
    found, origin = source_of()
    assert isinstance(found, DataSheetLatency) and "published tables cannot be had: no network" in origin
    with pytest.raises(AssetError, match="no network"):
        source_of(source="tables")


def test_a_profile_is_an_acceptance_of_a_prediction(tmp_path):
    (tmp_path / "rates.json").write_text(json.dumps({"rates": [0.8, 0.6]}))
    arguments = [
        "task=predict",
        "gpu=l4",
        "predict.source=data_sheet",
        f"predict.profile={tmp_path}/rates.json",
    ]
    done = run(*arguments)
    assert done.returncode == 0 and "x plain decoding" in done.stdout, done.stderr
    check_refused(
        run(*arguments, "predict.draft_length=9"), ["predict.draft_length=9", "the profile has 1, 2"]
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["task=gpus", "gpus.shape=gpt-9"], ["gpus.shape=gpt-9", "llama-3.1-8b"]),
        (["task=gpus", "gpus.batches=[0]"], ["gpus.batches", "at least 1"]),
        (["task=gpus", "gpus.target=x"], ["gpus.draft", "set together with gpus.target"]),
        (["task=gpus", "predict.profile=nowhere.yaml"], ["predict.profile=nowhere.yaml", "cannot be read"]),
        (
            ["task=predict", "gpu=l4", "predict.source=guess"],
            ["predict.source=guess", "tables or data_sheet"],
        ),
        (["task=gpus", "predict.profile=x", "predict.run=y"], ["predict.profile=x", "predict.run"]),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments, parts):
    check_refused(run(*arguments), parts)
