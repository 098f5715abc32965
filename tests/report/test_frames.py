import json

import pandas as pd
import pytest

from bench.errors import OutputError
from bench.records import FILE_NAME, RecordWriter
from bench.report.frames import SUMMARY_COLUMNS, latency_frame, read_run, step_samples, summary_frame
from tests.report.synthetic import ANSWER, FULL, decode, write_run


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path / "run"))


def row(run, vocab_size, draft_length):
    summary = summary_frame(run, latency_frame(run))
    chosen = summary[(summary["vocab_size"] == vocab_size) & (summary["draft_length"] == draft_length)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_columns_are_exactly_those_promised(run):
    expected = (
        "pair, domain, device_name, dtype, vocab_size, draft_length, coverage_train, coverage_heldout, "
        "draft_step_ms, lm_head_ms, verify_ms, acceptance_rate, mean_acceptance_length, tokens_per_s, "
        "speedup_vs_autoregressive, speedup_vs_full_vocab, speedup_vs_full_vocab_ci_low, "
        "speedup_vs_full_vocab_ci_high, identical_output_frac, num_prompts, num_tokens"
    )
    assert expected.split(", ") == SUMMARY_COLUMNS
    assert list(summary_frame(run, latency_frame(run)).columns) == SUMMARY_COLUMNS


def test_a_trimmed_row_by_hand(run):
    found = row(run, 10, 3)
    # 4 prefill + 6 * 0.5 head + 6 * 0.5 select + 4 * 2 layer + 2 * 24 verify + 3 extend = 69 ms.
    assert found["tokens_per_s"] == pytest.approx(8 / 69 * 1e3)
    assert found["draft_step_ms"] == 3.0
    assert found["lm_head_ms"] == 0.5
    assert found["verify_ms"] == 24.0
    assert found["acceptance_rate"] == 1.0
    assert found["mean_acceptance_length"] == 4.0
    assert found["speedup_vs_autoregressive"] == pytest.approx(160 / 69)
    assert found["speedup_vs_full_vocab"] == pytest.approx(99 / 69)
    assert found["speedup_vs_full_vocab_ci_low"] == pytest.approx(99 / 69)
    assert found["coverage_train"] == 0.8
    # Of the nine answer tokens, 10 to 14 and the end token are inside.
    assert found["coverage_heldout"] == pytest.approx(6 / 9)
    assert found["identical_output_frac"] == 1.0
    assert (found["num_prompts"], found["num_tokens"]) == (2, 16)
    assert (found["pair"], found["domain"], found["dtype"]) == ("synthetic-pair", "code", "float32")


def test_plain_decoding_is_the_row_of_draft_length_0(run):
    found = row(run, FULL, 0)
    assert found["verify_ms"] == 20.0
    assert found["tokens_per_s"] == pytest.approx(50)
    assert found["mean_acceptance_length"] == 1.0
    assert found["speedup_vs_autoregressive"] == 1.0
    for column in ("acceptance_rate", "draft_step_ms", "coverage_heldout", "speedup_vs_full_vocab"):
        assert pd.isna(found[column]), column


def test_a_chained_step_is_layer_head_and_selection():
    record = decode("p", 10, 3, [1, 0], 9.0, 0.25)
    assert step_samples(record)["draft_step"] == [2.75] * 4


def test_without_chained_steps_a_step_is_unknown(tmp_path):
    run = read_run(write_run(tmp_path, draft_length=1))
    assert pd.isna(row(run, 10, 1)["draft_step_ms"])
    assert row(run, 10, 1)["mean_acceptance_length"] == 2.0


def test_a_prompt_that_some_variant_lacks_is_left_out(tmp_path):
    folder = write_run(tmp_path)
    writer = RecordWriter(folder)
    writer.append(decode("p3", FULL, 0, [], 20.0, 0))
    writer.close()
    assert row(read_run(folder), FULL, 0)["num_prompts"] == 2


def test_a_different_output_is_counted(tmp_path):
    folder = write_run(tmp_path)
    lines = (folder / FILE_NAME).read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    for values in changed:
        if values.get("prompt_id") == "p2" and values.get("vocab_size") == 10:
            values["token_ids"] = [*ANSWER[:-1], 99]
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, changed)) + "\n")
    assert row(read_run(folder), 10, 3)["identical_output_frac"] == 0.5


def test_a_run_without_a_complete_prompt_is_refused(tmp_path):
    folder = write_run(tmp_path)
    lines = (folder / FILE_NAME).read_text().splitlines()
    (folder / FILE_NAME).write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(OutputError, match="no measurement"):
        read_run(folder)
    with pytest.raises(OutputError, match="not a run"):
        read_run(tmp_path / "nosuch")
