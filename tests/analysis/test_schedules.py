"""Draft lengths by batch size, from what another engine decoded and from composed latencies."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.analysis.run import read_run
from bench.analysis.schedules import SCHEDULE_COLUMNS, best_constant, modelled_schedules, served_speeds
from bench.gpu_tables.tidy import TableKey
from bench.records import RecordWriter
from bench.surface.choice import OPTIMUM, PLAIN
from bench.surface.lengths import Lengths
from bench.surface.rounds import Host, Times
from tests.analysis.conftest import H100_700
from tests.analysis.synthetic import Experiment, write_run
from tests.analysis.test_engines import served


def test_speeds_of_the_exported_size_and_of_plain_decoding(tmp_path):
    folder = write_run(tmp_path / "run", H100_700, Experiment(domains=("code",), num_prompts=4))
    run = read_run(folder)
    writer = RecordWriter(folder)
    for process in (0, 1):
        # Of two at a time, plain decoding is faster; of four, it alone was decoded.
        for role, round_ms, concurrency in (
            (PLAIN, 10.0, 1), (OPTIMUM, 12.0, 1), (PLAIN, 10.0, 2), (OPTIMUM, 60.0, 2), (PLAIN, 10.0, 4),
        ):  # fmt: skip
            writer.append(served(run, role, process, round_ms, concurrency))
        # Neither with other prompts nor with other sampling.
        slow = served(run, OPTIMUM, process, 1e6, 1)
        writer.append(replace(slow, temperature=1.0))
        writer.append(replace(slow, context_tokens=2048))
    writer.close()
    run = read_run(folder)
    best = run.variant_of("code", OPTIMUM)
    found = served_speeds(run, "code", best.vocab_size)
    assert list(found) == [1, 2] and all(set(speeds) == {0, best.draft_length} for speeds in found.values())
    assert found[1][0] == pytest.approx(100.0)
    assert found[1][0] < found[1][best.draft_length] and found[2][0] > found[2][best.draft_length]
    assert served_speeds(run, "code", best.vocab_size + 1) == {}, "plain decoding alone is no choice"


def test_without_another_engine_there_is_nothing_to_choose_from(tmp_path):
    run = read_run(write_run(tmp_path / "run", H100_700, Experiment(domains=("code",), num_prompts=4)))
    assert served_speeds(run, "code", run.full_size) == {}


def times(verify: list[float], plain: float) -> Times:
    """Two sizes, of which the smaller is faster; drafting takes 1 ms a token."""
    return Times(
        head=np.array([0.5, 1.0]), step=0.5, first=np.array([0.5, 0.5]), verify=np.array(verify), plain=plain
    )


def test_a_model_drafts_less_where_verification_becomes_dear():
    lengths = Lengths(np.array([100, 200]), (1, 2), np.array([[[1.7, 1.7], [2.2, 2.2]]]), "made up", False)
    by_batch = {1: times([10.0, 10.0], 10.0), 8: times([12.0, 19.0], 10.0), 64: times([20.0, 30.0], 10.0)}
    (row,) = modelled_schedules(
        TableKey("gpu", "vllm", "1", "bfloat16"), {512: by_batch}, lengths, {"none": Host()}
    )
    found = dict(zip(SCHEDULE_COLUMNS, row, strict=True))
    # Tokens/ms: at 1 plain .1, 1.7 / 11 and 2.2 / 12; at 8 .1, 1.7 / 13 and 2.2 / 21; at 64 .1, 1.7 / 21.
    assert json.loads(found["schedule"]) == [[1, 2, 2], [3, 22, 1], [23, 64, 0]]
    assert found["vocab_size"] == 100 and found["largest_loss"] == 0.0
    assert found["constant_draft_length"] == 1
    assert found["constant_largest_loss"] == pytest.approx(
        max(1 - (1.7 / 11) / (2.2 / 12), 1 - (1.7 / 21) / 0.1)
    )


def test_one_batch_needs_no_schedule():
    lengths = Lengths(np.array([100, 200]), (1, 2), np.array([[[1.7, 1.7], [2.2, 2.2]]]), "made up", False)
    key = TableKey("gpu", "vllm", "1", "bfloat16")
    assert modelled_schedules(key, {512: {1: times([10.0, 10.0], 10.0)}}, lengths, {"none": Host()}) == []


def test_the_best_constant_gamma_is_one_that_every_batch_has():
    assert best_constant({1: {0: 1.0, 3: 2.0}, 8: {0: 1.0, 2: 4.0}}) == (0, 0.75)
