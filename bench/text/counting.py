"""Token counts of a domain's responses, computed by worker processes in bounded memory."""

import multiprocessing
import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.text.conversation import Conversation, Split, split_of
from bench.text.encoding import InexactError, ResponseEncoder
from bench.text.template import ResponseFinder, Turns
from bench.text.tokenizer import TargetTokenizer
from bench.vocab.blocks import NUM_BLOCKS, BlockCounts
from bench.vocab.draft_vocab import IntArray

_CHUNK = 256

# With fewer conversations, starting processes costs more time than it saves.
_SMALL = 8 * _CHUNK

# Chunks counted before the processes are forked: the processes then start with a filled word cache.
_WARMUP_CHUNKS = 2

_SIDES = (Split.RANKING, Split.HELD_OUT)


@dataclass(frozen=True)
class CountSettings:
    """What a count depends on, besides the text and the tokenizer.

    Attributes:
        split_seed: seed of the split by conversation.
        held_out_share: share of the conversations that are held out.
        plain_text: count all text of a row.
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


class _Item(NamedTuple):
    """A conversation for a worker; `place` is its side and block in one number."""

    name: str
    place: int
    turns: Turns
    text: str | None


@dataclass(frozen=True)
class _Part:
    """Sparse counts: sorted keys `place * V + token` and how often each occurred."""

    keys: IntArray
    counts: NDArray[np.int32]
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
        conversations: starts the stream; called a second time if the fast method is not exact.
        target: tokenizer, chat template and vocabulary size.
        settings: split and kind of text.
        num_processes: None: one per core. Small inputs are counted in this process.
        progress: called with the number of conversations that were just counted.

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
    """Counts of answers that are already token ids: (group of the conversation, ids) of each."""
    keys = [_block_of(group) * vocab_size + np.asarray(ids, dtype=np.int64) for group, ids in answers if ids]
    joined = np.concatenate(keys) if keys else np.empty(0, dtype=np.int64)
    found, counts = np.unique(joined, return_counts=True)
    part = (found // vocab_size, found % vocab_size, counts)
    return BlockCounts.from_parts([part], vocab_size, num_conversations)


def _block_of(group: str) -> int:
    # Not the hash of the split: each side of the split must reach every block.
    return zlib.crc32(group.encode()) * NUM_BLOCKS >> 32


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
        return _Part(
            keys, counts.astype(np.int32), np.bincount(np.asarray(sides, dtype=np.int64), minlength=2)
        )

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
    alone = len(head) < _SMALL or num_processes == 1
    chunks = _chunks(chain(head, items))
    for chunk in chunks if alone else islice(chunks, _WARMUP_CHUNKS):
        tally.add(worker.count(chunk))
        progress(len(chunk))
    if alone:
        return tally.result()
    # A forked process inherits the worker; on other systems than Linux it is pickled.
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
    """Results in order, with at most `most` chunks in flight, so that memory stays bounded."""
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
    """Sums parts in one dense array of `2 * NUM_BLOCKS * V` counts of four bytes."""

    def __init__(self, vocab_size: int):
        self._vocab_size = vocab_size
        self._counts = np.zeros(len(_SIDES) * NUM_BLOCKS * vocab_size, dtype=np.int32)
        self._num_conversations = np.zeros(len(_SIDES), dtype=np.int64)

    def add(self, part: _Part) -> None:
        self._counts[part.keys] += part.counts  # keys are distinct
        self._num_conversations += part.num_conversations

    def result(self) -> SideCounts:
        sides = []
        for side, of_side in enumerate(self._counts.reshape(len(_SIDES), -1)):
            keys = np.flatnonzero(of_side)
            part = (keys // self._vocab_size, keys % self._vocab_size, of_side[keys])
            total = int(self._num_conversations[side])
            sides.append(BlockCounts.from_parts([part], self._vocab_size, total))
        return SideCounts(*sides)
