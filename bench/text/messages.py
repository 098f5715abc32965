"""Reads one message of any layout: role, text, and every other field under its common name.

Data sets use different names. Chat templates expect thoughts in `reasoning_content`, and calls in
`tool_calls` of type `function` with arguments as values, not as JSON text; engines convert requests in the
same way. No other field is renamed. Only null and empty fields are dropped: tables fill up rows with them.
"""

import json
from collections.abc import Mapping
from typing import Any

from bench.text.conversation import Message
from bench.text.odd_rows import RowError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function-call": "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "function_response": "tool",
    "function-response": "tool",
    "observation": "tool",
    "ipython": "tool",
}

# Roles in ShareGPT files whose text is a call.
_CALLERS = ("function_call", "function-call", "tool_call", "tool_calls")

_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")

THOUGHTS, CALLS = "reasoning_content", "tool_calls"

_CONTENTS = ("content", "value", "text")

_NOTHING = "every message needs a role and a content"

# Types of content parts with text, and the field that has it.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text"}

_THOUGHT_PARTS = ("thinking", "reasoning")

_CALL_PARTS = ("tool_use", "tool_call")


def read_message(turn: Any, roles: Mapping[str, str]) -> tuple[Message, list[str]]:
    """The message, and the types of its content without text, such as images.

    Args:
        turn: the message in the row.
        roles: roles of the user's, by their name in the data; the common names are known.

    Raises:
        RowError: the turn has no role or an unknown one, has no content, or is an answer without text.
    """
    if not isinstance(turn, dict):
        raise RowError(_NOTHING)
    name, text = turn.get("role"), turn.get("content")
    if len(turn) == 2 and isinstance(name, str) and name and isinstance(text, str) and text.strip():
        role = _role(name, roles)
        if name.casefold() not in _CALLERS:
            return Message(role, text), []  # as below, sooner: nearly all messages are of this kind
    left = {str(key): value for key, value in turn.items() if value not in (None, "", [], {})}
    name, alias = left.pop("role", None), left.pop("from", None)
    name = alias if name is None else name
    role = _role(name, roles)
    key = next((key for key in _CONTENTS if turn.get(key) is not None), None)
    text, fields, unseen = _read_content(left.pop(key, "")) if key else ("", {}, [])
    fields |= _fields({name: value for name, value in left.items() if value != turn.get(key)}, fields)
    if str(name).casefold() in _CALLERS and CALLS not in fields and (calls := _calls_in(text)):
        text, fields[CALLS] = "", calls
    if key is None and not fields:
        raise RowError(_NOTHING)
    if unseen and role == "assistant":
        raise RowError(f"an assistant turn has a part of type {unseen[0]!r}, which has no text to count")
    if role == "user" and not text.strip() and not unseen:
        raise RowError("a user turn is empty")
    return Message(role, text, fields or None), unseen


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """JSON schemas of tools, from a list or its JSON text; None if it is neither."""
    found = parsed(value)
    if not isinstance(found, list) or not found or not all(isinstance(tool, dict) for tool in found):
        return None
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in found]


def _role(name: Any, roles: Mapping[str, str]) -> str:
    if name is None or isinstance(name, dict | list):
        raise RowError(_NOTHING)
    name = str(name)
    role = roles.get(name) or ROLES.get(name.strip().casefold())
    if role is None:
        raise RowError(
            f"role {name!r} is unknown",
            f"name it with domain.roles={{{name}: assistant}}, or user, system or tool",
        )
    return role


def _read_content(content: Any) -> tuple[str, dict[str, Any], list[str]]:
    """Text, thoughts and calls of a content, and the types of its parts without text."""
    if isinstance(content, str):
        return content, {}, []
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise RowError("a content is neither a text nor a list of parts")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    unseen: list[str] = []
    for part in content:
        kind = str(part.get("type", "text")) if isinstance(part, dict) else "text"
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise RowError("a content is neither a text nor a list of parts")
        elif kind in _THOUGHT_PARTS and isinstance(thought := part.get(kind, part.get("text")), str):
            thoughts.append(thought)
        elif kind in _CALL_PARTS:
            calls += _calls([{**part, "arguments": part.get("input", part.get("arguments"))}])
        elif kind in _TEXT_PARTS and isinstance(part.get(_TEXT_PARTS[kind]), str):
            texts.append(part[_TEXT_PARTS[kind]])
        elif kind == "tool_result" and isinstance(part.get("content"), str | list):
            text, _, lacking = _read_content(part["content"])
            texts.append(text)
            unseen += lacking
        else:
            unseen.append(kind)
    fields: dict[str, Any] = {}
    if thoughts:
        fields[THOUGHTS] = "".join(thoughts)
    if calls:
        fields[CALLS] = calls
    return "".join(texts), fields, unseen


def _fields(left: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The other fields, with thoughts and calls under their common names."""
    fields: dict[str, Any] = {}
    for name, value in left.items():
        if name in _THOUGHTS and isinstance(value, str) and THOUGHTS not in {**known, **fields}:
            fields[THOUGHTS] = value
        elif name in _THOUGHTS and {**known, **fields}.get(THOUGHTS) == value:
            continue  # the same text under a second name
        elif name == "function_call" and CALLS not in left and isinstance(value, dict):
            fields[CALLS] = _calls([value])
        elif name == CALLS and isinstance(calls := parsed(value), list):
            fields[CALLS] = [*known.get(CALLS, []), *_calls(calls)]
        else:
            fields[name] = value
    return fields


def _calls(entries: list) -> list[dict[str, Any]]:
    """Calls as chat templates expect them; an entry that is not a call is kept unchanged."""
    return [_call(entry) for entry in entries]


def _call(entry: Any) -> Any:
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return entry
    arguments = function.get("arguments", function.get("parameters"))
    values = parsed(arguments)
    call = {
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": values if isinstance(values, dict) else arguments if arguments is not None else {},
        },
    }
    return {"id": entry["id"], **call} if isinstance(entry.get("id"), str) else call


def _calls_in(text: str) -> list[dict[str, Any]] | None:
    """Calls that a text contains as JSON, one or a list; None if it is something else."""
    found = parsed(text)
    entries = found if isinstance(found, list) else [found]
    if entries and all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries):
        return _calls(entries)
    return None


def parsed(value: Any) -> Any:
    """Parses the JSON text of an object or a list; returns anything else unchanged."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        found = json.loads(value)
        if "\\u" in value:
            # An escaped half of a character only shows once the text is parsed; no tokenizer accepts it.
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError):
        return value
