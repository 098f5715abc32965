import pytest

from bench.report.frames import read_run
from bench.report.verdict import verdicts
from tests.report.synthetic import write_run


def only_verdict(folder, head_ms):
    (verdict,) = verdicts(read_run(write_run(folder, head_ms)))
    return verdict


def test_a_faster_trimmed_draft_is_advised(tmp_path):
    verdict = only_verdict(tmp_path, {100: 5.5, 10: 0.5})
    assert verdict.is_faster
    assert verdict.over_full.value == pytest.approx(99 / 69)
    assert verdict.sentence() == (
        "code: trim to 10 tokens (90.0% fewer), gamma = 3: 1.43x [1.43, 1.43] as fast as the full-vocabulary "
        "draft, 2.32x [2.32, 2.32] as fast as plain decoding."
    )


def test_a_slower_trimmed_draft_is_advised_against(tmp_path):
    verdict = only_verdict(tmp_path, {100: 0.5, 10: 2.5})
    assert not verdict.is_faster
    assert verdict.sentence().startswith("code: do not trim: the best trimmed draft, 10 tokens")


def test_no_difference_is_ambiguous(tmp_path):
    verdict = only_verdict(tmp_path, {100: 0.5, 10: 0.5})
    assert verdict.sentence().startswith("code: ambiguous")


def test_speculation_that_does_not_pay_is_said(tmp_path):
    verdict = only_verdict(tmp_path, {100: 90.0, 10: 60.0})
    assert verdict.sentence().endswith("speculation itself is not a clear gain here.")
