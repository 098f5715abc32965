import json

import pytest

from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.records import FILE_NAME
from tests.report.synthetic import FULL, write_run


def answer_of(folder):
    (answer,) = Findings.of(read_run(folder)).answers
    return answer


def test_a_faster_trimmed_draft_is_advised(tmp_path):
    answer = answer_of(write_run(tmp_path, {100: 5.5, 10: 0.5}))
    assert answer.over_full.decoded.value == pytest.approx(99 / 69)
    assert answer.sentence() == (
        "code: trim to 10 tokens (90.0% fewer), gamma = 3: 1.43x [1.43, 1.43] as fast as the full-vocabulary "
        "draft, 2.32x [2.32, 2.32] as fast as plain decoding."
    )
    details = " ".join(answer.details())
    for part in (
        "between k = 10 and 10, gamma = 3 and 3",
        "from 10 to 10 tokens",
        "k* = 20",
        "4.6% slower",
        "keeps 69.4%",
        "it keeps 100.0%",
    ):
        assert part in details, part


def test_a_slower_trimmed_draft_is_advised_against(tmp_path):
    answer = answer_of(write_run(tmp_path, {100: 0.5, 10: 2.5}))
    assert answer.sentence().startswith("code: do not trim: the best trimmed draft, 10 tokens")


def test_no_difference_is_ambiguous(tmp_path):
    assert answer_of(write_run(tmp_path, {100: 0.5, 10: 0.5})).sentence().startswith("code: ambiguous")


def test_speculation_that_does_not_pay_is_said(tmp_path):
    answer = answer_of(write_run(tmp_path, {100: 90.0, 10: 60.0}))
    assert answer.sentence().endswith("speculation itself is not a clear gain here.")


def test_the_full_vocabulary_may_be_the_optimum(tmp_path):
    folder = write_run(tmp_path, {100: 0.5, 10: 2.5})
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    for values in lines:
        if values["kind"] == "plan":
            values["variants"] = [[FULL, 0, "plain"], [FULL, 3, "full+optimum"], [20, 3, "paper"]]
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert answer_of(folder).sentence().startswith("code: do not trim: the full vocabulary is fastest")
