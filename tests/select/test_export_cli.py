"""`task=export` on the example run: what it measured is what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from bench.records import RankingRecord, read_records
from tests.select.in_process import run_here
from tests.test_cli import run

EXAMPLE = Path(__file__).parents[2] / "results" / "example"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "code"
    done = run("task=export", f"run={EXAMPLE}", f"out={out}", "export.domain=code")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def decoded_optimum() -> tuple[int, int]:
    plans = (json.loads(line) for line in (EXAMPLE / "records.jsonl").read_text("utf-8").splitlines())
    plan = next(item for item in plans if item["kind"] == "plan" and item["domain"] == "code")
    return next((k, gamma) for k, gamma, role in plan["variants"] if "optimum" in role)


def test_exports_the_tokens_that_were_measured(exported):
    out, _ = exported
    size, _ = decoded_optimum()
    ranking = next(r for r in read_records(EXAMPLE) if isinstance(r, RankingRecord) and r.source == "code")
    assert size < len(ranking.seen_ids)
    vocab = load_file(out / "exports" / "draft_vocab.safetensors")
    ids = np.arange(size) + vocab["d2t"].numpy()
    assert ids.tolist() == sorted(ranking.seen_ids[:size])
    draft = load_file(out / "exports" / "draft" / "model.safetensors")
    assert draft["lm_head.weight"].shape == (size, 576)
    assert draft["d2t"].tolist() == vocab["d2t"].tolist()


def test_says_how_to_serve_it(exported):
    out, printed = exported
    size, gamma = decoded_optimum()
    summary = json.loads((out / "export.json").read_text("utf-8"))
    assert (summary["vocab_size"], summary["draft_length"], summary["domain"]) == (size, gamma, "code")
    assert summary["run"] == EXAMPLE.name
    assert f'"num_speculative_tokens": {gamma}' in summary["serve"]["vLLM"]
    assert str(out / "exports" / "draft") in summary["serve"]["SGLang"]
    assert summary["serve"]["vLLM"] in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export.domain=poetry"], "measured code, function_calling, writing"),
        (["export.domain=code", "export.vocab_size=2"], "vocabulary size 2 is impossible"),
        (["export.domain=code", "export.vocab_size=0"], "export.vocab_size=0"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, arguments, said):
    done = run_here(monkeypatch, "task=export", f"run={EXAMPLE}", f"out={tmp_path / 'out'}", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_another_draft_than_the_measured_one_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "run"
    shutil.copytree(EXAMPLE, changed)
    environment = json.loads((changed / "environment.json").read_text("utf-8"))
    environment["draft_fingerprint"] = "0" * 64
    (changed / "environment.json").write_text(json.dumps(environment), "utf-8")
    done = run_here(monkeypatch, "task=export", f"run={changed}", f"out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "has changed since run measured it" in done.stderr
