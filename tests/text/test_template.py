"""The one place that renders: what it says when a template refuses, and the ways to write calls."""

import pytest

from bench.errors import DomainError
from bench.text.conversation import Message, Prompt, user_prompt
from bench.text.odd_rows import RowError
from bench.text.template import ChatTemplate, RefusedError, prompt_ids

CALL = {"id": "call_k0001", "type": "function", "function": {"name": "f", "arguments": {"x": "\u00e9"}}}
CALLING = (Message("user", "Hi"), Message("assistant", "", {"tool_calls": [CALL]}), Message("user", "And?"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no, thanks\\nreally') }}", "no, thanks"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[0].nosuch.deeper }}", "has no attribute 'nosuch'"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_whatever_a_template_raises_is_one_line(with_template, template, reason):
    with pytest.raises(RefusedError, match=reason) as caught:
        ChatTemplate(with_template(template)).render([{"role": "user", "content": "Hi"}])
    assert "\n" not in str(caught.value)


def test_a_prompt_is_encoded_as_the_tokenizer_does_it(target):
    turns = [{"role": "user", "content": "Hi"}]
    expected = target.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert prompt_ids(target.tokenizer, user_prompt("p", "Hi"), target.vocab_size) == expected


def test_a_prompt_that_the_target_cannot_read_names_its_row(target, with_template):
    prompt = Prompt("p", "g", (Message("user", "Hi"),), place="mine.jsonl, line 7")
    refusing = with_template("{{ raise_exception('no') }}")
    with pytest.raises(
        RowError, match="mine.jsonl, line 7: the target's chat template refuses the conversation: no"
    ):
        prompt_ids(refusing, prompt, target.vocab_size)
    with pytest.raises(RowError, match="line 7: the target has no row for token .* its vocabulary has 17"):
        prompt_ids(target.tokenizer, prompt, 17)


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("c.function.arguments | tojson", '{"x": "\u00e9"}'),
        ("c.function.arguments['x']", "\u00e9"),
        ("'=' + c.function.arguments", '={"x": "\u00e9"}'),
        ("c.id if c.id | length == 9 else raise_exception('nine!')", "allk0001".rjust(9, "c")),
    ],
)
def test_calls_are_written_in_a_way_that_the_template_takes(with_template, target, expression, shown):
    loop = "{% for c in m.tool_calls or [] %}{{ EXPR }}{% endfor %}".replace("EXPR", expression)
    tokenizer = with_template("{% for m in messages %}<{{ m.content }}" + loop + ">{% endfor %}")
    ids = prompt_ids(tokenizer, Prompt("p", "g", CALLING), target.vocab_size)
    assert tokenizer.decode(ids) == f"<Hi><{shown}><And?>"


def test_tools_choose_the_template_that_knows_them(tokenizer, with_template):
    changed = with_template("")
    changed.chat_template = {"default": "plain", "tool_use": "{{ tools[0].function.name }}"}
    template = ChatTemplate(changed)
    turns, tools = [{"role": "user", "content": "Hi"}], [{"type": "function", "function": {"name": "f"}}]
    assert (template.render(turns), template.render(turns, tools)) == ("plain", "f")
    changed.chat_template = {"other": "x", "another": "y"}
    with pytest.raises(DomainError, match="cannot be chosen: This model has multiple chat templates"):
        ChatTemplate(changed).render(turns)


def test_without_a_template_the_way_out_is_named(with_template):
    with pytest.raises(DomainError, match="no chat template.*domain.plain_text=true"):
        ChatTemplate(with_template(""))
