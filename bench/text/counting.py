"""Token counts of a domain's responses, computed by worker processes in bounded memory."""

import multiprocessing
import os
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.text.conversation import Conversation, Split, split_of
from bench.text.encoding import Cuts, InexactError, ResponseEncoder
from bench.text.left_out import as_text, read_fields
from bench.text.odd_rows import OddRows
from bench.text.responses import Asked, Response, ResponseFinder
from bench.text.scripts import InContext
from bench.text.template import RefusedError, refused_row
from bench.text.tokenizer import TargetTokenizer
from bench.vocab.blocks import NUM_BLOCKS, BlockCounts
from bench.vocab.draft_vocab import IntArray

_CHUNK = 256

# With fewer conversations, starting processes costs more time than it saves.
_SMALL = 8 * _CHUNK

# Chunks counted before the processes are forked: the processes then start with a filled word cache.
_WARMUP_CHUNKS = 2

_SIDES = (Split.RANKING, Split.HELD_OUT)

# A column may hold something else than languages; counts of each need memory.
_MOST_LANGUAGES = 64

NO_LANGUAGE, OTHER_LANGUAGES = "not stated", "other languages"


@dataclass(frozen=True)
class CountSettings:
    """What a count depends on, besides the text and the tokenizer.

    Attributes:
        split_seed: seed of the split by conversation.
        held_out_share: share of the conversations that are held out.
        plain_text: count all text of a row.
        template: source of a chat template in place of the target's.
    """

    split_seed: int
    held_out_share: float
    plain_text: bool
    template: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """Text in one field of the assistant's messages that the target's chat template does not show.

    Attributes:
        num_turns: assistant turns with such text.
        num_tokens: its tokens in ranking conversations.
        num_tokens_heldout: its tokens in held-out conversations.
    """

    num_turns: int = 0
    num_tokens: int = 0
    num_tokens_heldout: int = 0

    def __add__(self, other: "LeftOut") -> "LeftOut":
        return LeftOut(
            self.num_turns + other.num_turns,
            self.num_tokens + other.num_tokens,
            self.num_tokens_heldout + other.num_tokens_heldout,
        )


@dataclass(frozen=True)
class SideCounts:
    """Counts of both sides of the split.

    Attributes:
        ranking: counts of the conversations that rank the tokens.
        held_out: counts of the held-out conversations.
        left_out: text that is not counted because the chat template does not show it, by field.
        refused: conversations that the chat template refuses; they are not counted.
        num_silent: conversations without an assistant turn.
        in_context: counts of the tokens whose script the text decides, of both sides.
        languages: counts `(2, V)` of both sides by language, as the rows state it; empty if no row does.
    """

    ranking: BlockCounts
    held_out: BlockCounts
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    refused: OddRows = field(default_factory=OddRows)
    num_silent: int = 0
    in_context: tuple[InContext, InContext] = field(default_factory=lambda: (Counter(), Counter()))
    languages: dict[str, IntArray] = field(default_factory=dict)

    @property
    def num_conversations(self) -> int:
        """Conversations that had a response."""
        return self.ranking.num_conversations + self.held_out.num_conversations


class _Item(NamedTuple):
    """A conversation for a worker; `place` is its side and block in one number, `where` its row."""

    where: str
    place: int
    asked: Asked
    text: str | None
    language: str | None


@dataclass(frozen=True)
class _Part:
    """Sparse counts: sorted keys `place * V + token` and how often each occurred."""

    keys: IntArray
    counts: NDArray[np.int32]
    num_conversations: IntArray
    left_out: dict[str, LeftOut]
    refused: OddRows
    num_silent: int
    in_context: tuple[InContext, InContext]
    languages: dict[str, tuple[IntArray, IntArray]]


