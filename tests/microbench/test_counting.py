"""Counting response tokens: this package's way against the reference implementation's algorithm.

The reference of arXiv 2603.05210 renders each conversation, tokenizes it whole with offsets, finds assistant
spans by a regular expression written for one template, and marks tokens one by one in Python, in one process.
That algorithm is written here again, on the same file and in the same run.

The file has the size that the product promises to handle; CONVERSATIONS=5000 makes a smaller one.
"""

import json
import os
import random
import re
import time
from functools import partial

import numpy as np
import pytest
import torch

from bench.assets import fetch
from bench.config import DomainSource, Source
from bench.models.fetching import resolve_tokenizer
from bench.text import embedded, load_conversations, load_prompts
from bench.text.counting import CountSettings, count_responses
from bench.text.tokenizer import load_tokenizer

NUM_BY_REFERENCE = 1000
SPAN = re.compile(r"<\|im_start\|>assistant\n(.*?)(?=<\|im_end\|>\n<\|im_start\|>user|$)", re.DOTALL)


@pytest.fixture(scope="module")
def num_conversations(pytestconfig):
    """The promised size where times are taken; elsewhere as many as the reference counts."""
    if not pytestconfig.getoption("benchmark_enable"):
        return NUM_BY_REFERENCE
    return int(os.environ.get("CONVERSATIONS", "50000"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, num_conversations):
    """Conversations of two or four turns, about 400 tokens each, out of paragraphs of real prompts."""
    texts = [p.messages[-1].content for p in load_prompts(DomainSource("writing", Source.writing_bench))]
    texts += [p.messages[-1].content for p in embedded.load_bfcl(fetch("bfcl"))]
    paragraphs = [piece for text in texts for piece in text.split("\n") if 80 < len(piece) < 600]
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "conversations.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_conversations):
            turns = []
            for _ in range(rng.choice([1, 1, 2])):
                turns.append({"role": "user", "content": rng.choice(paragraphs)})
                answer = "\n\n".join(rng.choice(paragraphs) for _ in range(rng.choice([2, 3, 4])))
                turns.append({"role": "assistant", "content": answer})
            file.write(json.dumps({"conversations": turns}) + "\n")
    return path


def count_by_reference(path, tokenizer, limit):
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    with path.open(encoding="utf-8") as lines:
        for _, line in zip(range(limit), lines, strict=False):
            text = tokenizer.apply_chat_template(json.loads(line)["conversations"], tokenize=False)
            encoded = tokenizer(
                text, return_tensors="pt", return_offsets_mapping=True, add_special_tokens=False
            )
            ids, offsets = encoded.input_ids[0], encoded.offset_mapping[0].tolist()
            mask = torch.zeros(len(ids), dtype=torch.long)
            for match in SPAN.finditer(text):
                first, last = match.span(1)
                for index, (start, end) in enumerate(offsets):
                    if end > first and start < last:
                        mask[index] = 1
            found, occurrences = ids[mask == 1].unique(return_counts=True)
            counts[found.numpy()] += occurrences.numpy()
    return counts


def test_counting_against_the_reference(corpus, num_conversations, benchmark, capsys):
    target = load_tokenizer(resolve_tokenizer("smollm2-135m-instruct"))
    domain = DomainSource("chat", Source.file, str(corpus))
    begun = time.perf_counter()
    by_reference = count_by_reference(corpus, target.tokenizer, NUM_BY_REFERENCE)
    reference_per_s = NUM_BY_REFERENCE / (time.perf_counter() - begun)
    settings = CountSettings(0, 0.2, False)
    begun = time.perf_counter()
    count = partial(count_responses, lambda: load_conversations(domain), target, settings)
    sides = benchmark.pedantic(count, rounds=1)
    own_per_s = num_conversations / (time.perf_counter() - begun)
    total = sides.ranking.total() + sides.held_out.total()
    assert sides.num_conversations == num_conversations
    # The same tokens, but for what the reference's expression takes of the markup at a turn's end.
    first = DomainSource("chat", Source.file, str(corpus), max_conversations=NUM_BY_REFERENCE)
    same = count_responses(lambda: load_conversations(first), target, settings)
    own = same.ranking.total() + same.held_out.total()
    plain = np.setdiff1d(np.arange(len(own)), target.tokenizer.all_special_ids)
    assert np.abs(own[plain] - by_reference[plain]).sum() <= 2 * NUM_BY_REFERENCE
    if num_conversations > NUM_BY_REFERENCE:
        with capsys.disabled():
            print(
                f"\n{num_conversations:,} conversations, {total.sum():,} response tokens: "
                f"{own_per_s:,.0f} conversations/s, reference {reference_per_s:,.0f}/s, "
                f"ratio {own_per_s / reference_per_s:.1f}"
            )
        assert own_per_s > 5 * reference_per_s
