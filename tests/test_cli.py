"""The command line as a user meets it: a smoke run on real input, and wrong input."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.analysis.summary import SUMMARY_COLUMNS
from bench.config import Task
from bench.records import DecodeRecord, read_records

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair", ["smollm2-135m-mtp", "smollm2-135m-sibling"])
def test_the_other_shipped_pairs_run_and_are_exported(pair, tmp_path):
    results = f"results_dir={tmp_path}"
    chosen = ("domain=function_calling", "gpu=cpu", "dtype=float32", "timing.isolated=false", results)
    done = run("experiment=smoke", f"pair={pair}", *chosen)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "latest"
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {role for row in rows for role in row["role"].split("+")} >= {"plain", "full", "optimum", "paper"}
    for row in rows:
        assert row["pair"] == pair and float(row["identical_output_frac"]) == 1
        assert row["role"] == "plain" or float(row["replay_deviating_rounds"]) == 0
    done = run("task=export", "export.vocab_size=1024", results)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert all(f"{engine}: not loaded" in told for engine in ("vLLM", "SGLang", "llama.cpp"))
    (trimmed,) = tmp_path.glob("exports/*/exports/draft")
    assert (trimmed / "model.safetensors").exists()
    done = run("task=check", f"pair.draft={trimmed}")
    assert done.returncode == 0, done.stdout
    assert pair.endswith("mtp") or "its LM head has 1,024 of 49,152 tokens" in done.stdout


@pytest.mark.timeout(900)
def test_smoke_run_on_real_input(tmp_path):
    done = run("experiment=smoke", "measure.num_prompts=1", "gpu=cpu", f"results_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "latest"
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == SUMMARY_COLUMNS
    domains = ("code", "function_calling", "writing")
    assert {r["domain"] for r in rows} == set(domains)
    for domain in domains:
        roles = {role for r in rows if r["domain"] == domain for role in r["role"].split("+")}
        assert roles == {"plain", "full", "optimum", "paper"}
    for row in rows:
        assert float(row["tokens_per_s"]) > 0
        assert 1 <= float(row["mean_acceptance_length"]) <= 7
        if row["dtype"] == "float32":
            assert float(row["identical_output_frac"]) == 1
        if row["role"] != "plain":
            assert 0 < float(row["coverage_heldout"]) <= 1
            assert float(row["predicted_tokens_per_s"]) > 0
        if row["role"] != "plain" and row["dtype"] == "float32":
            assert float(row["replay_deviating_rounds"]) == 0
    decodes = [r for r in read_records(folder) if isinstance(r, DecodeRecord)]
    assert len(decodes) == len(rows)
    surface = pd.read_parquet(folder / "surface.parquet")
    assert len(surface) == 3 * 6 * (49152 - 3 + 1)
    assert surface["tokens_per_s"].notna().sum() == len(rows) - 3
    environment = json.loads((folder / "environment.json").read_text())
    assert set(environment["data"]) == set(domains)
    assert all(identity.startswith("sha256:") for identity in environment["data"].values())
    assert environment["hardware"]["memory_bytes_per_s"] > 0
    assert environment["pair"] == "smollm2-135m" and environment["packages"]["torch"]
    assert (folder / "config.yaml").read_text().startswith("pair:")
    for name in ("speedup", "surface", "draft_latency", "acceptance", "prediction", "cross_domain"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
    for domain in domains:
        assert f"{domain}: " in done.stdout
    again = run("task=report", f"results_dir={tmp_path}")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["domain=poetry"], ["unknown domain 'poetry'", "function_calling"]),
        (["gpu=h1000"], ["unknown gpu 'h1000'", "h100-sxm", "the index of a CUDA device"]),
        (["gpu=-1"], ["unknown gpu '-1'", "the index of a CUDA device"]),
        (["pair=gpt"], ["unknown pair 'gpt'", "smollm2-135m"]),
        (["domain=5"], ["unknown domain '5'", "jsonl"]),
        (["domain=null"], ["unknown domain 'null'"]),
        (["domain=[code,5]"], ["unknown domain '[code,5]'"]),
        (["domain="], ["unknown domain ''"]),
        (["domain=code,jsonl"], ["domain=code,jsonl is several values: -m runs one job for each"]),
        (["task=report", "hydra.run.dir=/dev/null/x"], ["/dev/null/x", "choose another hydra.run.dir"]),
        (["=code"], ["unknown key ''", "top-level keys are"]),
        (["pair=custom", "pair.target=/nowhere", "pair.draft=mtp"], ["'/nowhere' is no folder", "hub id"]),
        (["experiment=smok"], ["unknown experiment 'smok'", "smoke"]),
        (["measure.num_promts=3"], ["num_promts", "did you mean num_prompts"]),
        (["num_prompts=3"], ["unknown key 'num_prompts'; did you mean measure.num_prompts?"]),
        (["report"], ["cannot read 'report': write KEY=VALUE, such as task=report"]),
        (["target=a"], ["did you mean pair.target or gpus.target?"]),
        (["EXPERIMENT=smoke"], ["did you mean experiment?"]),
        (["vocab.sizes=4096"], ["vocab.sizes=4096 is impossible: a list is written vocab.sizes=[4096]"]),
        (["wat=1"], ["unknown key 'wat'", "top-level keys are"]),
        (["measure.num_prompts=many"], ["many"]),
        (["measure.draft_lengths=[0]"], ["measure.draft_lengths=0", "at least 1"]),
        (["vocab.sizes=[full,0]"], ["vocab.sizes=0"]),
        (["dtype=float16"], ["dtype=float16", "bfloat16"]),
        (["domain=jsonl"], ["domain.path=FILE"]),
        (["task=report", "run=nosuch"], ["run=nosuch is not a run"]),
        (["task=compare", "runs=[nosuch]"], ["run=nosuch is not a run"]),
        (["task=compare"], ["run=latest is not a run"]),
        (["task=diff", "diff.threshold=-1"], ["diff.threshold=-1", "at least 0"]),
        (["telemetry.mode=required", "gpu=cpu"], ["telemetry.mode=required", "this run is on the CPU"]),
        (["task=slect"], ["task=slect", "bench, select, export, selfcheck, fit, predict, report"]),
        (["select.trials=abc"], ["select.trials=abc: it must be a whole number"]),
        (["reference=maybe"], ["reference=maybe: it must be true or false"]),
        (["dtype=null"], ["dtype=null: it must not be null"]),
        (["--hlep"], ["unknown option --hlep", "did you mean --help?"]),
        (["--cfg", "values"], ["--cfg", "choose from", "--help"]),
        (["--cfg", "job", "task=fit"], ["task=fit stands after an option", "first or last"]),
        (["pair=custom"], ["pair.draft and pair.target are missing", "pair.target=...", "hub id"]),
        (["pair=custom", "pair.target=t"], ["pair.draft is missing: add pair.draft=..."]),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, parts, tmp_path):
    check_refused(run(f"results_dir={tmp_path}", *arguments), parts)


def test_help_explains_tasks_and_groups_on_one_screen():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 60
    first_words = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    groups = {path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")}
    said = Counter(word for word in first_words if word not in ("python", "launchers:"))
    assert said == Counter([*(task.name for task in Task), *groups])
    listed = set(done.stdout.replace(",", " ").split())
    for path in [*(ROOT / "conf").glob("*/*.yaml"), *(ROOT / "conf" / "hydra" / "launcher").glob("*.yaml")]:
        assert path.stem in listed
    for text in ("python -m bench -m domain=", "hydra/launcher=gpus", "experiment=smoke --cfg job"):
        assert text in done.stdout


def test_make_targets_sweep_too(tmp_path):
    # What `make report ARGS="-m run=a,b"` runs.
    done = run(
        *("task=report", "-m", "run=a,b", f"results_dir={tmp_path}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    )
    assert done.returncode == 2
    assert f"bench: 0 of 2 jobs of {tmp_path / 'sweep'} are done" in done.stderr.splitlines()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that is asked for")
def test_a_gpu_that_is_not_there(tmp_path):
    check_refused(run("gpu=0", f"results_dir={tmp_path}"), ["gpu=0", "gpu=cpu"])


def test_results_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    check_refused(run(f"results_dir={tmp_path / 'file'}"), ["cannot write", "results_dir"])


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (['{"prompt": "fine"}', "{broken"], ["mine.jsonl, line 2"]),
        ([""], ["holds no prompts"]),
        (
            ['{"prompt": "a single one"}'],
            ["domain jsonl: its only prompt is not held out", "give more prompts"],
        ),
    ],
)
def test_a_users_file_that_cannot_be_used(tmp_path, lines, parts):
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    done = run("domain=jsonl", f"domain.path={tmp_path / 'mine.jsonl'}", "gpu=cpu", f"results_dir={tmp_path}")
    check_refused(done, parts)


@pytest.mark.parametrize("size", [2, 60000])
def test_a_vocabulary_size_out_of_range(tmp_path, size):
    done = run("domain=code", f"measure.also_decode=['{size}:3']", "gpu=cpu", f"results_dir={tmp_path}")
    check_refused(done, [f"vocabulary size {size} is impossible", "49152"])


def check_refused(done: subprocess.CompletedProcess[str], parts: list[str]) -> None:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("bench: "), done.stderr
    for part in parts:
        assert part in lines[0]
