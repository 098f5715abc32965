"""Small files of the kinds that users have, each with what is right for it.

A count is of every response as the template shows it, with the token that ends the turn: 193 are the tokens
of the twenty plain answers (173) and their ends.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.config import ColumnsConfig, DomainSource, Source
from bench.errors import DomainError
from bench.text import OddRows, load_conversations
from bench.text.counting import CountSettings, count_responses

CASES = Path(__file__).parent / "cases"
ROLES = {"lagoon-7b-chat": "assistant"}
ALPACA = ColumnsConfig(prompt="{instruction}\n{input}", response="output")
CALLS, THOUGHTS = {"tool_calls": (20, 542)}, {"reasoning_content": (20, 1800)}


def count(with_template, target, file, template=None, **values):
    """Tokens counted, (turns, tokens) left out by field, conversations counted, and odd rows."""
    domain, odd = DomainSource("mine", Source.file, str(CASES / file), **values), OddRows()
    if template:
        target = replace(target, tokenizer=with_template(template))
    found = count_responses(lambda: load_conversations(domain, odd), target, CountSettings(0, 0.2, False), 1)
    odd.merge(found.refused)
    num_tokens = int(found.ranking.counts.sum() + found.held_out.counts.sum())
    lost = {
        name: (of.num_turns, of.num_tokens + of.num_tokens_heldout) for name, of in found.left_out.items()
    }
    return num_tokens, lost, found.num_conversations, odd


@pytest.mark.parametrize(
    ("file", "template", "values", "num_tokens", "left_out", "num_conversations"),
    [
        ("01_sharegpt_roles.json", None, {}, 193, {}, 20),
        ("02_sharegpt_empty.json", None, {}, 209, {}, 21),
        ("03_model_name_role.jsonl", None, {"roles": ROLES}, 193, {}, 20),
        ("04_text_and_tool_call.jsonl", "native_calls", {}, 815, {}, 20),
        ("04_text_and_tool_call.jsonl", None, {}, 333, CALLS, 20),
        ("05_wire_tool_calls.jsonl", "native_calls", {}, 715, {}, 20),
        ("05_wire_tool_calls.jsonl", None, {}, 213, CALLS, 20),
        ("06_reasoning_content.jsonl", "native_thoughts", {}, 2193, {}, 20),
        ("06_reasoning_content.jsonl", None, {}, 193, THOUGHTS, 20),
        ("06_reasoning_content.jsonl", "marked_thoughts", {}, 193, THOUGHTS, 20),
        ("08_function_call.jsonl", "native_calls", {}, 196, {}, 19),
        ("08_function_call.jsonl", None, {}, 179, {"tool_calls": (1, 20)}, 19),
        ("09_picture.jsonl", None, {}, 183, {}, 20),
        ("10_prompt_completion.jsonl", None, {}, 193, {}, 20),
        ("12_two_answers_in_a_row.jsonl", None, {}, 197, {}, 20),
        ("12_two_answers_in_a_row.jsonl", "alternates", {}, 182, {}, 19),
        ("12b_prompts_two_users.jsonl", None, {}, 0, {}, 0),
        ("13_single_00.jsonl", None, {}, 11, {}, 1),
        ("19_messages_as_text.jsonl", None, {}, 193, {}, 20),
        ("30_alpaca_columns.jsonl", None, {"columns": ALPACA}, 8, {}, 2),
    ],
)
def test_what_is_counted(
    with_template, target, file, template, values, num_tokens, left_out, num_conversations
):
    found = count(with_template, target, file, template, **values)
    assert found[:3] == (num_tokens, left_out, num_conversations)


@pytest.mark.parametrize(
    ("file", "template", "lines"),
    [
        (
            "02_sharegpt_empty.json",
            None,
            ["1 of 22 rows set aside: the conversation is empty (first: row 8)"],
        ),
        (
            "09_picture.jsonl",
            None,
            ["1 of 20 rows used without content of type 'image_url', which holds no text (first: line 6)"],
        ),
        (
            "12_two_answers_in_a_row.jsonl",
            "alternates",
            [
                "1 of 20 rows set aside: the target's chat template refuses the conversation: roles must "
                "take turns (first: line 12)"
            ],
        ),
        ("01_sharegpt_roles.json", None, []),
    ],
)
def test_odd_rows_are_said_with_their_first_place(with_template, target, file, template, lines):
    odd = count(with_template, target, file, template)[3]
    assert list(odd.lines("mine")) == [f"mine: {line}" for line in lines]
    odd.check("mine", 0.05)


@pytest.mark.parametrize(
    ("file", "template", "share", "reason"),
    [
        (
            "03_model_name_role.jsonl",
            None,
            0.05,
            "20 of 20 rows .* 20 x role 'lagoon-7b-chat' is unknown .first: .*/03_model_name_role.jsonl, "
            "line 1; name it with domain.roles={lagoon-7b-chat: assistant}",
        ),
        (
            "04_text_and_tool_call.jsonl",
            "alternates",
            0.05,
            "20 x the target.s chat template refuses the conversation: roles must take turns .first: ",
        ),
        ("02_sharegpt_empty.json", None, 0.04, "1 of 22 rows .*max_bad_share=0.04 .*; raise it to continue"),
    ],
)
def test_too_many_odd_rows_are_an_error(with_template, target, file, template, share, reason):
    odd = count(with_template, target, file, template)[3]
    with pytest.raises(DomainError, match=reason) as caught:
        odd.check("mine", share)
    assert "\n" not in str(caught.value)
