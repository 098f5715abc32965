import json

import pytest

from bench.domains.jsonl import load
from bench.errors import DomainError


def write(tmp_path, *lines: str):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prompts_and_conversations_are_read(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    path = write(tmp_path, '{"prompt": "One?"}', "", json.dumps({"messages": turns}))
    first, second = load(path)
    assert first.prompt_id == "mine.jsonl:1"
    assert first.as_dicts() == [{"role": "user", "content": "One?"}]
    assert second.prompt_id == "mine.jsonl:3"
    assert second.as_dicts() == turns[:2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": ', "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"prompt": 3}', 'expected "prompt"'),
        ('{"prompt": "  "}', 'expected "prompt"'),
        ('{"messages": [{"role": "user"}]}', "role and a content"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "'robot' is unknown"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "no user turn"),
        ('{"messages": []}', "no user turn"),
        ('{"messages": [{"role": "user", "content": " "}]}', "user turn is empty"),
    ],
)
def test_a_broken_line_names_file_line_and_reason(tmp_path, line, reason):
    path = write(tmp_path, '{"prompt": "fine"}', line)
    with pytest.raises(DomainError, match=rf"mine\.jsonl, line 2: .*{reason}"):
        load(path)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(DomainError, match="nosuch.jsonl cannot be read"):
        load(tmp_path / "nosuch.jsonl")
    with pytest.raises(DomainError, match="holds no prompts"):
        load(write(tmp_path, "", ""))
