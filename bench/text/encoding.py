"""Fast tokenization of responses: pieces that were seen before are not tokenized again.

Byte-level BPE tokenizers split text before a single space between two other characters, and most of them
after a line break. So the pieces between such places can be tokenized once and cached. This is checked and
not assumed: a sample of the responses is also tokenized whole, and such pieces are given up at the first
difference.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import pairwise
from os.path import commonprefix

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

_SPACE = re.compile(r" (?=\S)(?<=\S )")

# White space in ASCII text beside the space.
_OTHER_SPACES = ("\n", "\t", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f")

# Some tokenizers join a slash to the line breaks before it.
_NEW_LINE = re.compile(r"\n(?=[^\s/])")

# Pieces and tokens of pieces in memory at most.
_MAX_PIECES, _MAX_TOKENS = 400_000, 4_000_000

_TOGETHER = 256

# One response in this many is also tokenized whole and compared.
_CHECK_EVERY = 256


class Cuts(Enum):
    """Where responses are cut into pieces that are tokenized alone."""

    SPACES_AND_LINES = "at single spaces and after line breaks"
    SPACES = "at single spaces"
    NOWHERE = "nowhere"


class InexactError(Exception):
    """A piece alone has other tokens than the same piece in its text."""


class ResponseEncoder:
    """Token ids of responses, up to and including the token that ends the turn.

    Args:
        tokenizer: tokenizer of the target.
        tail: text that the chat template writes after a response.
        eos_token_id: counted once per response if `tail` has no special token.
        cuts: where responses are cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tail: str, eos_token_id: int | None, cuts: Cuts):
        self._backend = tokenizer.backend_tokenizer
        self._special_ids = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        # Added tokens split text before anything else. Their common prefix is a fast test that there is none.
        marks = sorted(tokenizer.get_added_vocab())
        self._mark = commonprefix(marks)
        self._marks = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        self._tail = tail
        self._end = self._trim(self._ids(tail)) if tail else []
        if not self._end and eos_token_id is not None:
            self._end = [eos_token_id]
        self._cuts = cuts
        self._pieces = _Pieces(self._end)
        self._num_seen = 0

    def encode(self, responses: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of all responses, one after another, and the number of tokens of each.

        Raises:
            InexactError: such pieces are not exact for this tokenizer.
        """
        if len(self._pieces) > _MAX_PIECES or self._pieces.num_tokens > _MAX_TOKENS:
            self._pieces = _Pieces(self._end)
        pieces, checked = self._pieces, []
        numbers: list[int] = []
        ends: list[int] = []
        for response in responses:
            body, ended = self._body(response)
            if self._cuts is Cuts.NOWHERE or not self._is_plain(body):
                numbers.append(pieces.add(body))
            else:
                if self._num_seen % _CHECK_EVERY == 0:
                    checked.append((len(ends), body, len(self._end) if ended else 0))
                self._num_seen += 1
                self._cut(body, numbers)
            if ended:
                numbers.append(_Pieces.END)
            ends.append(len(numbers))
        pieces.tokenize(self._backend)
        tokens, sizes = pieces.gather(numbers, ends)
        last = np.cumsum(sizes)
        for (index, _, num_end), ids in zip(
            checked, self._ids_of([body for _, body, _ in checked]), strict=True
        ):
            if tokens[last[index] - sizes[index] : last[index] - num_end].tolist() != ids:
                raise InexactError
        return tokens, sizes

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text."""
        return [len(ids) for ids in self._ids_of(list(texts))]

    def _body(self, response: str) -> tuple[str, bool]:
        """The response without its end, and whether the end must be added again."""
        if self._tail and response.endswith(self._tail):
            return response[: len(response) - len(self._tail)], True
        stripped = self._tail.rstrip()
        if stripped and response.endswith(stripped):
            return response[: len(response) - len(stripped)], True
        # The response was cut off; or the template writes no end, but the model still has to write one.
        return response, not self._tail

    def _is_plain(self, body: str) -> bool:
        if self._mark and self._mark not in body:
            return True
        return not self._marks.search(body)

    def _cut(self, body: str, numbers: list[int]) -> None:
        """Appends the numbers of the pieces of a response."""
        pieces = self._pieces
        lines = _NEW_LINE.split(body) if self._cuts is Cuts.SPACES_AND_LINES else [body]
        rest = iter(_words(lines.pop()))
        for line in lines:
            words = _words(line)
            last = words.pop()
            if words:
                before = iter(words)
                numbers.append(pieces.first[next(before)])
                numbers.extend(map(pieces.later.__getitem__, before))
                numbers.append(pieces.last[last])
            else:
                numbers.append(pieces.only[last])
        numbers.append(pieces.first[next(rest)])
        numbers.extend(map(pieces.later.__getitem__, rest))

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _ids(self, text: str) -> list[int]:
        return self._ids_of([text])[0]

    def _trim(self, ids: list[int]) -> list[int]:
        """`ids` up to the last special token; empty if there is none."""
        places = [i for i, token in enumerate(ids) if token in self._special_ids]
        return ids[: places[-1] + 1] if places else []


class _Kind(Enum):
    """What may follow a piece when it is tokenized: nothing, another word, or text behind a line break."""

    ALONE, WORD, LINE = range(3)


class _Numbers(dict[str, int]):
    """Numbers of pieces by their text; what is new gets the next one."""

    def __init__(self, pieces: "_Pieces", before: str, after: str = ""):
        super().__init__()
        self._pieces, self._before, self._after = pieces, before, after

    def __missing__(self, word: str) -> int:
        kind = _Kind.LINE if self._after else _Kind.ALONE
        # A word that ends in white space would merge with the space after it.
        if self._before and not self._after and word and not word[-1].isspace():
            kind = _Kind.WORD
        number = self[word] = self._pieces.add(self._before + word + self._after, kind)
        return number


class _Pieces:
    """Tokens of pieces of text.

    Attributes:
        first: numbers of pieces at the start of a text or line.
        later: numbers of pieces behind a space.
        only: numbers of pieces at the start, with a line break behind them and then text.
        last: numbers of pieces behind a space, with a line break behind them and then text.
    """

    END = 0  # the number of what ends a response

    def __init__(self, end: list[int]):
        self.first, self.later = _Numbers(self, ""), _Numbers(self, " ")
        self.only, self.last = _Numbers(self, "", "\n"), _Numbers(self, " ", "\n")
        self._tokens = array("i", end)
        self._starts, self._sizes = array("q", [0]), array("q", [len(end)])
        self._new: list[tuple[str, _Kind]] = []

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def num_tokens(self) -> int:
        """Of all pieces."""
        return len(self._tokens)

    def add(self, text: str, kind: _Kind = _Kind.ALONE) -> int:
        """The number of a text that is to be tokenized."""
        self._new.append((text, kind))
        return len(self._sizes) + len(self._new) - 1

    def tokenize(self, backend: Tokenizer) -> None:
        """Tokenizes what was added."""
        of_kind: dict[_Kind, list[str]] = {kind: [] for kind in _Kind}
        for text, kind in self._new:
            of_kind[kind].append(text)
        encoded = {
            _Kind.ALONE: _alone(of_kind[_Kind.ALONE], backend),
            _Kind.WORD: _words_together(of_kind[_Kind.WORD], backend),
            _Kind.LINE: _before_text(of_kind[_Kind.LINE], backend),
        }
        for _, kind in self._new:
            ids = next(encoded[kind])
            self._starts.append(len(self._tokens))
            self._sizes.append(len(ids))
            self._tokens.extend(ids)
        self._new.clear()

    def gather(self, numbers: list[int], ends: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Tokens of texts of pieces, one after another, and the number of each text's tokens.

        Args:
            numbers: of the pieces of all texts.
            ends: where in `numbers` each text ends.
        """
        of_piece = np.array(numbers, dtype=np.int64)
        sizes = np.frombuffer(self._sizes, dtype=np.int64)[of_piece]
        starts = np.frombuffer(self._starts, dtype=np.int64)[of_piece]
        last = np.cumsum(sizes)
        places = np.repeat(starts - last + sizes, sizes) + np.arange(last[-1] if len(last) else 0)
        upto = np.concatenate([[0], last])[np.array(ends, dtype=np.int64)]
        return np.frombuffer(self._tokens, dtype=np.int32)[places], np.diff(upto, prepend=0)


def _alone(texts: list[str], backend: Tokenizer) -> Iterator[list[int]]:
    """Ids of each text."""
    for encoding in backend.encode_batch_fast(texts, add_special_tokens=False):
        yield encoding.ids


def _words_together(words: list[str], backend: Tokenizer) -> Iterator[list[int]]:
    """Ids of each word. Many in one text, because a call costs more than a word.

    A token belongs to the word in which it starts; the space before a word is part of it.
    """
    groups = [words[i : i + _TOGETHER] for i in range(0, len(words), _TOGETHER)]
    encodings = backend.encode_batch(["".join(group) for group in groups], add_special_tokens=False)
    for group, encoding in zip(groups, encodings, strict=True):
        ends = np.cumsum([len(word) for word in group])
        token_starts = np.fromiter((start for start, _ in encoding.offsets), dtype=np.int64)
        ids = encoding.ids
        cuts = [0, *np.searchsorted(token_starts, ends[:-1]).tolist(), len(ids)]
        yield from (ids[first:last] for first, last in pairwise(cuts))


def _before_text(lines: list[str], backend: Tokenizer) -> Iterator[list[int]]:
    """Ids of each line when text follows: white space at the end of a text can have other tokens."""
    encodings = backend.encode_batch([f"{line}a" for line in lines], add_special_tokens=False)
    for line, encoding in zip(lines, encodings, strict=True):
        yield [
            token
            for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)
            if start < len(line)
        ]


def _words(line: str) -> list[str]:
    """The words between single spaces. Other white space, or more of it, stays inside a word."""
    core = line.rstrip("\n")
    words = core.split(" ")
    if core.isascii():
        is_simple = "" not in words and not any(space in core for space in _OTHER_SPACES)
    else:
        is_simple = words == core.split()
    if not is_simple:
        return _SPACE.split(line)
    words[-1] += line[len(core) :]
    return words
