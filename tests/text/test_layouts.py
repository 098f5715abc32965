"""Every known layout of a row, and what is said of one that is not."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config import ColumnsConfig
from bench.errors import ConfigError, DomainError
from bench.text.conversation import Message
from bench.text.layouts import to_conversation
from bench.text.rows import Row


def read(value, roles=None, **columns):
    row = Row("mine.jsonl, line 2", 2, value)
    return to_conversation(row, "mine.jsonl:2", ColumnsConfig(**columns), roles or {})


def turns(value, **columns):
    return [(m.role, m.content) for m in read(value, **columns).messages]


ASKED, ANSWERED = ("user", "Hi"), ("assistant", "Hello.")


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "Hi", "response": "Hello."},
        {"conversation": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
        {"messages": [{"role": "user", "content": "Hi"}], "response": "Hello."},
        {"conversations": [{"from": "human", "value": "Hi"}], "completion": "Hello."},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
        {"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "model", "content": "Hello."}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "gpt", "content": "Hello."},
            ]
        },
        {"prompt": [{"role": "user", "content": "Hi"}], "response": "Hello."},
        {"prompt": "Hi", "response": [{"role": "assistant", "content": "Hello."}]},
        {"prompt": ["Hi"], "response": "Hello."},
        {
            "conversations": [
                {"role": None, "content": None, "from": "human", "value": "Hi"},
                {"role": "assistant", "content": "Hello.", "from": None, "value": None},
            ]
        },
    ],
)
def test_layouts_with_a_response(value):
    assert turns(value) == [ASKED, ANSWERED]
    assert read(value).has_response and read(value).group == "Hi"
    assert read(value).to_prompt().messages == (Message(*ASKED),)


@pytest.mark.parametrize("value", [{"turns": ["Hi", "And?"]}, {"prompt": ["Hi", "And?"]}, {"prompt": "Hi"}])
def test_layouts_without_a_response(value):
    assert turns(value) == [ASKED]
    assert not read(value).has_response


def test_a_preformatted_text_is_kept_as_it_is():
    found = read({"text": "<|im_start|>assistant\nHi"})
    assert found.text == "<|im_start|>assistant\nHi" and found.messages == () and found.has_response


def test_columns_name_what_is_where():
    row = {
        "q": "2+2?",
        "a": "4",
        "translation": {"de": "Ja", "en": "Yes"},
        "tags": ["O", "B-PER"],
        "c": [ASKED],
    }
    assert turns(row, prompt="q", response="a", system="{tags}") == [
        ("system", "O B-PER"),
        ("user", "2+2?"),
        ("assistant", "4"),
    ]
    assert turns(row, prompt="De: {translation[de]}", response="{translation[en]}") == [
        ("user", "De: Ja"),
        ("assistant", "Yes"),
    ]
    assert read({"body": "text"}, text="body").text == "text"
    assert turns({"chat": [{"from": "human", "value": "Hi"}]}, messages="chat") == [ASKED]
    assert turns({"asks": ["Hi", "x"]}, turns="asks") == [ASKED]


def test_calls_and_their_results_keep_their_roles():
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    value = {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "3"},
            {"from": "function_call", "value": "g()"},
            {"from": "observation", "value": "4"},
        ]
    }
    assert [role for role, _ in turns(value)] == ["user", "assistant", "tool", "assistant", "tool"]
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    assert read(value).messages[1] == Message("assistant", "", {"tool_calls": [call]})
    assert read(value).group == "Hi"


def test_half_a_character_inside_json_text_is_no_list_of_turns():
    turns = json.dumps([{"role": "user", "content": "a\ud83d"}])
    with pytest.raises(DomainError, match="messages is a text that is not the JSON of a list of turns"):
        read({"messages": turns})
    call = {"function": {"name": "f", "arguments": json.dumps({"x": "a\ud83d"})}}
    found = read({"messages": [{"role": "user", "content": "Hi"}, {"role": "bot", "tool_calls": [call]}]})
    # As text, in which the half is escaped, the arguments harm nobody.
    assert found.messages[1].fields["tool_calls"][0]["function"]["arguments"] == '{"x": "a\\ud83d"}'


def test_conversations_that_ask_the_same_share_a_group():
    base = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]
    assert read({"messages": base}).group == read({"messages": [base[0]]}).group
    assert (
        read({"messages": base}).group != read({"messages": [*base, {"role": "user", "content": "B"}]}).group
    )


@pytest.mark.parametrize(
    ("value", "columns", "reason"),
    [
        ([1], {}, "expected an object"),
        ({"prompt": 3}, {}, 'expected "prompt"'),
        ({"prompt": "  "}, {}, 'expected "prompt"'),
        ({"question": "x"}, {}, 'expected "prompt"'),
        ({"messages": [{"role": "user"}]}, {}, "role and a content"),
        ({"messages": ["x"]}, {}, "role and a content"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            {},
            "'robot' is unknown; name it with domain.roles={robot: assistant}",
        ),
        ({"messages": []}, {}, "the conversation is empty"),
        ({"messages": [{"role": "user", "content": " "}]}, {}, "user turn is empty"),
        ({"turns": [""]}, {}, "first entry is what the user asks"),
        (
            {"turns": ["FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE\n\n{article}"]},
            {"turns": "turns"},
            "there is a placeholder .* add domain.source=file domain.path=FILE.parquet",
        ),
        ({"a": "x"}, {"prompt": "{a!z}"}, "has '{a!z}', which does not fit the row: Unknown conversion"),
        ({"a": "x"}, {"prompt": "{a:d}"}, "has '{a:d}', which does not fit the row: Unknown format code"),
        ({"a": "x"}, {"prompt": "b"}, "column 'b' is missing; the row has a"),
        ({"a": "x"}, {"prompt": "a", "response": "b"}, "column 'b' is missing; the row has a"),
        ({"a": "x"}, {"prompt": "a", "system": "b"}, "column 'b' is missing; the row has a"),
        ({"prompt": "x", "response": 3}, {}, "response must be a text or a list of turns"),
        ({"prompt": ["x", "y"], "response": "z"}, {}, "several prompts with one response"),
        ({"messages": [{"role": "bot", "content": [{"type": "image"}]}]}, {}, "a part of type 'image'"),
        ({"messages": [{"role": "user", "content": 3}]}, {}, "neither a text nor a list of parts"),
        ({"messages": "[{"}, {}, "messages is a text that is not the JSON of a list of turns"),
        ({"a": "x"}, {"prompt": "{b}"}, "names 'b', which is not in the row; its columns are a"),
        ({"a": "x"}, {"messages": "b"}, "column 'b' is missing; the row has a"),
        ({"a": ""}, {"prompt": "a"}, "empty prompt"),
        ({"a": "x"}, {"messages": "a"}, "a list of turns"),
        ({"t": " "}, {"text": "t"}, "text is empty"),
    ],
)
def test_a_row_that_is_no_conversation_names_its_place_and_the_reason(value, columns, reason):
    with pytest.raises(DomainError, match=rf"mine\.jsonl, line 2: .*({reason})") as caught:
        read(value, **columns)
    assert "\n" not in str(caught.value)


def test_a_conversation_without_a_user_cannot_be_asked():
    with pytest.raises(DomainError, match=r"mine\.jsonl, line 2: the conversation has no user turn"):
        read({"messages": [{"role": "assistant", "content": "x"}]}).to_prompt()


def test_a_format_fills_in_what_the_row_has():
    row = {"instruction": "Add.", "input": "", "a.b": "dotted", "json": '{"x": 1}', "none": None}
    assert turns(row, prompt="{instruction}\n\n{input}") == [("user", "Add.")]
    assert turns(row, prompt="a.b", response="{none}") == [("user", "dotted")]
    assert turns(row, prompt="{{{json}}}") == [("user", '{{"x": 1}}')]
    assert turns(row, prompt="json", system="You are terse.")[0] == ("system", "You are terse.")


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"prompt": "a", "messages": "b"}, "prompt and messages"),
        ({"response": "a"}, "domain.columns.response=a"),
        ({"messages": "a", "system": "b"}, "domain.columns.system=b"),
        ({"prompt": "{a"}, "domain.columns.prompt={a "),
        ({"prompt": "{}"}, "domain.columns.prompt={} "),
    ],
)
def test_columns_that_contradict_each_other_are_refused_before_anything_is_read(columns, name):
    with pytest.raises(ConfigError, match=re.escape(name)) as caught:
        ColumnsConfig(**columns)
    assert "\n" not in str(caught.value)


_TEXT = st.text(min_size=1).filter(str.strip)
_NAMES = {
    "user": ["user", "human"],
    "assistant": ["assistant", "gpt", "model"],
    "system": ["system", "developer"],
}
_TURNS = st.lists(st.tuples(st.sampled_from(sorted(_NAMES)), _TEXT), min_size=1, max_size=6)


@given(_TURNS, st.data())
def test_turns_survive_every_way_to_write_them(wanted, data):
    names = [data.draw(st.sampled_from(_NAMES[role])) for role, _ in wanted]
    contents = [content for _, content in wanted]
    chat = [{"role": n, "content": c} for n, c in zip(names, contents, strict=True)]
    share = [{"from": n, "value": c} for n, c in zip(names, contents, strict=True)]
    parts = [
        {"role": n, "content": [{"type": "text", "text": c}]} for n, c in zip(names, contents, strict=True)
    ]
    for value in ({"messages": chat}, {"conversations": share}, {"messages": parts}, {"turns": chat}):
        assert turns(value) == wanted
    assert turns({"x": share}, messages="x") == wanted
    found = read({"messages": chat})
    assert found.has_response == any(role == "assistant" for role, _ in wanted)
    if any(role == "user" for role, _ in wanted):
        asked = found.to_prompt()
        assert asked.messages == found.messages[: len(asked.messages)] and asked.messages[-1].role == "user"
        assert all(m.role != "user" for m in found.messages[len(asked.messages) :])


@given(_TEXT, _TEXT)
def test_prompt_and_response_survive_columns_and_formats(prompt, response):
    asked, answered = ("user", prompt), ("assistant", response)
    assert turns({"prompt": prompt, "response": response}) == [asked, answered]
    row = {"q": prompt, "a": response}
    filled = [("user", prompt.strip()), answered]
    assert turns(row, prompt="q", response="a") == turns(row, prompt="{q}", response="{a}") == filled
    assert read({"text": prompt}).text == prompt


def test_a_response_beside_a_conversation_that_has_one_is_not_added():
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    assert turns({"messages": chat, "response": "Another."}) == [ASKED, ANSWERED]


def test_the_text_of_a_tool_result_is_kept_in_parts_too():
    parts = [{"type": "text", "text": "sunny"}, {"type": "image", "source": "x"}]
    result = [{"type": "tool_result", "tool_use_id": "x", "content": parts}]
    found = read({"messages": [{"role": "user", "content": result}]})
    assert found.messages[0].content == "sunny" and found.unseen == ("image",)


@pytest.mark.parametrize(
    ("row", "columns", "language"),
    [
        ({"language": "Danish"}, {}, "Danish"),
        ({"lang": " da "}, {}, "da"),
        ({"language": None, "lang": "da"}, {}, "da"),
        ({"language": ["da", "en"]}, {}, None),
        ({"language": ""}, {}, None),
        ({"locale": "da-DK"}, {}, None),
        ({"locale": "da-DK", "language": "x"}, {"language": "locale"}, "da-DK"),
    ],
)
def test_a_language_is_what_the_row_says(row, columns, language):
    assert read({"prompt": "Hi", **row}, **columns).language == language
