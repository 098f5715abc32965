"""Inputs that once ended in a traceback or a wrong figure."""

import itertools
import json
from functools import partial

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.cli import CONF, explain
from bench.config import (
    Config,
    DomainConfig,
    DomainSource,
    Execution,
    GpuConfig,
    MeasureConfig,
    PairConfig,
    Source,
    TimingConfig,
    VocabConfig,
)
from bench.errors import ConfigError, DeviceError, DomainError, OutputError
from bench.records import FILE_NAME, BaselineRecord, DecodeRecord, RecordWriter, read_records
from bench.runs import bench as bench_run
from bench.runs.repeats import Part
from bench.runs.run import _run_on_locked_device
from bench.stats.estimates import median
from bench.text import embedded, load_prompts
from tests.report.synthetic import FULL, write_run
from tests.synthetic_run import append_records


def test_a_full_disk_keeps_its_own_message_through_closing(tmp_path):
    (tmp_path / FILE_NAME).symlink_to("/dev/full")
    writer = RecordWriter(tmp_path)
    with pytest.raises(OutputError, match="No space left"):
        try:
            writer.append(BaselineRecord("code", "p", 1, 1.0, 1.0))
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"3\n{}\n", "line 1: not a record"),
        (b'{"schema": 2, "kind": "plan"}\n', "line 1: not a plan record"),
        (b'{"schema": 1, "kind": ["x"]}\n', "line 1: schema 1"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_a_damaged_records_file_is_named(tmp_path, text, reason):
    (tmp_path / FILE_NAME).write_bytes(text)
    with pytest.raises(OutputError, match=reason):
        list(read_records(tmp_path))


def test_a_damaged_config_is_named(tmp_path):
    (write_run(tmp_path) / "config.yaml").write_text("a: [1")
    with pytest.raises(OutputError, match="not a run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("config.yaml", "5", "is not a run: config.yaml holds no names and values"),
        ("config.yaml", "{}", "config.yaml lacks 'measure'"),
        ("config.yaml", "measure: {}", "config.yaml lacks 'seed'"),
        ("environment.json", "[]", "is not a run: environment.json holds no names and values"),
        ("environment.json", "x", "is not a run: environment.json is damaged; copy the whole folder"),
        ("environment.json", "{}", "environment.json lacks 'full_vocab_size'"),
    ],
)
def test_settings_that_lack_what_is_read_are_named(tmp_path, name, text, reason):
    (write_run(tmp_path) / name).write_text(text)
    with pytest.raises(OutputError, match=reason):
        _ = read_run(tmp_path).seed


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MeasureConfig([3], 1, 8, seed=-1), "measure.seed=-1"),
        (lambda: VocabConfig(["\u00b2"]), "vocab.sizes=\u00b2"),
        (lambda: GpuConfig("cuda:\u00b2"), "gpu.device=cuda:\u00b2"),
    ],
)
def test_values_that_only_failed_later(make, name):
    with pytest.raises(ConfigError, match=name):
        make()


@pytest.mark.parametrize("n", [2, 4, 6])
def test_the_medians_interval_encloses_that_of_all_resamples(n):
    samples = np.arange(float(n))
    medians = np.sort(np.median(list(itertools.product(samples, repeat=n)), axis=1))
    shares = np.arange(1, len(medians) + 1) / len(medians)
    low, high = medians[np.searchsorted(shares, [0.025, 0.975])]
    estimate = median(samples)
    assert estimate.ci_low in (low, low - 0.5)
    assert estimate.ci_high in (high, high + 0.5)


@pytest.mark.parametrize("n", [6, 20, 61, 100])
def test_the_medians_interval_of_symmetric_samples_is_symmetric(n):
    estimate = median(np.arange(float(n)))
    assert estimate.ci_low + estimate.ci_high == n - 1


@pytest.mark.filterwarnings("error")
def test_an_answer_that_is_only_its_end_token_measures_nothing(tmp_path):
    folder = write_run(tmp_path)
    variants, time_ms = ((FULL, 0), (FULL, 3), (10, 3), (20, 3)), {0: 0.0, 3: 4.0}
    append_records(
        folder,
        [
            DecodeRecord("code", "p3", size, gamma, 1, 20, [1], [], time_ms[gamma], time_ms[gamma], {})
            for size, gamma in variants
        ],
    )
    (answer,) = Findings.of(read_run(folder)).answers
    assert answer.sentence().startswith("code: trim to 10 tokens")
    decoded = answer.over_full.decoded
    assert (decoded.ci_low, decoded.ci_high) == pytest.approx((99 / 69, 99 / 69))


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85"])
def test_json_texts_may_hold_unicode_line_separators(tmp_path, char):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": f"a{char}b", "query": f"a{char}b"}, ensure_ascii=False) + "\n")
    assert load_prompts(DomainSource("mine", Source.file, str(path)))[0].messages[0].content == f"a{char}b"
    assert embedded.read_rows(path)[0]["query"] == f"a{char}b"
    path.write_text(json.dumps({"index": 1, "query": f"word{char} " * 2 + "x" * 99}, ensure_ascii=False))
    assert len(embedded.load_writing_bench(path)) == 1


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n', "utf-8-sig")
    assert (
        load_prompts(DomainSource("mine", Source.file, str(tmp_path / "mine.jsonl")))[0].messages[0].content
        == "a"
    )


def test_half_an_emoji_is_a_broken_line(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a\\ud83d"}\n')
    with pytest.raises(DomainError, match="not valid Unicode .first: .*line 2;"):
        load_prompts(DomainSource("mine", Source.file, str(tmp_path / "mine.jsonl")))


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("wat=1", "unknown key 'wat'; top-level keys are"),
        ("measure.num_promts=3", "did you mean num_prompts"),
    ],
)
def test_an_unknown_key_is_explained(override, hint):
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(Exception) as caught:
        compose("config", [override])
    assert hint in explain(caught.value)


def test_graphs_are_refused_on_a_cpu_before_models_are_loaded(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(bench_run, "load_prompts", lambda source: loaded.append(source))
    monkeypatch.setattr(bench_run, "load_pair", lambda *_: loaded.append("pair"))
    config = Config(
        PairConfig("p", "t", "d"),
        DomainConfig("code", Source.human_eval),
        GpuConfig("cpu"),
        VocabConfig(["full"]),
        MeasureConfig([1], 1, 8),
        TimingConfig(execution=Execution.graph),
        results_dir=str(tmp_path),
    )
    with pytest.raises(DeviceError, match="has no CUDA graphs; use timing.execution=eager"):
        prepare = partial(bench_run._prepare, part=Part())
        _run_on_locked_device(config, prepare, Console(quiet=True), Part())
    assert loaded == [] and list(tmp_path.iterdir()) == []
