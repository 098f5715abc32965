"""The parts of an assistant message that the target's chat template does not show, by field.

A field is shown if its texts are in the rendered response and would not be there without the field. To prove
that, the turn is rendered again without the field. This is only done if the texts alone do not decide it.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from bench.text.conversation import Turn
from bench.text.messages import CALLS, parsed

# Fields that are never text of the model: names, ids, times.
NO_TEXT = frozenset(
    {
        *("role", "name", "id", "index", "tool_call_id", "model", "weight", "finish_reason", "stop_reason"),
        *("timestamp", "created", "created_at", "token_ids", "logprobs"),
    }
)

# A shorter text can be in a response by chance.
_TELLING = 8


def read_fields(turn: Turn) -> dict[str, Any]:
    """The fields of a message with something that the model wrote."""
    return {
        name: value
        for name, value in turn.items()
        if name not in NO_TEXT and value and isinstance(value, str | list | dict)
    }


def left_out(
    fields: dict[str, Any], shown: str, without: Callable[[str], str | None]
) -> Iterator[tuple[str, str]]:
    """(field, text) of everything that `shown` does not have.

    Args:
        fields: fields of one message, from `read_fields`.
        shown: the response as rendered by the template, without the end of the turn.
        without: renders the response without a field; returns None if the template refuses that.
    """
    for name, value in fields.items():
        lacking = [text for text in _texts(name, value) if not _is_in(text, shown)]
        if not lacking and (len(fields) == 1 or _is_telling(name, fields)):
            continue
        if without(name) == shown:
            yield name, as_text(name, value)
        elif lacking and (rest := _rest(name, value, shown)).strip():
            yield name, rest


def as_text(name: str, value: Any) -> str:
    """A field as text that a model would write, without ids and escapes."""
    if name == CALLS and isinstance(value, list):
        return "\n".join(_call_text(call) for call in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _call_text(call: Any) -> str:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        function = call["function"]
        call = {"name": function.get("name"), "arguments": parsed(function.get("arguments"))}
    return call if isinstance(call, str) else json.dumps(call, ensure_ascii=False, default=str)


def _texts(name: str, value: Any) -> list[str]:
    """Every text of a field, including keys; without ids of calls."""
    if name == CALLS and isinstance(value, list):
        return [text for call in value for text in _texts_of_call(call)]
    return list(_leaves(value))


def _texts_of_call(call: Any) -> list[str]:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        return [*_leaves(call["function"].get("name")), *_leaves(call["function"].get("arguments"))]
    return list(_leaves(call))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (str(key), *_leaves(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)


def _is_in(text: str, shown: str) -> bool:
    """Whether a text is shown, unchanged or escaped once or twice as in JSON."""
    if text in shown:
        return True
    escaped = {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)}
    return any(e in shown or json.dumps(e)[1:-1] in shown for e in escaped)


def _is_telling(name: str, fields: dict[str, Any]) -> bool:
    """Whether the field has a text that no other field could have put into the response."""
    others = "\n".join(as_text(other, value) for other, value in fields.items() if other != name)
    return any(len(text) >= _TELLING and text not in others for text in _texts(name, fields[name]))


def _rest(name: str, value: Any, shown: str) -> str:
    """The part of a field that is not shown."""
    if name == CALLS and isinstance(value, list):
        return "\n".join(_call_text(c) for c in value if not all(_is_in(t, shown) for t in _texts_of_call(c)))
    if not isinstance(value, str):
        return as_text(name, value)
    # A template that drops a part keeps the text before or after it.
    text, body = value.strip(), shown.strip()
    head, tail = _longest(text, body, from_end=False), _longest(text, body, from_end=True)
    if head < _TELLING and not body.startswith(text[:head]):
        head = 0
    if tail < _TELLING and not body.endswith(text[len(text) - tail :]):
        tail = 0
    return text[head : max(head, len(text) - tail)]


def _longest(text: str, shown: str, from_end: bool) -> int:
    """Number of characters of the longest start, or end, of the text that is shown."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        piece = text[-middle:] if from_end else text[:middle]
        low, high = (middle, high) if piece in shown else (low, middle - 1)
    return low
