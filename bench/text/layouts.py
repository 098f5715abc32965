"""Converts a row of any known layout to a conversation.

If `columns` names no column, these are tried in this order: `conversations`, `messages` or `conversation` (a
list of turns with role/content, or from/value as in ShareGPT; also as JSON text; a `response` can be beside
it); `turns` (Spec-Bench, MT-Bench, SPEED-Bench: a list of user texts. The first one is the prompt; later ones
depend on answers that the row does not have); `prompt` with or without `response` or `completion`; `text`.
`tools` or `functions` list what the assistant may call. `language` or `lang` is the language of the row.
"""

import json
import string
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.config import ColumnsConfig
from bench.text.conversation import Conversation, Message, from_messages
from bench.text.messages import parsed, read_message, read_tools
from bench.text.odd_rows import RowError
from bench.text.rows import Row

# Placeholder in SPEED-Bench on the hub for texts that come from other data sets.
_MASKED = "FULL BENCHMARK DATA SHOULD BE FETCHED"

_EXPECTED = (
    'expected "prompt" (a text, with or without "response"), "messages" or "conversations" (a list of '
    'turns), "turns" or "text"'
)

_NAME_THEM = "name other columns with domain.columns"

_CHATS, _RESPONSES, _TOOLS = (
    ("conversations", "messages", "conversation"),
    ("response", "completion"),
    ("tools", "functions"),
)

_LANGUAGES = ("language", "lang")


def to_conversation(
    row: Row, conversation_id: str, columns: ColumnsConfig, roles: Mapping[str, str]
) -> Conversation:
    """One conversation.

    Args:
        row: the row.
        conversation_id: its name.
        columns: the columns, if the layout is not one of the known ones.
        roles: roles of the user's, by their name in the data; the common names are known.

    Raises:
        RowError: the row cannot be read, has no known layout, or has a broken turn.
    """
    if row.error:
        raise row.error
    try:
        if not isinstance(row.value, dict):
            raise RowError("expected an object", 'such as {"prompt": "..."}')
        found, used = _read(row.value, conversation_id, columns, roles)
    except RowError as error:
        raise error.at(row.place) from error
    tools = next((tools for name in _TOOLS if (tools := read_tools(row.value.get(name)))), None)
    unused = () if used is None or found.has_response else _texts_beside(row.value, used)
    language = _language(row, columns)
    return replace(found, place=row.place, tools=tools, unused=unused, language=language)


def _language(row: Row, columns: ColumnsConfig) -> str | None:
    """The language that the row states."""
    if columns.language:
        try:
            value = _column(row.value, columns.language)
        except RowError as error:
            raise error.at(row.place) from error
    else:
        value = next((v for name in _LANGUAGES if isinstance(v := row.value.get(name), str)), None)
    return str(value).strip() or None if isinstance(value, str | int) else None


def _read(
    value: dict, name: str, columns: ColumnsConfig, roles: Mapping[str, str]
) -> tuple[Conversation, set[str] | None]:
    """The conversation, and the columns that were used; None if the user named them."""
    if columns.messages:
        return _from_turns(_column(value, columns.messages), name, roles), None
    if columns.turns:
        return _from_texts(_column(value, columns.turns), name, roles), None
    if columns.text:
        return _from_text(_column(value, columns.text), name), None
    if columns.prompt:
        return _from_columns(value, columns, name), None
    for chat in _CHATS:
        if isinstance(turns := _as_turns(value.get(chat)), list):
            return _from_turns([*turns, *_response_beside(turns, value)], name, roles), {chat, *_RESPONSES}
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            raise RowError(f"{chat} is a text that is not the JSON of a list of turns")
    if isinstance(value.get("turns"), list):
        return _from_texts(value["turns"], name, roles), {"turns"}
    if "prompt" in value:
        return _from_prompt(value, name, roles), {"prompt", *_RESPONSES}
    if isinstance(value.get("text"), str):
        return _from_text(value["text"], name), {"text"}
    raise RowError(_EXPECTED, _NAME_THEM)


def _texts_beside(value: dict, used: set[str]) -> tuple[str, ...]:
    """Other columns with text, which may be the response."""
    known = {*used, *_TOOLS, *_LANGUAGES}
    return tuple(
        sorted(str(k) for k, v in value.items() if k not in known and isinstance(v, str) and " " in v)
    )


def _as_turns(value: Any) -> Any:
    """Parses a list of turns given as JSON text; returns anything else unchanged."""
    found = parsed(value)
    return found if isinstance(found, list) and found and all(isinstance(t, dict) for t in found) else value


