"""Converts a row of any known layout to a conversation.

If `columns` names no column, these are tried in this order: `conversations` or `messages` (a list of turns
with role/content, or from/value as in ShareGPT); `turns` (Spec-Bench, MT-Bench, SPEED-Bench: a list of user
texts. The first one is the prompt; later ones depend on answers that the row does not have); `prompt` with or
without `response`; `text`.
"""

import json
import string
from typing import Any

from bench.config import ColumnsConfig
from bench.errors import DomainError
from bench.text.conversation import Conversation, Message, from_messages
from bench.text.rows import Row

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}

# Placeholder in SPEED-Bench on the hub for texts that come from other data sets.
_MASKED = "FULL BENCHMARK DATA SHOULD BE FETCHED"

_EXPECTED = (
    'expected "prompt" (a text, with or without "response"), "messages" or "conversations" (a list of '
    'turns), "turns" or "text"; name other columns with domain.columns'
)


def to_conversation(row: Row, conversation_id: str, columns: ColumnsConfig) -> Conversation:
    """One conversation.

    Raises:
        DomainError: the row has no known layout, or a turn is broken. The message says which row.
    """
    value, place = row.value, row.place
    if not isinstance(value, dict):
        raise DomainError(f'{place}: expected an object such as {{"prompt": "..."}}')
    if columns.messages:
        return _from_turns(_column(value, columns.messages, place), conversation_id, place)
    if columns.turns:
        return _from_texts(_column(value, columns.turns, place), conversation_id, place)
    if columns.text:
        return _from_text(_column(value, columns.text, place), conversation_id, place)
    if columns.prompt:
        return _from_columns(value, columns, conversation_id, place)
    for name in ("conversations", "messages"):
        if isinstance(value.get(name), list):
            return _from_turns(value[name], conversation_id, place)
    if isinstance(value.get("turns"), list):
        return _from_texts(value["turns"], conversation_id, place)
    if "prompt" in value:
        return _from_prompt(value, conversation_id, place)
    if isinstance(value.get("text"), str):
        return _from_text(value["text"], conversation_id, place)
    raise DomainError(f"{place}: {_EXPECTED}")


def _from_prompt(value: dict, conversation_id: str, place: str) -> Conversation:
    prompt, response = value["prompt"], value.get("response")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
        if len(prompt) > 1 and response:
            raise DomainError(f"{place}: several prompts with one response; name columns with domain.columns")
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt.strip():
        if response is None or isinstance(response, str):
            return _asked(prompt, response, None, conversation_id)
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise DomainError(f"{place}: {_EXPECTED}")
    return _from_turns([*prompt, *_answer(response, place)], conversation_id, place)


def _answer(response: Any, place: str) -> list:
    if isinstance(response, str) and response.strip():
        return [{"role": "assistant", "content": response}]
    if isinstance(response, list) and all(isinstance(turn, dict) for turn in response):
        return response
    if response:
        raise DomainError(f"{place}: the response must be a text or a list of turns")
    return []


def _from_columns(value: dict, columns: ColumnsConfig, conversation_id: str, place: str) -> Conversation:
    # An empty field at the end of a format leaves blank lines.
    prompt = _fill(columns.prompt or "", value, place).strip()
    if not prompt:
        raise DomainError(f"{place}: domain.columns.prompt={columns.prompt!r} gives an empty prompt")
    response = _fill(columns.response, value, place) if columns.response else None
    system = _system(columns.system, value, place) if columns.system else None
    return _asked(prompt, response, system, conversation_id)


def _system(pattern: str, value: dict, place: str) -> str:
    # It may be one sentence for all rows. A single word must be a column, so that typos are found.
    is_sentence = " " in pattern and "{" not in pattern and pattern not in value
    return pattern if is_sentence else _fill(pattern, value, place)


def _asked(prompt: str, response: str | None, system: str | None, conversation_id: str) -> Conversation:
    messages = [Message("system", system)] if system and system.strip() else []
    messages.append(Message("user", prompt))
    if response and response.strip():
        messages.append(Message("assistant", response))
    return from_messages(conversation_id, messages)


def _from_texts(texts: Any, conversation_id: str, place: str) -> Conversation:
    if texts and isinstance(texts, list) and isinstance(texts[0], dict):
        return _from_turns(texts, conversation_id, place)
    if not isinstance(texts, list) or not texts or not isinstance(texts[0], str) or not texts[0].strip():
        raise DomainError(f"{place}: turns must be a list whose first entry is what the user asks")
    if texts[0].startswith(_MASKED):
        fix = "fill in the data with its prepare_data.py, add domain.source=file domain.path=FILE.parquet"
        raise DomainError(f"{place}: there is a placeholder instead of the user's text; {fix}")
    return _asked(texts[0], None, None, conversation_id)


def _from_text(text: Any, conversation_id: str, place: str) -> Conversation:
    if not isinstance(text, str) or not text.strip():
        raise DomainError(f"{place}: the text is empty")
    return Conversation(conversation_id, text, (), text)


def _from_turns(turns: Any, conversation_id: str, place: str) -> Conversation:
    if not isinstance(turns, list):
        raise DomainError(f"{place}: every conversation needs a list of turns")
    if not turns:
        raise DomainError(f"{place}: the conversation has no user turn")
    return from_messages(conversation_id, [_message(turn, place) for turn in turns])


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise DomainError(f"{place}: every message needs a role and a content text")
    # In a table whose rows differ, each row has both keys, and one of them is null.
    name = turn.get("role") or turn.get("from")
    role = _ROLES.get(name) if isinstance(name, str) else None
    content = _content(turn, place)
    if content is None or name is None:
        raise DomainError(f"{place}: every message needs a role and a content text")
    if role is None:
        raise DomainError(f"{place}: role {name!r} is unknown; known are {', '.join(_ROLES)}")
    if role == "user" and not content.strip():
        raise DomainError(f"{place}: a user turn is empty")
    return Message(role, content)


def _content(turn: dict, place: str) -> str | None:
    """The text of a turn; if the turn only calls tools, the calls as compact JSON."""
    content = turn.get("content")
    if content is None:
        content = turn.get("value")
    if isinstance(content, list):
        content = "".join([_part(part, place) for part in content])
    if not content and turn.get("tool_calls"):
        return json.dumps(turn["tool_calls"], ensure_ascii=False, separators=(",", ":"))
    return content if isinstance(content, str) else None


def _part(part: Any, place: str) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise DomainError(f"{place}: a content part has no text; only text can be counted")
    return text


class _Formatter(string.Formatter):
    """Formats rows; joins lists of words by spaces, for columns in CoNLL style."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
            value = " ".join(map(str, value))
        elif isinstance(value, list | dict):
            value = json.dumps(value, ensure_ascii=False)
        return super().format_field("" if value is None else value, format_spec)


_FORMATTER = _Formatter()


def _fill(pattern: str, value: dict, place: str) -> str:
    if "{" not in pattern or pattern in value:
        return _FORMATTER.format_field(_column(value, pattern, place), "")
    try:
        return _FORMATTER.vformat(pattern, (), value)
    except ValueError as error:
        raise DomainError(
            f"{place}: domain.columns has {pattern!r}, which does not fit the row: {error}"
        ) from error
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        known = ", ".join(map(str, value))
        raise DomainError(
            f"{place}: domain.columns names {error}, which is not in the row; its columns are {known}"
        ) from error


def _column(value: dict, name: str, place: str) -> Any:
    if name not in value:
        known = ", ".join(map(str, value))
        raise DomainError(f"{place}: column {name!r} is missing; the row has {known}")
    return value[name]
