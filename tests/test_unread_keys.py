"""A key of the command line that the task does not read is refused or named."""

from dataclasses import fields

import pytest

from bench.config import Config, Task
from bench.errors import ConfigError
from bench.tasks import _READS, overridden, refuse_unread, unread_keys


def test_every_task_and_every_key_is_in_the_table():
    read = {key.partition(".")[0] for keys in _READS.values() for key in keys.split()}
    assert set(_READS) == set(Task)
    assert read - {"experiment"} == {item.name for item in fields(Config)} - {"task", "results_dir"}


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ("run=latest", "run=latest: task=export, fit, report, compare or verify does"),
        ("task=bench out=x", "out=x: results_dir=... moves all results"),
        ("claim=c.json", "claim=c.json: task=verify does"),
        ("export.domain=code", "task=export does; name that task, or leave export.domain out"),
        ("select.vocab_size=64", "task=bench does not read select.vocab_size=64: task=select does"),
        ("task=predict run=a predict.run=b", "run=a: predict.run=..."),
        ("task=diff runs=[a,b] run=a", "runs=[BEFORE,AFTER]"),
        ("task=report runs=[a] run=b", "run=b beside runs=[a]"),
        ("task=verify claim=c run='b'", "run=b beside claim=c"),
        ("task=gpus predict.domain=code diff.threshold=0", "diff.threshold=0: task=diff does"),
        ("task=fit +imports.files=[a]", "task=import does"),
    ],
)
def test_a_key_of_another_task_is_refused(arguments, refused):
    with pytest.raises(ConfigError) as error:
        refuse_unread([arguments.split()])
    assert refused in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("task=report gpu='0'", ["task=report does not read gpu=0"]),
        ("task=export domain=code", ["export.domain=..."]),
        ("task=gpus pair=custom", ["gpus.shape=..."]),
        ("task=verify experiment=smoke", ["does not read experiment=smoke"]),
        ("vllm.num_processes=3", ["engine=own,vllm does"]),
        ("vllm.num_processes=3 engine='own,vllm'", []),
        ("task=draft measure.seed=1 measure.num_prompts=2", ["measure.num_prompts=2"]),
    ],
)
def test_a_key_that_scripts_share_is_named_but_not_refused(arguments, named):
    refuse_unread([arguments.split()])
    found = list(unread_keys(arguments.split()).values())
    assert len(found) == len(named) and all(text in line for text, line in zip(named, found, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        "domain=jsonl domain.path=prompts.jsonl gpu=0 hydra.verbose=true results_dir=r",
        "timing=draft vocab=large select.k_max=50000",
        "task=draft pair=gemma3-270m measure=default",
        "task=select experiment=paper out=x tag=a",
        "task=report run=a",
        "task=verify claim=c.json",
        "task=predict gpu=h100-sxm predict.run=a",
        "task=export run=a export.domain=code select.checkpoint=false",
    ],
)
def test_what_a_task_reads_is_not_named(arguments):
    assert unread_keys(arguments.split()) == {}


def test_a_sweep_needs_one_job_that_reads_the_key():
    refuse_unread([["task=bench", "out=x"], ["task=select", "out=x"]])
    with pytest.raises(ConfigError, match="run=a"):
        refuse_unread([["run=a"], ["run=b"]])


def test_a_value_that_a_later_one_replaces_is_named():
    given = ["domain=code", "gpu=cpu", "gpu=cpu", "domain=writing"]
    assert overridden(given) == ["domain=code is not used, because domain=writing stands after it"]