def _from_prompt(value: dict, name: str, roles: Mapping[str, str]) -> Conversation:
    prompt = _as_turns(value["prompt"])
    response = next((value[key] for key in _RESPONSES if value.get(key) not in (None, "", [])), None)
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
        if len(prompt) > 1 and response:
            raise RowError("several prompts with one response", "name columns with domain.columns")
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt.strip():
        if response is None or isinstance(response, str):
            return _asked(prompt, response, None, name)
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise RowError(_EXPECTED, _NAME_THEM)
    return _from_turns([*prompt, *_answer(response)], name, roles)


def _response_beside(turns: list, value: dict) -> list:
    """The response in a column of its own, of a conversation that ends with a question."""
    last = turns[-1] if turns else None
    name = last.get("role", last.get("from")) if isinstance(last, dict) else None
    if name not in ("user", "human"):
        return []
    return _answer(next((text for key in _RESPONSES if isinstance(text := value.get(key), str)), None))


def _answer(response: Any) -> list:
    if isinstance(response, str) and response.strip():
        return [{"role": "assistant", "content": response}]
    if isinstance(response, list) and all(isinstance(turn, dict) for turn in response):
        return response
    if response:
        raise RowError("the response must be a text or a list of turns")
    return []


def _from_columns(value: dict, columns: ColumnsConfig, name: str) -> Conversation:
    # An empty field at the end of a format leaves blank lines.
    prompt = _fill(columns.prompt or "", value).strip()
    if not prompt:
        raise RowError(f"domain.columns.prompt={columns.prompt!r} gives an empty prompt")
    response = _fill(columns.response, value) if columns.response else None
    system = _system(columns.system, value) if columns.system else None
    return _asked(prompt, response, system, name)


def _system(pattern: str, value: dict) -> str:
    # It may be one sentence for all rows. A single word must be a column, so that typos are found.
    is_sentence = " " in pattern and "{" not in pattern and pattern not in value
    return pattern if is_sentence else _fill(pattern, value)


def _asked(prompt: str, response: str | None, system: str | None, name: str) -> Conversation:
    messages = [Message("system", system)] if system and system.strip() else []
    messages.append(Message("user", prompt))
    if response and response.strip():
        messages.append(Message("assistant", response))
    return from_messages(name, messages)


def _from_texts(texts: Any, name: str, roles: Mapping[str, str]) -> Conversation:
    if texts and isinstance(texts, list) and isinstance(texts[0], dict):
        return _from_turns(texts, name, roles)
    if not isinstance(texts, list) or not texts or not isinstance(texts[0], str) or not texts[0].strip():
        raise RowError("turns must be a list whose first entry is what the user asks")
    if texts[0].startswith(_MASKED):
        mend = "complete the data with its prepare_data.py, add domain.source=file domain.path=FILE.parquet"
        raise RowError("there is a placeholder instead of the user's text", mend)
    return _asked(texts[0], None, None, name)


def _from_text(text: Any, name: str) -> Conversation:
    if not isinstance(text, str) or not text.strip():
        raise RowError("the text is empty")
    return Conversation(name, text, (), text)


def _from_turns(turns: Any, name: str, roles: Mapping[str, str]) -> Conversation:
    turns = _as_turns(turns)
    if not isinstance(turns, list):
        raise RowError("every conversation needs a list of turns")
    if not turns:
        raise RowError("the conversation is empty")
    read = [read_message(turn, roles) for turn in turns]
    unseen = [kind for _, kinds in read for kind in kinds]
    messages = [message for message, _ in read]
    return from_messages(name, messages, unseen=tuple(dict.fromkeys(unseen)))


class _Formatter(string.Formatter):
    """Formats rows; lists of words are joined by spaces, as CoNLL-style columns need."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
            value = " ".join(map(str, value))
        elif isinstance(value, list | dict):
            value = json.dumps(value, ensure_ascii=False)
        return super().format_field("" if value is None else value, format_spec)


_FORMATTER = _Formatter()


def _fill(pattern: str, value: dict) -> str:
    if "{" not in pattern or pattern in value:
        return _FORMATTER.format_field(_column(value, pattern), "")
    try:
        return _FORMATTER.vformat(pattern, (), value)
    except ValueError as error:
        raise RowError(f"domain.columns has {pattern!r}, which does not fit the row: {error}") from error
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        known = ", ".join(map(str, value))
        raise RowError(
            f"domain.columns names {error}, which is not in the row", f"its columns are {known}"
        ) from error


def _column(value: dict, name: str) -> Any:
    if name not in value:
        raise RowError(f"column {name!r} is missing", f"the row has {', '.join(map(str, value))}")
    return value[name]
