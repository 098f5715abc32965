"""Claims: what a `claim.json` says, what verifies it, and every way in which one is refused."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.analysis import claims
from bench.analysis.claims import RefusedClaimError, verify, write_claims
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.errors import ConfigError, OutputError
from bench.records import read_records
from bench.report.tasks import report_runs
from bench.surface import latency
from bench.surface.pace import Pace
from tests.report.synthetic import write_run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "results" / "example"


@pytest.fixture
def folder(tmp_path):
    """A run with its claim."""
    folder = write_run(tmp_path / "run")
    write_claims([Findings.of(read_run(folder))], folder)
    return folder


def content(folder):
    return json.loads((folder / "claim.json").read_text())


def changed(folder, change):
    claim = content(folder)
    change(claim)
    (folder / "claim.json").write_text(json.dumps(claim))
    return folder


def test_a_run_at_the_speed_of_another_says_so_and_is_verified(folder, monkeypatch):
    (own,) = Findings.of(read_run(folder)).answers
    assert own.at_speed == (
        "Estimates are at this run's own speed: the whole head took 5.5 ms, small ones 0.5 ms; on single "
        "prompts the whole one 5.5 to 5.5 ms."
    )
    assert claims.pace_of(folder) == {"whole_head_ms": 5.5, "small_heads_ms": 0.5}
    path = folder / "environment.json"
    reference = {"run": "20260101-000000-pair", "whole_head_ms": 9.0, "small_heads_ms": 0.5}
    path.write_text(json.dumps({**json.loads(path.read_text()), "reference": reference}))
    (few,) = Findings.of(read_run(folder)).answers
    assert few.at_speed.startswith(
        "Estimates are at this run's own speed, as fewer than 16 prompts were probed: the whole head took"
    )
    monkeypatch.setattr(latency, "LEAST_STRETCHES", 2)
    found = Findings.of(read_run(folder))
    assert found.answers[0].at_speed == (
        "Estimates are at the speed that run 20260101-000000-pair had: the whole head took 9 ms, small ones "
        "0.5 ms. Here the whole head took 5.5 ms, small ones 0.5 ms; on single prompts the whole one 5.5 to "
        "5.5 ms. "
        "At the nearest that was met the whole head took 5.5 ms, small ones 0.5 ms."
    )
    assert found.surfaces.latency_as_met("code").reference is None
    assert found.surfaces.latency["code"].reference == Pace(5.5, 0.5)
    write_claims([found], folder)
    assert verify(folder)[-1].startswith("verified: 2 headlines")
    assert {line["whole_head_ms"] for line in content(folder)["runs"][0]["headlines"]} == {5.5}


def test_a_claim_holds_figure_interval_counts_conditions_and_hashes(folder):
    claim = content(folder)
    (run,) = claim["runs"]
    over_full, over_plain = run["headlines"]
    assert over_full["sentence"] == (
        "code: k = 10, gamma = 3 is 1.43x [1.43, 1.43] as fast as the full vocabulary, gamma = 3"
    )
    assert over_full["value"] == 1.434783 and over_plain["value"] == 2.318841  # 99 / 69 and 160 / 69
    assert over_full["over"] == {"vocab_size": 100, "draft_length": 3}
    counts = ("num_prompts", "num_blocks", "num_processes", "num_prompts_decoded")
    assert [over_full[name] for name in counts] == [2, 2, 1, 2]
    limits = {item["name"]: item["limit"] for item in over_full["conditions"]}
    assert limits["half_width"] == 0.25 and limits["foreign_load"] == 0.1 and "drift" not in limits
    assert "drift" in {item["name"] for item in over_plain["conditions"]}
    assert set(run["sha256"]) == {"records.jsonl", "environment.json", "config.yaml"} and run["folder"] == "."


def test_records_of_format_2_give_the_same_surface_and_claim(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "old")
    lines = [{"schema": 2, "kind": r.kind, **asdict(r)} for r in read_records(folder)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    assert text != (folder / "records.jsonl").read_text()
    (tmp_path / "old" / "records.jsonl").write_text(text)
    old, new = (Findings.of(read_run(place)) for place in (tmp_path / "old", folder))
    pd.testing.assert_frame_equal(old.tables()["sizes"], new.tables()["sizes"], check_exact=True)
    for name in ("tokens_per_s", "num_rounds", "num_accepted", "prompt_left_out", "block_left_out"):
        assert np.array_equal(getattr(old.surface("code"), name), getattr(new.surface("code"), name))
    found = [claims.claims_of([item], item.run.folder)["runs"][0]["headlines"] for item in (old, new)]
    assert found[0] == found[1] and len(found[0]) == 2


def test_it_is_verified_where_it_lies_and_moved_with_its_records(folder, tmp_path):
    lines = verify(folder / "claim.json")
    assert lines[0].startswith("code: k = 10, gamma = 3 is 1.43x") and "verified: 2 headlines" in lines[-1]
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "claim.json"
    shutil.move(folder / "claim.json", moved)
    with pytest.raises(OutputError, match="its run is neither in .* nor below"):
        verify(moved)
    shutil.copytree(folder, tmp_path / "elsewhere" / "runs" / "renamed")
    assert verify(moved)[:2] == lines[:2]


def test_the_claim_of_a_page_finds_its_run(folder, tmp_path):
    report_runs([folder], folder.parent, tmp_path / "reports", None, Console(file=io.StringIO()))
    claim = tmp_path / "reports" / "run" / "claim.json"
    assert json.loads(claim.read_text())["runs"][0]["folder"] == "../../run"
    assert "verified" in verify(claim.parent)[-1]


@pytest.mark.parametrize("name", ["records.jsonl", "environment.json", "config.yaml"])
def test_a_changed_file_of_the_run_is_refused(folder, name):
    with (folder / name).open("a") as file:
        file.write("\n")
    with pytest.raises(RefusedClaimError, match=rf"{name} is not the file that the claim was made from"):
        verify(folder)


def test_a_file_that_came_or_went_is_refused(folder):
    (folder / "telemetry.jsonl").write_text("")
    with pytest.raises(RefusedClaimError, match=r"telemetry\.jsonl is not the file"):
        verify(folder)


def places(value, where=()):
    """Every number and text of a claim."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*where, key))
    else:
        yield where


