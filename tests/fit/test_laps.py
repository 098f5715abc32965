import numpy as np
import pytest

from bench.fit.errors import FitError
from bench.fit.laps import series_of_records
from bench.fit.series import draft_work
from bench.records import DecodeRecord
from tests.fit.synthetic import decoder_lm, smollm2_draft


def record(vocab_size: int, draft_length: int, laps_ms: dict) -> DecodeRecord:
    return DecodeRecord("code", "p1", vocab_size, draft_length, 0, 100, [1] * 40, [], 1.0, 1.0, laps_ms)


def rounds(vocab_size: int) -> DecodeRecord:
    """Two rounds of three drafted tokens."""
    return record(
        vocab_size,
        3,
        {
            "layer": [1.0, 2.0, 3.0, 4.0],
            "lm_head": [9.0, 0.1, 0.2, 9.0, 0.3, 0.4],
            "select": [7.0, 0.01, 0.02, 7.0, 0.03, 0.04],
            "verify": [30.0, 31.0],
            "extend": [5.0],
        },
    )


def test_a_chained_step_is_layer_head_and_selection_of_one_depth():
    found = series_of_records([rounds(512), rounds(1024)], "float32", smollm2_draft())
    step = found["draft_step"]
    assert step.work.sizes.tolist() == [512, 1024]
    assert step.samples_ms[0] == pytest.approx([1.11, 2.22, 3.33, 4.44])
    assert found["lm_head"].samples_ms[1].tolist() == [9.0, 0.1, 0.2, 9.0, 0.3, 0.4]
    assert set(found) == {"lm_head", "draft_step"}


def test_verification_is_by_tokens_and_pools_vocabularies():
    plain = record(49152, 0, {"verify": [20.0, 21.0]})
    found = series_of_records([plain, rounds(512), rounds(1024)], "float32", smollm2_draft(), decoder_lm())
    verify = found["verify"]
    assert verify.work.sizes.tolist() == [1, 4]
    assert [samples.tolist() for samples in verify.samples_ms] == [[20.0, 21.0], [30.0, 31.0, 30.0, 31.0]]


def test_work_is_in_the_dtype_and_at_the_mean_context():
    narrow, wide = (
        series_of_records([rounds(512)], dtype, smollm2_draft())["draft_step"].work
        for dtype in ("bfloat16", "float32")
    )
    assert wide.weight_bytes == pytest.approx(2 * narrow.weight_bytes)
    # a prompt of 100 tokens and half of an answer of 40
    expected = draft_work(smollm2_draft(), "draft_step", np.array([512]), 120)
    assert narrow.total_bytes == pytest.approx(expected.total_bytes)
    assert wide.flops == pytest.approx(narrow.flops) == expected.flops


def test_one_token_a_round_has_no_chained_step():
    single = record(512, 1, {"lm_head": [0.1], "select": [0.01], "verify": [30.0], "extend": [5.0]})
    assert set(series_of_records([single], "float32", smollm2_draft())) == {"lm_head"}


def test_a_run_without_a_draft_is_refused():
    with pytest.raises(FitError, match="the run timed no draft"):
        series_of_records([record(49152, 0, {"verify": [20.0]})], "float32", smollm2_draft())
