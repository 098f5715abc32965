"""The writing system (Unicode script) of tokens: Latin, Cyrillic, Han and so on.

A token has the script of most of its letters. Spaces, digits, punctuation and emoji count only if a token has
no letter; its script is then `Common`. Tokens that hold only bytes of a character, or only marks such as
accents, have no script of their own. They have the script of the characters that they write in a text.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property, lru_cache

import fontTools
import numpy as np
from fontTools.unicodedata import Scripts
from fontTools.unicodedata import script as code_of
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bench.vocab.draft_vocab import IntArray

SPECIAL = "special tokens"

COMMON, INHERITED, UNKNOWN = "Common", "Inherited", "Unknown"

# The data decides which script a character has.
DATA_VERSION = f"fontTools {fontTools.version}"

_NAMES = [SPECIAL, *sorted(Scripts.NAMES.values())]

_INDEX = {name: index for index, name in enumerate(_NAMES)}

_DEPENDS = -1

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_LETTER = re.compile(r"[A-Za-z]")

# Counts of tokens by (script, token id).
InContext = Counter[tuple[str, int]]


class TokenScripts:
    """The script of every token of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        num_ids: one more than the largest id.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_ids: int):
        self._texts = _bytes_of_tokens(tokenizer)
        self._special = {*tokenizer.all_special_ids}
        self._special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._num_ids = num_ids
        self._units: dict[tuple[int, ...], list[str]] = {}

    @cached_property
    def _own(self) -> NDArray[np.int16]:
        """Index of the script of each token `(num_ids,)`; `_DEPENDS` where the text decides."""
        own = np.full(self._num_ids, _INDEX[UNKNOWN], dtype=np.int16)
        for token, text in self._texts.items():
            own[token] = _INDEX[SPECIAL] if token in self._special else _own_script(text)
        return own

    def in_context(self, tokens: IntArray, sizes: Iterable[int]) -> tuple[IntArray, list[str]]:
        """Places of the tokens without a script of their own, and the script of each.

        Args:
            tokens: ids of several texts, one after another.
            sizes: number of tokens of each text.
        """
        places = np.flatnonzero(self._own[tokens] == _DEPENDS)
        if not len(places):
            return places, []
        ends = np.cumsum(np.fromiter(sizes, dtype=np.int64))
        starts = {0, *ends.tolist()}
        found: list[str] = []
        for run in _runs(places.tolist(), starts):
            first = run[0]
            before = COMMON if first in starts else _NAMES[self._own[tokens[first - 1]]]
            found += self._scripts(tokens[first : run[-1] + 1].tolist(), before)
        return places, found

    def count(self, texts: Iterable[Sequence[int]]) -> InContext:
        """Counts of the tokens without a script of their own in texts of token ids."""
        arrays = [np.asarray(text, dtype=np.int64) for text in texts]
        tokens = np.concatenate([np.empty(0, dtype=np.int64), *arrays])
        places, scripts = self.in_context(tokens, map(len, arrays))
        return Counter(zip(scripts, tokens[places].tolist(), strict=True))

    def split(self, counts: IntArray, in_context: InContext) -> dict[str, IntArray]:
        """Token counts of each script that occurs.

        Args:
            counts: how often each token occurs `(V,)`.
            in_context: which of these counts are of tokens without a script of their own, by script.
        """
        own = self._own[: len(counts)]
        found = {_NAMES[index]: np.where(own == index, counts, 0) for index in np.unique(own[counts > 0])}
        # Whatever no text explains stays visible.
        rest = found.pop(_NAMES[_DEPENDS], np.zeros_like(counts)) if _DEPENDS in own[counts > 0] else None
        for (script, token), number in in_context.items():
            found.setdefault(script, np.zeros_like(counts))[token] += number
            if rest is not None:
                rest[token] -= number
        return found

    def tokens_of(self, scripts: Iterable[str]) -> IntArray:
        """Every token that can write a part of a text in these scripts, ascending.

        These are the tokens of the scripts, tokens of bytes that occur in their characters, and tokens that
        hold only marks, which any script can use.
        """
        wanted = {*scripts}
        if not wanted:
            return np.empty(0, dtype=np.int64)
        own = np.flatnonzero(np.isin(self._own, [_INDEX[name] for name in wanted])).tolist()
        pieces = _pieces(frozenset({*wanted, INHERITED}))
        depends = np.flatnonzero(self._own == _DEPENDS).tolist()
        return np.array(sorted([*own, *(t for t in depends if _can_write(self._texts[t], pieces))]), np.int64)

    def _scripts(self, run: list[int], before: str) -> list[str]:
        """Scripts of neighbouring tokens without a script of their own."""
        found: list[str] = []
        for unit in self._split_at_characters(run):
            if unit not in self._units:
                self._units[unit] = _scripts_of([self._texts[token] for token in unit])
            for script in self._units[unit]:
                found.append(before if script == INHERITED else script)
                before = found[-1]
        return found

    def _split_at_characters(self, run: list[int]) -> Iterator[tuple[int, ...]]:
        """The shortest pieces of a run that hold whole characters."""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        start = 0
        for end, token in enumerate(run, start=1):
            decoder.decode(self._texts[token])
            if not decoder.getstate()[0]:
                yield tuple(run[start:end])
                start = end
        if start < len(run):
            yield tuple(run[start:])


