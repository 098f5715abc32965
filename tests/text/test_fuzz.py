"""Files of nonsense: each ends in counts, or in one line that says what is wrong; never in a traceback."""

import gzip
import json
import random

import pytest

from bench.config import DomainSource, Responses, Source, VocabConfig
from bench.errors import BenchError
from bench.text.domain_counts import count_domain

TEXTS = [
    "Hi",
    "",
    " ",
    "a\u2028b",
    "\ud83d",
    "<|im_end|>",
    "</think>x",
    "\x00",
    "1e3",
    "{x}",
    "日本",
    "x" * 5000,
    "[1]",
]
ROLES = [
    "user",
    "assistant",
    "system",
    "tool",
    "human",
    "gpt",
    "Assistant ",
    "lagoon-7b",
    "",
    None,
    3,
    ["user"],
    {},
]
NAMES = [
    "role",
    "from",
    "content",
    "value",
    "text",
    "tool_calls",
    "reasoning_content",
    "function_call",
    "name",
    "x",
]
COLUMNS = [
    "messages",
    "conversations",
    "turns",
    "prompt",
    "response",
    "completion",
    "text",
    "tools",
    "id",
    "data",
]
FILES = ["a.jsonl", "a.json", "a.ndjson", "a.txt", "a.jsonl.gz", "a.parquet", "a", "a.json.gz"]


class Nonsense:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth=0):
        pick = self.random.random()
        if pick < 0.5 or depth > 3:
            return self.random.choice([*TEXTS, None, 0, 1, -1.5, True, float("nan"), 10**30])
        if pick < 0.75:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return {
            self.random.choice([*NAMES, *COLUMNS]): self.value(depth + 1)
            for _ in range(self.random.randrange(4))
        }

    def call(self):
        arguments = self.random.choice(['{"a": 1}', "{broken", {"a": "b"}, None, 3, self.value()])
        function = {"name": self.random.choice(["f", None, 3]), "arguments": arguments}
        return self.random.choice(
            [{"id": "c", "type": "function", "function": function}, function, self.value()]
        )

    def content(self):
        kinds = ["text", "image_url", "thinking", "tool_use", None, 3]
        part = {"type": self.random.choice(kinds), "text": self.random.choice([*TEXTS, None])}
        return self.random.choice([self.random.choice(TEXTS), [part], [part, "x"], part, self.value()])

    def message(self):
        if self.random.random() < 0.1:
            return self.value()
        turn = {self.random.choice(["role", "from"]): self.random.choice(ROLES)}
        turn[self.random.choice(["content", "value", "text"])] = self.content()
        if self.random.random() < 0.3:
            turn["tool_calls"] = self.random.choice([[self.call()], "[{}]", self.value()])
        if self.random.random() < 0.3:
            turn[self.random.choice(NAMES)] = self.value()
        return turn

    def row(self):
        pick = self.random.random()
        if pick < 0.15:
            return self.value()
        if pick < 0.35:
            return {
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
            }
        turns = [self.message() for _ in range(self.random.randrange(5))]
        row = {self.random.choice(COLUMNS): self.random.choice([turns, json.dumps(turns), self.value()])}
        if self.random.random() < 0.4:
            row[self.random.choice(COLUMNS)] = self.value()
        return row

    def file(self, folder):
        rows = [self.row() for _ in range(self.random.randrange(1, 8))]
        lines = [json.dumps(row) for row in rows]
        text = self.random.choice(
            ["\n".join(lines), json.dumps(rows), json.dumps({"data": rows}), "\n".join(lines) + "\n{"]
        )
        data = text.encode("utf-8", "surrogatepass")
        if self.random.random() < 0.2:
            place = self.random.randrange(len(data) + 1)
            data = self.random.choice([data[:place], data[:place] + b"\xff\xfe" + data[place:], b"", b"\n\n"])
        path = folder / self.random.choice(FILES)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and self.random.random() < 0.8 else data)
        return path


@pytest.mark.parametrize("start", range(0, 500, 50))
def test_a_file_of_nonsense_ends_in_counts_or_in_one_line(tmp_path, monkeypatch, target, finders, start):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    for seed in range(start, start + 50):
        nonsense = Nonsense(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        share = nonsense.random.choice([0.05, 1.0])
        responses = nonsense.random.choice([Responses.dataset, Responses.auto])
        domain = DomainSource(
            "mine", Source.file, str(nonsense.file(folder)), responses=responses, max_bad_share=share
        )
        try:
            found = count_domain(domain, target, VocabConfig(["full"]), lambda *_: [], 1, lambda done: None)
        except BenchError as error:
            assert error.exit_code == 2 and str(error) and "\n" not in str(error), seed
        else:
            assert found.sides.ranking.counts.sum() > 0, seed
            counted = found.sides.num_conversations + found.sides.num_silent + found.odd.num_set_aside
            assert counted == found.odd.num_read, seed
