"""Sets one key of a `config.json` and leaves every other byte as it is."""

import json
from typing import NamedTuple

from bench.errors import CheckpointError

_KEY = "draft_vocab_size"


class _Entry(NamedTuple):
    """A top-level key and its value, as places in the text."""

    key: str
    lead_start: int
    key_start: int
    key_end: int
    value_start: int
    value_end: int


def with_draft_vocab_size(text: str, vocab_size: int, where: str) -> str:
    """`text` with its top-level `draft_vocab_size` set; order, indentation and line ends stay.

    A missing key is put after `vocab_size`, or at the end, formatted like the entry before it. Keys of the
    same name further down are left alone.

    Args:
        text: of a JSON object.
        vocab_size: k.
        where: name of the file, for errors.

    Raises:
        CheckpointError: the text is not a JSON object.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: expected a JSON object, as a model's configuration is")
    entries = _entries(text)
    if not entries:
        brace = text.index("{") + 1
        return f'{text[:brace]}"{_KEY}": {vocab_size}{text[brace:]}'
    for entry in reversed(entries):
        if entry.key == _KEY:
            return f"{text[: entry.value_start]}{vocab_size}{text[entry.value_end :]}"
    keys = [entry.key for entry in entries]
    place = keys.index("vocab_size") if "vocab_size" in keys else len(entries) - 1
    before = entries[place]
    # What follows a comma, where there is one: `{"a": 1, "b": 2}` has none after its brace.
    pattern = entries[place + 1] if place + 1 < len(entries) else before
    lead = text[pattern.lead_start : pattern.key_start]
    colon = text[before.key_end : before.value_start]
    return f'{text[: before.value_end]},{lead}"{_KEY}"{colon}{vocab_size}{text[before.value_end :]}'


def _entries(text: str) -> list[_Entry]:
    """Top-level entries of a JSON object that is known to be valid."""
    decoder = json.JSONDecoder()
    found: list[_Entry] = []
    at = text.index("{") + 1
    while True:
        lead_start = at
        at = _skip(text, at)
        if text[at] == "}":
            return found
        key_start = at
        key, key_end = decoder.raw_decode(text, key_start)
        value_start = _skip(text, _skip(text, key_end) + 1)
        _, value_end = decoder.raw_decode(text, value_start)
        found.append(_Entry(key, lead_start, key_start, key_end, value_start, value_end))
        at = _skip(text, value_end)
        if text[at] == "}":
            return found
        at += 1


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
