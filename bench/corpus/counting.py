"""Token counts of a domain's responses: streamed through worker processes, in bounded memory."""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from bench.corpus.encoding import InexactError, ResponseEncoder
from bench.corpus.template import ResponseFinder, Turns
from bench.corpus.tokenizer import TargetTokenizer
from bench.domains.conversation import Conversation
from bench.domains.prompt import Split, split_of, unit_hash
from bench.vocab.blocks import NUM_BLOCKS, BlockCounts
from bench.vocab.draft_vocab import IntArray

_CHUNK = 256
# Below this, starting processes costs more than it saves.
_SMALL = 8 * _CHUNK
_MERGE_AT = 32
_SIDES = (Split.RANKING, Split.HELD_OUT)


@dataclass(frozen=True)
class CountSettings:
    """What a count depends on besides the text and the tokenizer.

    Attributes:
        split_seed: of the split by conversation.
        held_out_share: share of the conversations that only judge.
        plain_text: rows of text count whole.
    """

    split_seed: int
    held_out_share: float
    plain_text: bool


@dataclass(frozen=True)
class SideCounts:
    """Counts of both sides of the split."""

    ranking: BlockCounts
    held_out: BlockCounts

    @property
    def num_conversations(self) -> int:
        """Conversations that had a response."""
        return self.ranking.num_conversations + self.held_out.num_conversations


@dataclass(frozen=True)
class _Item:
    """A conversation as a worker takes it; `place` is its side and block in one number."""

    name: str
    place: int
    turns: Turns
    text: str | None


@dataclass(frozen=True)
class _Part:
    """Sparse counts: sorted keys `place * V + token` and how often each occurred."""

    keys: IntArray
    counts: IntArray
    num_conversations: IntArray


