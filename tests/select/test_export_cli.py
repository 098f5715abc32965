"""`task=export` on the example run: what it measured is what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from bench.records import (
    DecodeRecord,
    RankingRecord,
    RecordWriter,
    ReplayRecord,
    ServedRecord,
    read_records,
)
from bench.variant import Variant
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
    # Beyond the tokens that were counted, the lowest other ids follow.
    order = ranking.seen_ids + sorted(set(range(49152)) - set(ranking.seen_ids))
    vocab = load_file(out / "exports" / "draft_vocab.safetensors")
    ids = np.arange(size) + vocab["d2t"].numpy()
    assert ids.tolist() == sorted(order[:size])
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


def test_says_what_is_accepted_for_load_tests(exported):
    """As the rounds of all replayed answers count it."""
    out, _ = exported
    size, gamma = decoded_optimum()
    profile = json.loads((out / "exports" / "speculation_profile.json").read_text("utf-8"))
    assert profile["num_speculative_tokens"] == gamma
    assert profile["draft_checkpoint"]["draft_vocab_size"] == size
    replays = [r for r in read_records(EXAMPLE) if isinstance(r, ReplayRecord)]
    ours = [r.replayed() for r in replays if r.domain == r.source == "code" and len(r.token_ids) > 1]
    accepted = [count for item in ours for count in item.accepted_by_round(Variant(size, gamma))]
    assert profile["mean_accept_length"] == pytest.approx(1 + sum(accepted) / len(accepted), rel=1e-4)
    synthetic = json.loads((out / "exports" / "vllm_synthetic.json").read_text("utf-8"))
    assert synthetic["model"] == str(out / "exports" / "draft")
    assert len(synthetic["synthetic_acceptance_rates"]) == synthetic["num_speculative_tokens"] == gamma


def test_a_schedule_needs_speeds_in_another_engine(exported):
    out, _ = exported
    schedule = json.loads((out / "export.json").read_text("utf-8"))["schedule"]
    assert "no other engine decoded" in schedule["why_not"]
    assert not (out / "exports" / "vllm_schedule.json").exists()


def test_a_schedule_of_what_another_engine_decoded(tmp_path, monkeypatch):
    """At one request the draft is faster, at eight plain decoding."""
    folder = tmp_path / "run"
    shutil.copytree(EXAMPLE, folder)
    size, gamma = decoded_optimum()
    full = max(r.vocab_size for r in read_records(EXAMPLE) if isinstance(r, DecodeRecord))
    writer = RecordWriter(folder)
    for process in (0, 1):
        for k, length, concurrency, wall_ms in (
            (full, 0, 1, 100.0), (size, gamma, 1, 50.0), (full, 0, 8, 20.0), (size, gamma, 8, 40.0),
        ):  # fmt: skip
            writer.append(
                ServedRecord(
                    engine="vllm", domain="code", vocab_size=k, draft_length=length, concurrency=concurrency,
                    process=process, engine_version="0.32.0", load_s=1.0, wall_ms=wall_ms, prompt_ids=["x"],
                    token_ids=[[1, 2, 3]], num_new=[[1, 2]], at_ms=[[1.0, 2.0]], counters={},
                )
            )  # fmt: skip
    writer.close()
    out = tmp_path / "out"
    done = run_here(monkeypatch, "task=export", f"run={folder}", f"out={out}", "export.domain=code")
    assert done.returncode == 0, done.stderr
    settings = json.loads((out / "exports" / "vllm_schedule.json").read_text("utf-8"))
    assert settings["num_speculative_tokens_per_batch_size"] == [[1, 2, gamma], [3, 8, 0]]
    assert settings["num_speculative_tokens"] == gamma and settings["method"] == "eagle3"
    assert settings["model"] == str(out / "exports" / "draft")
    said = json.loads((out / "export.json").read_text("utf-8"))["schedule"]
    assert said["basis"].startswith("tokens/s measured in vllm 0.32.0")
    assert said["loss_at"] == {"1": 0.0, "8": 0.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export.domain=code", "export.draft_length=99"], "the run replayed rounds of at most"),
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


def test_an_export_of_a_run_that_has_not_ended_says_so(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(EXAMPLE, folder)
    lines = (folder / "records.jsonl").read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if '"kind": "end"' not in line and '"kind":"end"' not in line]
    (folder / "records.jsonl").write_text("".join(kept), "utf-8")
    out = tmp_path / "out"
    done = run_here(
        monkeypatch,
        "task=export",
        f"run={folder}",
        f"out={out}",
        "export.domain=code",
        "select.checkpoint=false",
    )
    assert done.returncode == 0, done.stderr
    assert len(kept) == len(lines) - 1 and "run is unfinished" in done.stdout
    assert json.loads((out / "export.json").read_text("utf-8"))["run_has_ended"] is False
