"""Hub data sets: through `datasets` on a local folder, and one clear line without a network."""

import time
from types import SimpleNamespace

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Sequence, Value

from bench.config import ColumnsConfig, DomainSource, HubConfig, Source
from bench.errors import DomainError
from bench.text import content_id, hub, load_conversations


def source(hub_id, **values) -> DomainSource:
    columns = ColumnsConfig(**values.pop("columns", {}))
    return DomainSource("d", Source.hub, hub=HubConfig(id=str(hub_id), **values), columns=columns)


def test_a_data_set_streams_through_the_library(tmp_path):
    pd.DataFrame({"question": ["1+1?", "2+2?"], "answer": ["2", "4"]}).to_parquet(tmp_path / "train.parquet")
    domain = source(tmp_path, columns={"prompt": "question", "response": "answer"})
    found = list(load_conversations(domain))
    assert [[m.content for m in c.messages] for c in found] == [["1+1?", "2"], ["2+2?", "4"]]


def test_a_local_folder_is_known_by_its_content(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    first = content_id(source(tmp_path))
    assert first.startswith(f"hub:{tmp_path}/None/train@sha256:") and content_id(source(tmp_path)) == first
    (tmp_path / "train.jsonl").write_text('{"prompt": "b"}\n')
    assert content_id(source(tmp_path)) != first


def test_a_data_set_of_the_hub_is_known_by_the_commit_of_its_revision(monkeypatch):
    asked = []
    info = SimpleNamespace(sha="c0ffee")
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info",
        lambda self, *args, **kwargs: asked.append((args, kwargs)) or info,
    )
    assert content_id(source("a/b", config="main", revision="v1")) == "hub:a/b/main/train@c0ffee"
    assert asked == [(("a/b",), {"revision": "v1", "timeout": 10})]


def test_what_to_load_reaches_the_library(monkeypatch, tmp_path):
    asked = {}

    def load_dataset(*args, **kwargs):
        asked.update(kwargs, args=args)
        return Dataset.from_dict({"prompt": ["a"]}).to_iterable_dataset()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    (found,) = load_conversations(source(tmp_path, config="c", split="test", revision="r"))
    assert found.messages[0].content == "a" and found.conversation_id == f"{tmp_path}:1"
    assert asked == {"args": (str(tmp_path), "c"), "split": "test", "revision": "r", "streaming": True}


def test_rows_are_read_as_they_are_asked_for(monkeypatch, tmp_path):
    given = []

    def rows():
        for number in range(100):
            given.append(number)
            yield {"prompt": str(number)}

    data = IterableDataset.from_generator(rows)
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: data)
    given.clear()
    found = load_conversations(source(tmp_path))
    assert given == [] and next(found).group == "0" and len(given) <= 2


def test_a_missing_column_names_the_row_and_the_columns(tmp_path):
    pd.DataFrame({"question": ["1+1?"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DomainError, match="'q' is missing .first: .*train, row 1; the row has question"):
        list(load_conversations(source(tmp_path, columns={"prompt": "q"})))


def test_class_labels_become_their_names(monkeypatch, tmp_path):
    features = Features(
        {
            "tokens": Sequence(Value("string")),
            "tags": Sequence(ClassLabel(names=["O", "B-PER"])),
            "kind": ClassLabel(names=["x", "y"]),
            "deep": [{"tag": ClassLabel(names=["p", "q"]), "n": Value("int64")}],
            "none": ClassLabel(names=["x", "y"]),
        }
    )
    deep = [[{"tag": 1, "n": 1}]]
    rows = {"tokens": [["Ada", "ran"]], "tags": [[1, 0]], "kind": [1], "deep": deep, "none": [-1]}
    data = Dataset.from_dict(rows, features=features).to_iterable_dataset()
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: data)
    pattern = "{tags}, {deep[0][tag]}{deep[0][n]}, [{none}]"
    domain = source(tmp_path, columns={"prompt": "{tokens} ({kind})", "response": pattern})
    (found,) = load_conversations(domain)
    assert [m.content for m in found.messages] == ["Ada ran (y)", "B-PER O, q1, []"]


def test_without_a_network_one_line_says_what_was_tried_and_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(DomainError) as caught:
        next(hub.read_rows(HubConfig(id="nobody/nothing", config="main", split="test", revision="abc")))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(
        "data set nobody/nothing (config main, split test, revision abc)"
    )
    assert "domain=jsonl domain.path=FILE" in message
    assert time.monotonic() - begun < 60


def test_a_missing_split_is_one_line_too(tmp_path):
    pd.DataFrame({"prompt": ["x"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DomainError, match="split nosuch") as caught:
        list(load_conversations(source(tmp_path, split="nosuch")))
    assert "\n" not in str(caught.value)