def count_responses(
    conversations: Callable[[], Iterable[Conversation]],
    target: TargetTokenizer,
    settings: CountSettings,
    num_processes: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> SideCounts:
    """Counts the tokens of all assistant responses, by side of the split and block of conversations.

    Args:
        conversations: starts the stream; called again if a fast method is not exact.
        target: tokenizer, chat template and vocabulary size.
        settings: split and kind of text.
        num_processes: None: one per core. Small inputs are counted in this process.
        progress: called with the number of conversations that were just counted.

    Raises:
        DomainError: the tokenizer has no chat template, or one that cannot be followed.
    """
    for cuts in Cuts:
        worker = _Worker(target, settings, cuts)
        items = (_to_item(c, settings) for c in conversations())
        try:
            return _count(items, worker, num_processes or os.cpu_count() or 1, progress)
        except InexactError:
            continue
    raise AssertionError("tokenizing whole responses cannot be inexact")


def block_counts(
    answers: Iterable[tuple[str, Sequence[int] | IntArray]], vocab_size: int, num_conversations: int
) -> BlockCounts:
    """Counts of answers that are already token ids: (group of the conversation, ids) of each."""
    keys = [
        _block_of(group) * vocab_size + np.asarray(ids, dtype=np.int64) for group, ids in answers if len(ids)
    ]
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
    asked = Asked([message.as_turn() for message in conversation.messages], conversation.tools)
    name = conversation.place or conversation.conversation_id
    return _Item(name, place, asked, conversation.text, conversation.language)


class _Worker:
    """Counts one chunk at a time."""

    def __init__(self, target: TargetTokenizer, settings: CountSettings, cuts: Cuts):
        self.vocab_size, self._template = target.num_ids, settings.template
        self._scripts = target.scripts
        is_plain = settings.plain_text
        self._finder = None if is_plain else ResponseFinder(target.tokenizer, settings.template)
        tail = self._finder.marks.tail if self._finder else ""
        eos = None if is_plain else target.tokenizer.eos_token_id
        self._encoder = ResponseEncoder(target.tokenizer, tail, eos, cuts)

    def count(self, items: list[_Item]) -> _Part:
        responses = self._responses(items)
        refused = OddRows()
        for item, response in zip(items, responses, strict=True):
            if isinstance(response, RefusedError):
                refused.leave(refused_row(response, self._template, item.where))
        found = [[] if isinstance(r, RefusedError) else r for r in responses]
        texts = [response.text for of_item in found for response in of_item]
        encoded, sizes = self._encoder.encode(texts)
        per_item = [len(of_item) for of_item in found]
        tokens = encoded.astype(np.int64)
        rows = np.repeat(np.repeat(np.arange(len(items)), per_item), sizes)
        places = np.array([item.place for item in items], dtype=np.int64)[rows]
        keys, counts = np.unique(places * self.vocab_size + tokens, return_counts=True)
        sides = [item.place // NUM_BLOCKS for item, n in zip(items, per_item, strict=True) if n]
        num_conversations = np.bincount(np.asarray(sides, dtype=np.int64), minlength=len(_SIDES))
        left_out, sides_of_tokens = self._left_out(items, found), places // NUM_BLOCKS
        num_silent = len(items) - len(sides) - refused.num_set_aside
        return _Part(
            keys,
            counts.astype(np.int32),
            num_conversations,
            left_out,
            refused,
            num_silent,
            self._in_context(tokens, sizes, sides_of_tokens),
            self._languages(items, rows, sides_of_tokens, tokens),
        )

    def _in_context(self, tokens: IntArray, sizes: IntArray, sides: IntArray) -> tuple[InContext, InContext]:
        found: tuple[InContext, InContext] = (Counter(), Counter())
        places, scripts = self._scripts.in_context(tokens, sizes)
        for side, script, token in zip(sides[places].tolist(), scripts, tokens[places].tolist(), strict=True):
            found[side][script, token] += 1
        return found

    def _languages(
        self, items: list[_Item], rows: IntArray, sides: IntArray, tokens: IntArray
    ) -> dict[str, tuple[IntArray, IntArray]]:
        """Distinct keys `side * V + token` and their counts, by language that a row states."""
        named = {item.language for item in items if item.language}
        if not named:
            return {}
        keys, found = sides * self.vocab_size + tokens, {}
        for name in named:
            of_item = np.array([item.language == name for item in items])
            found[name] = np.unique(keys[of_item[rows]], return_counts=True)
        return found

    def _left_out(self, items: list[_Item], found: list[list[Response]]) -> dict[str, LeftOut]:
        lost = [
            (item.place >= NUM_BLOCKS, name, text)
            for item, of_item in zip(items, found, strict=True)
            for response in of_item
            for name, text in response.left_out
        ]
        sums: dict[str, LeftOut] = {}
        sizes = self._encoder.sizes([text for _, _, text in lost])
        for (is_held_out, name, _), size in zip(lost, sizes, strict=True):
            more = LeftOut(1, 0, size) if is_held_out else LeftOut(1, size, 0)
            sums[name] = sums.get(name, LeftOut()) + more
        return sums

    def _responses(self, items: list[_Item]) -> list[list[Response] | RefusedError]:
        finder = self._finder
        if finder is None:
            return [_whole(item) for item in items]
        chats = iter(finder.responses([item.asked for item in items if item.text is None]))
        return [
            next(chats) if item.text is None else [Response(text) for text in finder.spans(item.text)]
            for item in items
        ]


def _whole(item: _Item) -> list[Response]:
    """All text of a row, of every role."""
    if item.text:
        return [Response(item.text)]
    return [
        Response("\n".join(as_text(name, value) for name, value in read_fields(turn).items()))
        for turn in item.asked.turns
    ]


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
        self._left_out: dict[str, LeftOut] = {}
        self._refused = OddRows()
        self._num_silent = 0
        self._in_context: tuple[InContext, InContext] = (Counter(), Counter())
        self._languages: dict[str, IntArray] = {}

    def add(self, part: _Part) -> None:
        self._counts[part.keys] += part.counts  # keys are distinct
        self._num_conversations += part.num_conversations
        for name, more in part.left_out.items():
            self._left_out[name] = self._left_out.get(name, LeftOut()) + more
        self._refused.merge(part.refused)
        self._num_silent += part.num_silent
        for mine, its in zip(self._in_context, part.in_context, strict=True):
            mine.update(its)
        for name, (keys, counts) in part.languages.items():
            self._of_language(name)[keys] += counts

    def _of_language(self, name: str) -> IntArray:
        if name not in self._languages and len(self._languages) >= _MOST_LANGUAGES:
            name = OTHER_LANGUAGES
        size = len(_SIDES) * self._vocab_size
        return self._languages.setdefault(name, np.zeros(size, dtype=np.int64))

    def result(self) -> SideCounts:
        sides = []
        for side, of_side in enumerate(self._counts.reshape(len(_SIDES), -1)):
            keys = np.flatnonzero(of_side)
            part = (keys // self._vocab_size, keys % self._vocab_size, of_side[keys])
            total = int(self._num_conversations[side])
            sides.append(BlockCounts.from_parts([part], self._vocab_size, total))
        ranking, held_out = sides
        languages = {name: counts.reshape(len(_SIDES), -1) for name, counts in self._languages.items()}
        return SideCounts(
            ranking,
            held_out,
            self._left_out,
            self._refused,
            self._num_silent,
            self._in_context,
            with_the_rest(languages, ranking.total(), held_out.total()),
        )


def with_the_rest(
    languages: dict[str, IntArray], ranking: IntArray, held_out: IntArray
) -> dict[str, IntArray]:
    """Counts by language, with those of rows that state none if others do."""
    if not languages:
        return {}
    rest = np.stack([ranking, held_out]) - np.sum(list(languages.values()), axis=0)
    return languages | ({NO_LANGUAGE: languages.get(NO_LANGUAGE, 0) + rest} if rest.any() else {})
