"""`jsonl`: the user's own prompts, one JSON object a line."""

import json
from pathlib import Path
from typing import Any

from bench.domains.prompt import Message, Prompt, user_prompt
from bench.errors import DomainError

_ROLES = ("system", "user", "assistant")


def load(path: Path) -> list[Prompt]:
    """Prompts of a file whose lines hold `prompt` (text) or `messages` (role and content).

    A conversation that ends with the assistant's answer is asked again from its last user turn.

    Raises:
        DomainError: the file cannot be read, a line is broken, or there is no prompt at all.
    """
    try:
        # Not splitlines(): a JSON text may hold U+2028 and its like. Some editors begin files with a BOM.
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DomainError(
            f"domain.path={path} cannot be read: {error}; give a UTF-8 JSON Lines file"
        ) from error
    numbered = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise DomainError(f"{path} holds no prompts; write one JSON object a line")
    return [_to_prompt(path, number, line) for number, line in numbered]


def _to_prompt(path: Path, number: int, line: str) -> Prompt:
    def broken(reason: str) -> DomainError:
        return DomainError(f"{path}, line {number}: {reason}")

    try:
        row: Any = json.loads(line)
        # Half an emoji, as cut-off text has it, is JSON that no tokenizer takes.
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise broken(f"not valid Unicode ({error.reason})") from error
    except ValueError as error:
        raise broken(f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise broken('expected an object such as {"prompt": "..."}')
    name = f"{path.name}:{number}"
    if isinstance(row.get("prompt"), str) and row["prompt"].strip():
        return user_prompt(name, row["prompt"])
    if not isinstance(row.get("messages"), list):
        raise broken('expected "prompt" (a text) or "messages" (a list of turns)')
    turns = []
    for turn in row["messages"]:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise broken("every message needs a role and a content text")
        if turn.get("role") not in _ROLES:
            raise broken(f"role {turn.get('role')!r} is unknown; known are {', '.join(_ROLES)}")
        if turn["role"] == "user" and not turn["content"].strip():
            raise broken("a user turn is empty")
        turns.append(Message(turn["role"], turn["content"]))
    if turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns or turns[-1].role != "user":
        raise broken("the conversation has no user turn to answer")
    return Prompt(name, "\n".join(m.content for m in turns), tuple(turns))
