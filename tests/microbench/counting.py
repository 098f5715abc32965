"""A corpus of any size, and published ways to count its response tokens, written here again.

- The script of arXiv 2603.05210: `optimize_vocab_size.py` in Ofir408/balanced-coverage-latency-spec-decoding,
  commit 40d85351. It joins the turns with the marks of one template, tokenizes the text with offsets, finds
  the answers by a regular expression, and for each answer goes through `enumerate(offsets.tolist())`. It is
  one process.
- SpecForge, which trains EAGLE-3 drafts: `specforge/data/parse.py` in sgl-project/SpecForge. The same with
  the tokenizer's template and `enumerate(offsets)`, where `offsets` is a tensor. `GeneralParser` had this
  loop up to commit f66217cb (12 January 2026); `HarmonyParser`, which reads the format of gpt-oss, still has
  it at commit a6b6b023 (8 August 2026). Since commit b828c320, `GeneralParser` tokenizes the text up to the
  start and up to the end of each answer instead. It works in as many processes as the user asks for.

All count with `unique` and a `Counter`. Left out in their favour: the `datasets` library, which reads the
file and stores the masks, SpecForge's checks of the messages, and progress bars.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from bench.assets import fetch
from bench.config import DomainSource, Source
from bench.text import embedded, load_prompts

_HEADERS = {"user": "<|im_start|>user\n", "assistant": "<|im_start|>assistant\n"}
_END = "<|im_end|>\n"

_UP_TO_THE_NEXT_QUESTION = re.compile(
    f"{re.escape(_HEADERS['assistant'])}(.*?)(?={re.escape(_END + _HEADERS['user'])}|$)", re.DOTALL
)
_WITH_ITS_END = re.compile(f"{re.escape(_HEADERS['assistant'])}(.*?(?:{re.escape(_END)}|$))", re.DOTALL)

_MAX_LENGTH = 131_072

Turns = list[dict[str, str]]


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
    """A conversation before its answers are marked; `ids` is `(tokens,)`, `offsets` `(tokens, 2)`."""

    text: str
    ids: torch.Tensor
    offsets: torch.Tensor


class Reference(NamedTuple):
    """A published way to count.

    Attributes:
        name: for the table.
        num: of the conversations that it is timed with; a part of the file is enough for a rate.
        render: turns -> text.
        mark: sets the tokens of the answers to 1 in a mask of zeros `(tokens,)`.
    """

    name: str
    num: int
    render: Callable[[PreTrainedTokenizerBase, Turns], str]
    mark: Callable[[Encoded, torch.Tensor, PreTrainedTokenizerBase], None]

    def count_file(self, path: Path, tokenizer: PreTrainedTokenizerBase) -> Counter[int]:
        """Counts of the first `num` conversations of a file."""
        return self.count(self.encode(path, tokenizer), tokenizer)

    def encode(self, path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
        """Renders and tokenizes, one conversation at a time."""
        with path.open(encoding="utf-8") as lines:
            for line in islice(lines, self.num):
                text = self.render(tokenizer, json.loads(line)["conversations"])
                found = _tokenized(tokenizer, text, return_offsets_mapping=True, return_tensors="pt")
                yield Encoded(text, found["input_ids"][0], found["offset_mapping"][0])

    def answers(
        self, conversations: Iterable[Encoded], tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[torch.Tensor]:
        """The tokens of each conversation's answers."""
        for encoded in conversations:
            mask = torch.zeros(len(encoded.ids), dtype=torch.long)
            self.mark(encoded, mask, tokenizer)
            yield encoded.ids[mask == 1]

    def count(self, conversations: Iterable[Encoded], tokenizer: PreTrainedTokenizerBase) -> Counter[int]:
        """Counts of all tokens of the answers."""
        counts: Counter[int] = Counter()
        for ids in self.answers(conversations, tokenizer):
            found, occurrences = ids.unique(return_counts=True)
            counts.update(dict(zip(found.tolist(), occurrences.tolist(), strict=True)))
        return counts


def _tokenized(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> Any:
    return tokenizer(text, add_special_tokens=False, truncation=True, max_length=_MAX_LENGTH, **options)


def _joined(_: PreTrainedTokenizerBase, turns: Turns) -> str:
    return "".join(f"{_HEADERS[turn['role']]}{turn['content']}{_END}" for turn in turns)


def _by_template(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> str:
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
    assert isinstance(text, str)
    return text


def _loop_over_list(encoded: Encoded, mask: torch.Tensor, _: PreTrainedTokenizerBase) -> None:
    for match in _UP_TO_THE_NEXT_QUESTION.finditer(encoded.text):
        first, last = match.span(1)
        for index, (start, end) in enumerate(encoded.offsets.tolist()):
            if end > first and start < last:
                mask[index] = 1


def _loop_over_tensor(encoded: Encoded, mask: torch.Tensor, _: PreTrainedTokenizerBase) -> None:
    for match in _WITH_ITS_END.finditer(encoded.text):
        first, last = match.span(1)
        for index, (start, end) in enumerate(encoded.offsets):
            if first <= start <= end <= last:
                mask[index] = 1


def _tokenized_up_to(encoded: Encoded, mask: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    for match in _WITH_ITS_END.finditer(encoded.text):
        first, last = (len(_tokenized(tokenizer, encoded.text[:at])["input_ids"]) for at in match.span(1))
        mask[first:last] = 1


REFERENCES: Sequence[Reference] = (
    Reference("the paper's script: a loop over a list", 1000, _joined, _loop_over_list),
    Reference("SpecForge until 2026: a loop over a tensor", 250, _by_template, _loop_over_tensor),
    Reference("SpecForge now: starts and ends tokenized again", 500, _by_template, _tokenized_up_to),
)
