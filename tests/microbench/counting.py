"""A corpus of any size, and the counting of its response tokens as the reference implementation does it.

The reference of arXiv 2603.05210 renders each conversation, tokenizes it whole with offsets, finds assistant
spans by a regular expression written for one template, and marks tokens one by one in Python, in one process.
That algorithm is written here again.
"""

import json
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.assets import fetch
from bench.config import DomainSource, Source
from bench.text import embedded, load_prompts

SPAN = re.compile(r"<\|im_start\|>assistant\n(.*?)(?=<\|im_end\|>\n<\|im_start\|>user|$)", re.DOTALL)


def write_corpus(path: Path, num_conversations: int) -> Path:
    """Conversations of two or four turns, about 220 response tokens each, out of paragraphs of real prompts.

    A corpus of 50,000 conversations has each of 13,562 paragraphs 15 times.
    """
    texts = [p.messages[-1].content for p in load_prompts(DomainSource("writing", Source.writing_bench))]
    texts += [p.messages[-1].content for p in embedded.load_bfcl(fetch("bfcl"))]
    paragraphs = [piece for text in texts for piece in text.split("\n") if 80 < len(piece) < 600]
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_conversations):
            turns = []
            for _ in range(rng.choice([1, 1, 2])):
                turns.append({"role": "user", "content": rng.choice(paragraphs)})
                answer = "\n\n".join(rng.choice(paragraphs) for _ in range(rng.choice([2, 3, 4])))
                turns.append({"role": "assistant", "content": answer})
            file.write(json.dumps({"conversations": turns}) + "\n")
    return path


class Encoded(NamedTuple):
    """A conversation as the reference has it before it counts."""

    text: str
    ids: torch.Tensor
    offsets: torch.Tensor | list[list[int]]


def count_by_reference(path: Path, tokenizer, limit: int, *, over_lists: bool) -> np.ndarray:
    """Counts of the first conversations.

    Args:
        path: of the corpus.
        tokenizer: of the target.
        limit: number of conversations.
        over_lists: loop over the offsets as Python lists. As SpecForge has that loop
            (`specforge/data/preprocessing.py`), it is over a tensor, which is much slower.
    """
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    for encoded in encode_by_reference(path, tokenizer, limit, over_lists=over_lists):
        mark_and_count(encoded, counts)
    return counts


def encode_by_reference(path: Path, tokenizer, limit: int, *, over_lists: bool) -> Iterator[Encoded]:
    """Renders and tokenizes, one conversation at a time."""
    with path.open(encoding="utf-8") as lines:
        for line in islice(lines, limit):
            text = tokenizer.apply_chat_template(json.loads(line)["conversations"], tokenize=False)
            found = tokenizer(
                text, return_tensors="pt", return_offsets_mapping=True, add_special_tokens=False
            )
            offsets = found.offset_mapping[0]
            yield Encoded(text, found.input_ids[0], offsets.tolist() if over_lists else offsets)


def mark_and_count(encoded: Encoded, counts: np.ndarray) -> None:
    """The loop over tokens."""
    mask = torch.zeros(len(encoded.ids), dtype=torch.long)
    for match in SPAN.finditer(encoded.text):
        first, last = match.span(1)
        for index, (start, end) in enumerate(encoded.offsets):
            if end > first and start < last:
                mask[index] = 1
    found, occurrences = encoded.ids[mask == 1].unique(return_counts=True)
    counts[found.numpy()] += occurrences.numpy()