def altered(value):
    if value is None or isinstance(value, bool):
        return not value
    return value + 1e-6 if isinstance(value, float) else value + 1 if isinstance(value, int) else value + "0"


def test_any_value_that_was_changed_is_refused_in_one_line(folder):
    original = content(folder)
    found = list(places(original))
    assert len(found) > 60
    for where in found:
        claim = json.loads(json.dumps(original))
        *path, last = where
        level = claim
        for key in path:
            level = level[key]
        level[last] = altered(level[last])
        (folder / "claim.json").write_text(json.dumps(claim))
        with pytest.raises((RefusedClaimError, OutputError, ConfigError)) as raised:
            verify(folder)
        assert "\n" not in str(raised.value)


def test_a_digit_of_a_figure_is_named_with_what_the_records_say(folder):
    def change(claim):
        claim["runs"][0]["headlines"][0]["value"] = 1.434784

    text = r"runs\[0\]\.headlines\[0\]\.value is claimed to be 1\.434784, the records say 1\.434783"
    with pytest.raises(RefusedClaimError, match=text) as raised:
        verify(changed(folder, change))
    assert raised.value.exit_code == 1


def test_a_headline_that_was_left_out_or_added_is_refused(folder):
    changed(folder, lambda claim: claim["runs"][0]["headlines"].pop())
    with pytest.raises(RefusedClaimError, match="headlines is claimed"):
        verify(folder)


def test_a_claim_of_another_method_is_refused_and_of_the_same_method_is_not(folder, monkeypatch):
    monkeypatch.setattr(claims, "METHOD", claims.METHOD + 1)
    text = (
        f"was computed by method {claims.METHOD - 1} of version .* verify it with the program that wrote it"
    )
    with pytest.raises(OutputError, match=text):
        verify(folder)
    monkeypatch.undo()
    monkeypatch.setattr(claims, "__version__", "99")
    assert "made by version" in verify(folder)[-1]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tool": "other"}', '{"tool": "vocabtrim-bench"}', "\xff"])
def test_what_is_no_claim_is_refused(tmp_path, text):
    (tmp_path / "claim.json").write_text(text, "latin-1")
    with pytest.raises(ConfigError, match=r"claim=.*claim\.json"):
        verify(tmp_path / "claim.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        verify(tmp_path / "nosuch.json")


def test_the_example_s_claim_is_derived_from_its_records_and_verified(tmp_path):
    claim = claims.claims_of([Findings.of(read_run(EXAMPLE))], EXAMPLE)
    assert claim == json.loads((EXAMPLE / "claim.json").read_text("utf-8"))


def test_the_command_line_verifies_without_torch():
    code = (
        "import sys; sys.argv[1:] = ['task=verify', 'claim=results/example']\n"
        "from bench.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    headlines = content(EXAMPLE)["runs"][0]["headlines"]
    assert f"verified: {len(headlines)} headlines of results/example/claim.json" in done.stdout
