"""A run stopped after any record: its report is drawn from whole prompts, or refused in words."""

import json

import pytest

from bench.errors import OutputError
from bench.records import FILE_NAME
from bench.report.frames import latency_frame, read_run, summary_frame
from bench.report.verdict import verdicts
from tests.report.synthetic import FULL, write_run


@pytest.fixture
def stop_after(tmp_path):
    """Reads a run of two domains whose file ends after so many lines."""
    folder = write_run(tmp_path / "run")
    code = (folder / FILE_NAME).read_text().splitlines()
    lines = [*code, *(json.dumps({**json.loads(line), "domain": "writing"}) for line in code)]

    def stop(num_lines: int, torn: str = ""):
        (folder / FILE_NAME).write_text("".join(f"{line}\n" for line in lines[:num_lines]) + torn)
        return read_run(folder)

    return stop


@pytest.mark.parametrize("num_lines", [0, 1, 2])
def test_before_the_first_measurement_there_is_nothing_to_draw(stop_after, num_lines):
    with pytest.raises(OutputError, match="holds no measurement yet"):
        stop_after(num_lines)


@pytest.mark.parametrize(("num_lines", "num_prompts"), [(5, 1), (6, 1), (7, 1), (8, 2), (9, 2)])
def test_only_whole_prompts_count(stop_after, num_lines, num_prompts):
    run = stop_after(num_lines)
    assert set(summary_frame(run, latency_frame(run))["num_prompts"]) == {num_prompts}


def test_a_torn_line_is_a_prompt_not_measured(stop_after):
    run = stop_after(7, torn='{"schema": 1, "kind": "decode", "domain": "co')
    assert list(run.decodes["code"][FULL, 0]) == ["p1"]


@pytest.mark.parametrize("num_lines", range(5, 19))
def test_the_finished_domain_keeps_its_verdict(stop_after, num_lines):
    assert verdicts(stop_after(num_lines))[0].sentence().startswith("code: trim to 10 tokens")


def test_a_domain_without_measurements_is_left_out(stop_after):
    assert list(stop_after(11).decodes) == ["code"]
    assert list(stop_after(18).decodes) == ["code", "writing"]
