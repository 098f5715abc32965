"""A run stopped after any record: its report is drawn from whole prompts, or refused in words."""

import json
from dataclasses import replace

import pytest

from bench.analysis.doubts import doubts
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.analysis.summary import summary_frame
from bench.analysis.surfaces import Surfaces, cross_frame
from bench.errors import OutputError
from bench.records import FILE_NAME
from bench.variant import Variant
from tests.report.synthetic import FULL, write_run

HEAD = 7  # rankings, replays and the plan
PER_PROMPT = 6  # probes and decodes
NUM_PROBES = 2


@pytest.fixture
def stop_after(tmp_path):
    """Reads a run of two domains whose file ends after so many lines."""
    folder = write_run(tmp_path / "run")
    found = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    code = [values for values in found if values["kind"] != "end"]
    writing = [{**v, "domain": "writing"} for v in code if v["kind"] not in ("ranking", "isolated")]
    lines = [json.dumps(values) for values in (*code, *writing)]

    def stop(num_lines: int, torn: str = ""):
        (folder / FILE_NAME).write_text("".join(f"{line}\n" for line in lines[:num_lines]) + torn)
        return read_run(folder)

    return stop


@pytest.mark.parametrize("num_lines", range(HEAD + PER_PROMPT))
def test_before_the_first_whole_prompt_there_is_nothing_to_draw(stop_after, num_lines):
    with pytest.raises(OutputError, match="nothing to compare"):
        stop_after(num_lines)


@pytest.mark.parametrize("num_lines", range(HEAD + PER_PROMPT, HEAD + 2 * PER_PROMPT + 2))
def test_only_whole_prompts_count(stop_after, num_lines):
    run = stop_after(num_lines)
    num_prompts = 1 if num_lines < HEAD + 2 * PER_PROMPT else 2
    assert set(summary_frame(Surfaces(run))["num_prompts"]) == {num_prompts}


def test_a_torn_line_is_a_prompt_not_measured(stop_after):
    run = stop_after(HEAD + 2 * PER_PROMPT - 1, torn='{"schema": 2, "kind": "decode", "domain": "co')
    assert list(run.decodes["code"][Variant(FULL, 0)]) == ["p1"]


@pytest.mark.parametrize("num_lines", range(HEAD + PER_PROMPT, HEAD + 2 * PER_PROMPT + 18, 3))
def test_the_finished_domain_keeps_its_verdict(stop_after, num_lines):
    sentence = Findings.of(stop_after(num_lines)).answers[0].sentence()
    # One prompt says nothing of its spread; the second one is probed before it is decoded.
    is_firm = num_lines >= HEAD + PER_PROMPT + NUM_PROBES
    assert sentence.startswith("code: trim to 10 tokens" if is_firm else "code: INVALID: the interval")


def test_a_domain_without_measurements_is_left_out(stop_after):
    assert list(stop_after(HEAD + 2 * PER_PROMPT + 6).decodes) == ["code"]
    assert list(stop_after(1000).decodes) == ["code", "writing"]


def test_an_unfinished_run_says_so_and_what_it_has(stop_after):
    run = stop_after(HEAD + PER_PROMPT)
    (doubt,) = [doubt for doubt in doubts(run) if doubt.code == "unfinished"]
    assert "code: 1 prompt)" in doubt.what and "resumes the run" in doubt.remedy


def test_a_domain_that_was_not_decoded_yet_has_no_size_of_its_own(stop_after):
    run = stop_after(HEAD + 2 * PER_PROMPT)
    config = {**run.config, "domain": {"members": {"code": {}, "writing": {}}}}
    rankings = {**run.rankings, "writing": run.rankings["code"]}
    replays = {"code": {**run.replays["code"], "writing": run.replays["code"]["code"]}}
    cut = replace(run, config=config, rankings=rankings, replays=replays)
    assert cross_frame(Surfaces(cut))["source"].tolist() == ["code", "pooled"]
