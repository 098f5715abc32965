import gzip
import json

from bench.text import embedded


def test_human_eval_asks_for_the_function(tmp_path):
    path = tmp_path / "HumanEval.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"task_id": "HumanEval/0", "prompt": "\ndef f(x):\n    pass\n"}) + "\n")
    (prompt,) = embedded.load_human_eval(path)
    assert prompt.prompt_id == "HumanEval/0"
    assert (
        prompt.messages[0].content == "Complete this Python function.\n\n```python\ndef f(x):\n    pass\n```"
    )


def test_bfcl_writes_the_functions_out_and_groups_rewordings(tmp_path):
    def row(row_id: str, question: str) -> str:
        function = {"name": "area", "parameters": {}}
        return json.dumps(
            {"id": row_id, "question": [[{"role": "user", "content": question}]], "function": [function]}
        )

    for category in embedded.CATEGORIES:
        (tmp_path / f"BFCL_v4_{category}.json").write_text("")
    (tmp_path / "BFCL_v4_simple_python.json").write_text(row("simple_python_0", "Area of  a square?"))
    (tmp_path / "BFCL_v4_multiple.json").write_text(row("multiple_7", "area of a square?"))
    live = [
        row("live_simple_0-3-1", "One"),
        row("live_simple_1-3-2", "Two"),
        row("live_simple_2-4-0", "Three"),
    ]
    (tmp_path / "BFCL_v4_live_simple.json").write_text("\n".join(live) + "\n")
    plain, other, first, second, third = embedded.load_bfcl(tmp_path)
    assert '{"name": "area", "parameters": {}}' in plain.messages[0].content
    assert "Area of  a square?" in plain.messages[0].content
    assert plain.group == other.group
    assert first.group == second.group != third.group


def test_writing_bench_keeps_english_only(tmp_path):
    rows = [
        {"index": 1, "query": "Write a poem about rivers."},
        {"index": 2, "query": "写一首关于河流的诗。"},
        {"index": 3, "query": "Write about the word 道 " + "and its long history in thought. " * 9},
    ]
    path = tmp_path / "benchmark_all.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    assert [p.prompt_id for p in embedded.load_writing_bench(path)] == ["writing/1", "writing/3"]
