"""Assistant responses are found through the chat template, whatever it looks like, turn by turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import DomainError
from bench.text.conversation import Message
from bench.text.responses import Asked, ResponseFinder
from bench.text.template import RefusedError
from tests.text.conftest import TEMPLATES

TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": " first  answer "},
    {"role": "user", "content": "Two? assistant\n"},
    {"role": "assistant", "content": "second"},
]
CALL = {"type": "function", "function": {"name": "open_valve", "arguments": {"zone": "Z0", "litres": 2}}}
WRITTEN = '{"name": "open_valve", "arguments": {"zone": "Z0", "litres": 2}}'
THOUGHT = "Hmm, the question seems simple."


def responses(tokenizer, turns=TURNS, tools=None):
    (found,) = ResponseFinder(tokenizer).responses([Asked(turns, tools)])
    if isinstance(found, RefusedError):
        raise found
    return found


def texts(tokenizer, turns=TURNS):
    return [response.text for response in responses(tokenizer, turns)]


def answered(**fields):
    return [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "", **fields}]


def test_every_turn_with_its_end_and_nothing_else(tokenizer):
    assert texts(tokenizer) == [" first  answer <|im_end|>\n", "second<|im_end|>\n"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stripped", ["first  answer<|im_end|>", "second<|im_end|>"]),
        ("thinking", [" first  answer <|im_end|>\n", "second<|im_end|>\n"]),
        ("marked", [" first  answer <|im_end|>", "second<|im_end|>"]),
        ("endless", [" first  answer \n", "second\n"]),
        ("unopened", [" first  answer <|im_end|>\n", "second<|im_end|>\n"]),
        # What precedes the second answer is shown otherwise once it is there.
        ("forgetful", [" first  answer <|im_end|>\n", "second<|im_end|>\n"]),
        # The last turn is shown with an empty thought; so was the first when it was the last.
        (
            "last_thinks",
            [
                "<think>\n\n</think>\n\n first  answer <|im_end|>\n",
                "<think>\n\n</think>\n\nsecond<|im_end|>\n",
            ],
        ),
    ],
)
def test_other_templates(with_template, name, expected):
    tokenizer = with_template(name)
    assert texts(tokenizer) == expected
    assert [response.left_out for response in responses(tokenizer)] == [(), ()]
    # Turns that follow change nothing of what was written before.
    assert texts(tokenizer, [*TURNS, {"role": "user", "content": "Three?"}]) == expected


def test_the_assistant_may_begin(tokenizer):
    assert texts(tokenizer, TURNS[1:]) == [" first  answer <|im_end|>\n", "second<|im_end|>\n"]
    thinking = [{"role": "assistant", "content": "Hi.", "reasoning_content": THOUGHT}]
    assert texts(tokenizer, thinking) == ["Hi.<|im_end|>\n"]


def test_two_answers_in_a_row_are_two(tokenizer, with_template):
    turns = [TURNS[0], TURNS[1], TURNS[3]]
    assert texts(tokenizer, turns) == [" first  answer <|im_end|>\n", "second<|im_end|>\n"]
    thought = f"<think>{THOUGHT}</think>one"
    turns = [TURNS[0], {"role": "assistant", "content": thought}, TURNS[3]]
    assert texts(with_template("marked_thoughts"), turns) == [f"{thought}<|im_end|>", "second<|im_end|>"]
    assert texts(with_template("drops_earlier_thoughts"), turns) == [
        f"{thought}<|im_end|>\n",
        "second<|im_end|>\n",
    ]


def test_thoughts_of_an_earlier_turn_count_as_they_were_written(with_template):
    thought = f"<think>\n{THOUGHT}\n</think>\n\nfirst"
    turns = [TURNS[0], {"role": "assistant", "content": thought}, *TURNS[2:]]
    for name, end in (("marked_thoughts", "<|im_end|>"), ("drops_earlier_thoughts", "<|im_end|>\n")):
        assert texts(with_template(name), turns) == [thought + end, "second" + end]


def test_several_conversations_keep_apart(tokenizer):
    found = ResponseFinder(tokenizer).responses([Asked(TURNS[:2]), Asked(TURNS[:1]), Asked(TURNS)])
    assert [len(of_one) for of_one in found] == [1, 0, 2]


def test_a_conversation_that_a_template_refuses_costs_no_other(with_template):
    asked = [{"role": "system", "content": "x"}, *TURNS]
    good, refused, also = ResponseFinder(with_template("strict")).responses(
        [Asked(TURNS), Asked(asked), Asked(TURNS)]
    )
    assert len(good) == len(also) == 2
    assert isinstance(refused, RefusedError) and str(refused) == "no system turn, please"


@pytest.mark.parametrize(
    ("name", "fields", "shown", "left_out"),
    [
        (
            "native_calls",
            {"tool_calls": [CALL]},
            '<call>open_valve({"zone": "Z0", "litres": 2})</call>',
            (),
        ),
        (None, {"tool_calls": [CALL]}, "", (("tool_calls", WRITTEN),)),
        # That the text speaks of the call does not show it.
        (
            None,
            {"content": "open_valve, zone Z0, litres 2", "tool_calls": [CALL]},
            "open_valve, zone Z0, litres 2",
            (("tool_calls", WRITTEN),),
        ),
        (
            "first_call",
            {"tool_calls": [CALL, {**CALL, "function": {"name": "close_valve", "arguments": {}}}]},
            'open_valve{"zone": "Z0", "litres": 2}',
            (("tool_calls", '{"name": "close_valve", "arguments": {}}'),),
        ),
        (
            "call_or_text",
            {"content": "Let me look.", "tool_calls": [CALL]},
            'open_valve{"zone": "Z0", "litres": 2}',
            (("content", "Let me look."),),
        ),
        (
            "native_thoughts",
            {"content": "Ok.", "reasoning_content": THOUGHT},
            f"<think>\n{THOUGHT}\n</think>\n\nOk.",
            (),
        ),
        (None, {"content": "Ok.", "reasoning_content": THOUGHT}, "Ok.", (("reasoning_content", THOUGHT),)),
        (
            "drops_thought",
            {"content": f"<think>{THOUGHT}</think>Ok."},
            "Ok.",
            (("content", f"<think>{THOUGHT}</think>"),),
        ),
        (
            None,
            {"content": "Ok.", "refusal": "I would rather not."},
            "Ok.",
            (("refusal", "I would rather not."),),
        ),
        (None, {"content": "Ok.", "notes": {"a": ["b", 1]}}, "Ok.", (("notes", '{"a": ["b", 1]}'),)),
        (None, {"content": "Ok.", "name": "helper", "id": "m1", "weight": 1}, "Ok.", ()),
    ],
)
def test_what_a_template_does_not_show_is_left_out_by_name(
    with_template, tokenizer, name, fields, shown, left_out
):
    (found,) = responses(with_template(name) if name else tokenizer, answered(**fields))
    assert found.text.rstrip().removesuffix("<|im_end|>") == shown
    assert found.left_out == left_out


def test_a_preformatted_text_shows_its_responses(tokenizer, with_template):
    text = tokenizer.apply_chat_template(TURNS, tokenize=False)
    finder = ResponseFinder(tokenizer)
    assert finder.spans(text) == [" first  answer <|im_end|>", "second<|im_end|>"]
    assert finder.spans("no turn at all") == []
    assert finder.spans(text[: text.index("answer")]) == [" first  "]
    # An open turn shows more than the finished ones of such a text.
    assert ResponseFinder(with_template("thinking")).spans(text) == finder.spans(text)


def test_a_template_that_cannot_show_one_question_and_answer_is_refused(with_template):
    with pytest.raises(DomainError, match="fails on a single question and answer: .*no attribute 'suffix'"):
        ResponseFinder(with_template("{% for m in messages %}{{ m.content + m.suffix }}{% endfor %}"))
    with pytest.raises(DomainError, match="drops the assistant's responses"):
        ResponseFinder(with_template("{{ messages[0].content }}"))


# Of any conversation, under any template: what is rendered and what is left out are all that was written.

_WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), min_size=1, max_size=20).map(
    lambda text: f"q{text}q"
)
_NAMES = st.sampled_from(["refusal", "notes", "reasoning_content", "audio_transcript", "annotations"])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TEMPLATES.keys() - {"strict"})),
    st.lists(_WORDS, min_size=2, max_size=5),
    _NAMES,
    _WORDS,
)
def test_a_field_that_is_added_changes_the_count_or_what_is_left_out(finders, name, contents, field, value):
    turns = [Message(("user", "assistant")[i % 2], text).as_turn() for i, text in enumerate(contents)]
    (before,) = finders(name).responses([Asked(turns)])
    (after,) = finders(name).responses([Asked([*turns[:1], {**turns[1], field: value}, *turns[2:]])])
    assert [response.text for response in before[1:]] == [response.text for response in after[1:]]
    assert before[0].left_out == ()
    if after[0].text == before[0].text:
        assert after[0].left_out == ((field, value),)
    else:
        assert value in after[0].text and after[0].left_out == ()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(TEMPLATES.keys() - {"strict"})), st.lists(_WORDS, min_size=2, max_size=6))
def test_one_rendering_and_turn_by_turn_say_the_same(finders, name, contents):
    turns = [Message(("user", "assistant")[i % 2], text).as_turn() for i, text in enumerate(contents)]
    finder, asked = finders(name), Asked(turns)
    (quick,) = finder.responses([asked])
    assert quick == finder._exact(asked)