def count_responses(
    conversations: Callable[[], Iterable[Conversation]],
    target: TargetTokenizer,
    settings: CountSettings,
    num_processes: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> SideCounts:
    """Counts the tokens of all assistant responses, by side of the split and block of conversations.

    Args:
        conversations: starts the stream; called again should the fast way turn out to be inexact.
        target: tokenizer, chat template and vocabulary size.
        settings: split and kind of text.
        num_processes: null is one per core; small inputs never leave this process.
        progress: told how many conversations are done.

    Raises:
        DomainError: the tokenizer has no chat template, or it refuses a conversation.
    """
    for use_words in (True, False):
        worker = _Worker(target, settings.plain_text, use_words)
        items = (_to_item(c, settings) for c in conversations())
        try:
            return _count(items, worker, num_processes or os.cpu_count() or 1, progress)
        except InexactError:
            continue
    raise AssertionError("tokenizing whole responses cannot be inexact")


def block_counts(
    answers: Iterable[tuple[str, list[int]]], vocab_size: int, num_conversations: int
) -> BlockCounts:
    """Counts of answers that are token ids already: (group of the conversation, ids) of each."""
    keys = [_block_of(group) * vocab_size + np.asarray(ids, dtype=np.int64) for group, ids in answers if ids]
    joined = np.concatenate(keys) if keys else np.empty(0, dtype=np.int64)
    found, counts = np.unique(joined, return_counts=True)
    part = (found // vocab_size, found % vocab_size, counts)
    return BlockCounts.from_parts([part], vocab_size, num_conversations)


def _block_of(group: str) -> int:
    return int(unit_hash("block", group) * NUM_BLOCKS)


def _to_item(conversation: Conversation, settings: CountSettings) -> _Item:
    side = split_of(conversation, settings.split_seed, settings.held_out_share)
    place = _SIDES.index(side) * NUM_BLOCKS + _block_of(conversation.group)
    turns = [{"role": m.role, "content": m.content} for m in conversation.messages]
    return _Item(conversation.conversation_id, place, turns, conversation.text)


class _Worker:
    """Counts one chunk at a time."""

    def __init__(self, target: TargetTokenizer, plain_text: bool, use_words: bool):
        self.vocab_size = target.vocab_size
        self._finder = None if plain_text else ResponseFinder(target.tokenizer)
        tail = self._finder.marks.tail if self._finder else ""
        eos = None if plain_text else target.tokenizer.eos_token_id
        self._encoder = ResponseEncoder(target.tokenizer, tail, eos, use_words)

    def count(self, items: list[_Item]) -> _Part:
        found = self._responses(items)
        encoded = self._encoder.encode([text for texts in found for text in texts])
        sizes = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        per_item = [len(texts) for texts in found]
        places = np.repeat([item.place for item in items], per_item)
        tokens = np.concatenate([np.empty(0, dtype=np.int32), *encoded]).astype(np.int64)
        keys, counts = np.unique(np.repeat(places, sizes) * self.vocab_size + tokens, return_counts=True)
        sides = [item.place // NUM_BLOCKS for item, n in zip(items, per_item, strict=True) if n]
        return _Part(keys, counts, np.bincount(np.asarray(sides, dtype=np.int64), minlength=2))

    def _responses(self, items: list[_Item]) -> list[list[str]]:
        finder = self._finder
        if finder is None:
            return [[item.text] if item.text else [turn["content"] for turn in item.turns] for item in items]
        chats = iter(finder.responses([(i.name, i.turns) for i in items if i.text is None]))
        return [next(chats) if item.text is None else finder.spans(item.text) for item in items]


_worker: _Worker | None = None


def _adopt(worker: _Worker) -> None:
    global _worker
    _worker = worker


def _count_chunk(items: list[_Item]) -> _Part:
    assert _worker is not None
    return _worker.count(items)


def _count(
    items: Iterator[_Item], worker: _Worker, num_processes: int, progress: Callable[[int], None]
) -> SideCounts:
    head = list(islice(items, _SMALL))
    tally = _Tally(worker.vocab_size)
    chunks = _chunks(chain(head, items))
    if len(head) < _SMALL or num_processes == 1:
        for chunk in chunks:
            tally.add(worker.count(chunk))
            progress(len(chunk))
        return tally.result()
    # A forked process starts at once with the tokenizer in place; elsewhere it is sent over.
    method = "fork" if sys.platform == "linux" else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(num_processes, context, initializer=_adopt, initargs=(worker,)) as pool:
        for part, size in _in_order(pool, chunks, 3 * num_processes):
            tally.add(part)
            progress(size)
    return tally.result()


def _in_order(
    pool: ProcessPoolExecutor, chunks: Iterator[list[_Item]], most: int
) -> Iterator[tuple[_Part, int]]:
    """Results as they come in order, with at most `most` chunks in the air: memory stays bounded."""
    waiting: deque[tuple[Future[_Part], int]] = deque()
    try:
        for chunk in chunks:
            waiting.append((pool.submit(_count_chunk, chunk), len(chunk)))
            if len(waiting) >= most:
                future, size = waiting.popleft()
                yield future.result(), size
        while waiting:
            future, size = waiting.popleft()
            yield future.result(), size
    finally:
        for future, _ in waiting:
            future.cancel()


def _chunks(items: Iterator[_Item]) -> Iterator[list[_Item]]:
    while chunk := list(islice(items, _CHUNK)):
        yield chunk


class _Tally:
    """Adds parts up, merging now and then."""

    def __init__(self, vocab_size: int):
        self._vocab_size = vocab_size
        self._parts: list[_Part] = []

    def add(self, part: _Part) -> None:
        self._parts.append(part)
        if len(self._parts) >= _MERGE_AT:
            self._parts = [self._merged()]

    def _merged(self) -> _Part:
        if not self._parts:
            return _Part(np.empty(0, np.int64), np.empty(0, np.int64), np.zeros(2, np.int64))
        keys = np.concatenate([part.keys for part in self._parts])
        counts = np.concatenate([part.counts for part in self._parts])
        found, places = np.unique(keys, return_inverse=True)
        summed = np.bincount(places, weights=counts, minlength=len(found)).astype(np.int64)
        return _Part(found, summed, np.sum([p.num_conversations for p in self._parts], axis=0))

    def result(self) -> SideCounts:
        whole, vocab_size = self._merged(), self._vocab_size
        sides = []
        for side in range(len(_SIDES)):
            chosen = whole.keys // (NUM_BLOCKS * vocab_size) == side
            keys = whole.keys[chosen] - side * NUM_BLOCKS * vocab_size
            part = (keys // vocab_size, keys % vocab_size, whole.counts[chosen])
            total = int(whole.num_conversations[side])
            sides.append(BlockCounts.from_parts([part], vocab_size, total))
        return SideCounts(*sides)