def _runs(places: list[int], starts: set[int]) -> Iterator[list[int]]:
    """Neighbouring places of one text."""
    run: list[int] = []
    for place in places:
        if run and (place != run[-1] + 1 or place in starts):
            yield run
            run = []
        run.append(place)
    yield run


@lru_cache(maxsize=200_000)
def _script(character: str) -> str:
    return Scripts.NAMES[code_of(character)]


def _main_script(characters: Iterable[str]) -> str:
    """The script of most letters; `Common` without a letter; `Inherited` if there are only marks."""
    found = Counter(map(_script, characters))
    letters = Counter({name: n for name, n in found.items() if name not in (COMMON, INHERITED)})
    if letters:
        return letters.most_common(1)[0][0]
    return INHERITED if found and COMMON not in found else COMMON


def _own_script(text: bytes) -> int:
    if text.isascii():
        return _INDEX["Latin" if _LETTER.search(text.decode()) else COMMON]
    try:
        name = _main_script(text.decode())
    except UnicodeDecodeError:
        return _DEPENDS
    return _DEPENDS if name == INHERITED else _INDEX[name]


def _scripts_of(tokens: list[bytes]) -> list[str]:
    """The script of the characters to which each token contributes."""
    by_byte: list[str] = []
    for character in b"".join(tokens).decode("utf-8", "surrogateescape"):
        # A byte that belongs to no character became half a surrogate.
        by_byte += [character] * len(character.encode("utf-8", "surrogateescape"))
    found, at = [], 0
    for token in tokens:
        found.append(_main_script(by_byte[at : at + len(token)]))
        at += len(token)
    return found


@cache
def _pieces(scripts: frozenset[str]) -> set[bytes]:
    """Every run of bytes, without whole characters, that occurs in a character of these scripts."""
    pieces: set[bytes] = set()
    for first, after, name in zip(
        Scripts.RANGES, [*Scripts.RANGES[1:], 0x110000], Scripts.VALUES, strict=True
    ):
        if Scripts.NAMES[name] in scripts and not 0xD800 <= first <= 0xDFFF:
            for point in range(max(first, 0x80), after):
                text = chr(point).encode("utf-8", "surrogatepass")
                pieces |= {
                    text[i:j]
                    for i in range(len(text))
                    for j in range(i + 1, len(text) + 1)
                    if j - i < len(text)
                }
    return pieces


def _can_write(text: bytes, pieces: set[bytes]) -> bool:
    """Whether a token without a script of its own can write a part of the characters that have `pieces`."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return any(piece in pieces for piece in _incomplete(text))
    return True  # only marks


def _incomplete(text: bytes) -> list[bytes]:
    """The parts of a token that are no whole characters."""
    found = [b""]
    for character in text.decode("utf-8", "surrogateescape"):
        is_piece = "\udc80" <= character <= "\udcff"
        byte = character.encode("utf-8", "surrogateescape") if is_piece else b""
        if not is_piece or byte >= b"\xc0":  # the first byte of the next character
            found.append(b"")
        found[-1] += byte
    return [piece for piece in found if piece]


def _bytes_of_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """What each token writes; sub-word marks of WordPiece and SentencePiece are removed or become spaces."""
    decoder = tokenizer.backend_tokenizer.decoder
    is_byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
    added = {
        token: entry.content.encode("utf-8", "surrogatepass")
        for token, entry in tokenizer.added_tokens_decoder.items()
    }
    letters = _byte_alphabet() if is_byte_level else {}
    texts = {}
    for text, token in tokenizer.get_vocab().items():
        if is_byte_level and all(letter in letters for letter in text):
            texts[token] = bytes(letters[letter] for letter in text)
        elif not is_byte_level and (found := _BYTE.fullmatch(text)):
            texts[token] = bytes([int(found[1], 16)])
        else:
            texts[token] = text.replace("\u2581", " ").removeprefix("##").encode("utf-8", "surrogatepass")
    return texts | added


def _byte_alphabet() -> dict[str, int]:
    """Byte of each character of a byte-level vocabulary: printable bytes stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
