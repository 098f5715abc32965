"""The bar of a run: full when the run is, and not before."""

import pytest
from rich.progress import Progress

from bench.measure.campaign import EXPLORING, PROVING
from bench.runs.bench import _stages
from bench.runs.progress import RunBar


def test_a_bar_is_full_only_after_the_last_stage():
    progress = Progress(disable=True)
    bar = RunBar(progress, {"rounds": 4, "alone": 2, "generate": 1})
    (task,) = progress.tasks
    assert task.total == 7
    # Two records where four were expected, five where two were, and none.
    seen = {}
    for stage, num_records in (("rounds", 2), ("alone", 5), ("generate", 0)):
        records = []
        for record in bar.follow(stage, [f"{stage} {n}" for n in range(num_records)]):
            records.append(record)
            seen.setdefault(stage, []).append(task.completed)
            assert task.description == stage and not task.finished
        assert records == [f"{stage} {n}" for n in range(num_records)]
        seen[f"after {stage}"] = task.completed
    assert seen == {
        "rounds": [0, 1],
        "after rounds": 4,
        "alone": [4, 5, 6, 6, 6],
        "after alone": 6,
        "after generate": 7,
    }
    assert task.finished


def test_a_run_that_is_resumed_starts_where_it_stopped():
    progress = Progress(disable=True)
    bar = RunBar(progress, {"a": 4, "b": 4}, num_done=6)
    (task,) = progress.tasks
    assert [task.completed for _ in bar.follow("a", [])] == [] and task.completed == 4
    assert [task.completed for _ in bar.follow("b", ["one", "two"])] == [6, 7]
    assert task.finished


def test_stages_whose_records_take_longer_have_more_steps():
    progress = Progress(disable=True)
    # Five records of an earlier session: four of the first stage and one of the second, at three steps.
    bar = RunBar(progress, {"a": 4, "b": 6}, num_done=5, weights={"b": 3})
    (task,) = progress.tasks
    assert task.total == 10
    assert [task.completed for _ in bar.follow("a", [])] == [] and task.completed == 4
    assert [task.completed for _ in bar.follow("b", ["second"])] == [7]
    assert task.finished


@pytest.mark.parametrize(
    ("with_energy", "isolated", "stages"),
    [
        ([], False, [EXPLORING, PROVING, "comparing with generate"]),
        (
            ["a", "b"],
            True,
            [EXPLORING, PROVING, "a: energy", "b: energy", "timing parts in isolation"]
            + ["comparing with generate"],
        ),
    ],
)
def test_every_stage_has_its_share(with_energy, isolated, stages):
    steps = _stages({EXPLORING: 100, PROVING: 50}, with_energy, isolated)
    assert list(steps) == stages
    assert steps[EXPLORING] == 100 and all(steps.values())
    assert steps["comparing with generate"] == 6
