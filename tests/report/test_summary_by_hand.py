"""One trimmed variant with uneven acceptance: every column of its row, computed by hand."""

import pytest

from bench.records import FILE_NAME, RecordWriter, VocabRecord
from bench.report.frames import SUMMARY_COLUMNS, latency_frame, read_run, summary_frame
from tests.report.synthetic import FULL, decode, write_run


@pytest.fixture
def run(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / FILE_NAME).unlink()
    writer = RecordWriter(folder)
    writer.append(VocabRecord("code", FULL, None, 1.0, 40, 9, "full"))
    writer.append(VocabRecord("code", 4, [1, 10, 11, 99], 0.75, 40, 9, "four"))
    for prompt in ("p1", "p2"):
        writer.append(decode(prompt, FULL, 0, [], 20.0, 0))
        writer.append(decode(prompt, FULL, 3, [3, 3], 24.0, 5.5))
    writer.append(decode("p1", 4, 3, [3, 3], 24.0, 0.5))
    writer.append(decode("p2", 4, 3, [2, 1, 2], 24.0, 0.5))
    writer.close()
    return read_run(folder)


def test_every_column_of_a_trimmed_row(run):
    summary = summary_frame(run, latency_frame(run))
    (row,) = summary[summary["vocab_size"] == 4].to_dict("records")
    # p1: 4 prefill + 6 * (0.5 + 0.5) + 4 * 2 layer + 2 * 24 verify + 3 extend = 69 ms;
    # p2: 4 prefill + 9 * (0.5 + 0.5) + 6 * 2 layer + 3 * 24 verify + 2 * 3 extend = 103 ms; the full
    # vocabulary takes 99 ms for each, plain decoding 160 ms.
    low, high = row.pop("speedup_vs_full_vocab_ci_low"), row.pop("speedup_vs_full_vocab_ci_high")
    expected = {
        "pair": "synthetic-pair",
        "domain": "code",
        "device_name": "synthetic device",
        "dtype": "float32",
        "vocab_size": 4,
        "draft_length": 3,
        "coverage_train": 0.75,
        "coverage_heldout": pytest.approx(3 / 9),
        "draft_step_ms": 3.0,
        "lm_head_ms": 0.5,
        "verify_ms": 24.0,
        "acceptance_rate": pytest.approx(11 / 15),
        "mean_acceptance_length": pytest.approx(1 + 11 / 5),
        "tokens_per_s": pytest.approx(16 / 172 * 1e3),
        "speedup_vs_autoregressive": pytest.approx(320 / 172),
        "speedup_vs_full_vocab": pytest.approx(198 / 172),
        "identical_output_frac": 1.0,
        "num_prompts": 2,
        "num_tokens": 16,
    }
    assert row == expected
    assert [name for name in SUMMARY_COLUMNS if "_ci_" not in name] == list(expected)
    # With two prompts the extreme resamples are twice p2 and twice p1.
    assert (low, high) == (pytest.approx(99 / 103), pytest.approx(99 / 69))


def test_latencies_are_pooled_over_prompts_and_counted(run):
    latency = latency_frame(run)
    chosen = latency[(latency["vocab_size"] == 4) & (latency["draft_length"] == 3)]
    counts = dict(zip(chosen["part"], chosen["num_samples"], strict=True))
    # Five rounds of three drafted tokens; no extend after the last round of each prompt.
    assert counts == {"lm_head": 15, "select": 15, "layer": 10, "draft_step": 10, "verify": 5, "extend": 3}
