"""Assistant responses are found through the chat template, whatever it looks like."""

import pytest

from bench.errors import DomainError
from bench.text.template import ResponseFinder

TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": " first  answer "},
    {"role": "user", "content": "Two? assistant\n"},
    {"role": "assistant", "content": "second"},
]


def responses(tokenizer, turns=TURNS):
    return ResponseFinder(tokenizer).responses([("mine.jsonl:1", turns)])[0]


def test_every_turn_with_its_end_and_nothing_else(tokenizer):
    assert responses(tokenizer) == [" first  answer <|im_end|>\n", "second<|im_end|>\n"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stripped", ["first  answer<|im_end|>", "second<|im_end|>"]),
        ("thinking", [" first  answer <|im_end|>\n", "second<|im_end|>\n"]),
        ("marked", [" first  answer <|im_end|>", "second<|im_end|>"]),
        ("endless", [" first  answer \n", "second\n"]),
    ],
)
def test_other_templates(with_template, name, expected):
    assert responses(with_template(name)) == expected


def test_several_conversations_keep_apart(tokenizer):
    found = ResponseFinder(tokenizer).responses([("a", TURNS[:2]), ("b", TURNS[:1]), ("c", TURNS)])
    assert [len(texts) for texts in found] == [1, 0, 2]


def test_the_conversation_that_a_template_refuses_is_named(with_template):
    finder = ResponseFinder(with_template("strict"))
    asked = [{"role": "system", "content": "x"}, *TURNS]
    with pytest.raises(
        DomainError, match="mine.jsonl:9: the target's chat template refuses the conversation: no system turn"
    ):
        finder.responses([("mine.jsonl:1", TURNS), ("mine.jsonl:9", asked)])


def test_a_response_that_cannot_be_found_is_an_error(with_template):
    with pytest.raises(DomainError, match="mine.jsonl:1: the chat template changes the text before turn 4"):
        responses(with_template("forgetful"))


def test_without_a_template_the_way_out_is_named(with_template):
    with pytest.raises(DomainError, match="no chat template.*domain.plain_text=true"):
        ResponseFinder(with_template(""))


def test_spans_of_a_preformatted_text(tokenizer):
    text = tokenizer.apply_chat_template(TURNS, tokenize=False)
    finder = ResponseFinder(tokenizer)
    assert finder.spans(text) == [" first  answer <|im_end|>", "second<|im_end|>"]
    assert finder.spans("no turn at all") == []
    assert finder.spans(text[: text.index("answer")]) == [" first  "]
