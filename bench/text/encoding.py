"""Fast tokenization of responses: words that were seen before are not tokenized again.

Byte-level BPE tokenizers split text before a single space between two other characters. So the words between
such spaces can be tokenized once and cached. This is checked and not assumed: a sample of the responses is
also tokenized whole, and the cache is given up at the first difference.
"""

import re
from array import array
from collections.abc import Sequence
from os.path import commonprefix

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

_BOUNDARY = re.compile(r"(?<=\S) (?=\S)")

# In ASCII text without any of these, every space is such a boundary, and splitting at spaces is faster.
_OTHER_SPACES = ("  ", "\n ", " \n", "\t ", " \t", "\r ", " \r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f")

_MAX_WORDS = 400_000

_TOGETHER = 256

# One response in this many is also tokenized whole and compared.
_CHECK_EVERY = 256


class InexactError(Exception):
    """A word alone has other tokens than the same word in its text."""


class ResponseEncoder:
    """Token ids of responses, up to and including the token that ends the turn.

    Args:
        tokenizer: tokenizer of the target.
        tail: text that the chat template writes after a response.
        eos_token_id: counted once per response if `tail` has no special token.
        use_words: cache words; otherwise every response is tokenized whole.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tail: str, eos_token_id: int | None, use_words: bool
    ):
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
        self._use_words = use_words
        # Ids as bytes: joining bytes is the fastest way to concatenate words.
        self._words: dict[str, bytes] = {}
        self._first_words: dict[str, bytes] = {}
        self._num_seen = 0

    def encode(self, responses: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each response.

        Raises:
            InexactError: the word cache is not exact for this tokenizer.
        """
        bodies = [self._body(response) for response in responses]
        by_words = [i for i, (body, _) in enumerate(bodies) if self._use_words and self._is_plain(body)]
        encoded = dict(zip(by_words, self._encode_words([bodies[i][0] for i in by_words]), strict=True))
        whole = sorted(set(range(len(responses))) - set(by_words))
        encoded |= dict(zip(whole, self._bytes_of([bodies[i][0] for i in whole]), strict=True))
        end = _to_bytes(self._end)
        return [
            np.frombuffer(encoded[i] + end if ended else encoded[i], dtype=np.int32)
            for i, (_, ended) in enumerate(bodies)
        ]

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

    def _encode_words(self, bodies: list[str]) -> list[bytes]:
        if len(self._words) + len(self._first_words) > _MAX_WORDS:
            self._words.clear()
            self._first_words.clear()
        split = [_split(body) for body in bodies]
        rest: set[str] = set()
        for words in split:
            rest.update(words[1:])
        self._learn_first({words[0] for words in split})
        self._learn(rest)
        first, known = self._first_words, self._words.__getitem__
        encoded = [first[words[0]] + b"".join(map(known, words[1:])) for words in split]
        checked = [i for i in range(len(bodies)) if (self._num_seen + i) % _CHECK_EVERY == 0]
        self._num_seen += len(bodies)
        for index, ids in zip(checked, self._bytes_of([bodies[i] for i in checked]), strict=True):
            if encoded[index] != ids:
                raise InexactError
        return encoded

    def _learn_first(self, words: set[str]) -> None:
        new = list(words - self._first_words.keys())
        self._first_words.update(zip(new, self._bytes_of(new), strict=True))

    def _learn(self, words: set[str]) -> None:
        """Tokenizes words that follow a space. Many in one text, because a call costs more than a word."""
        new = list(words - self._words.keys())
        # A word that ends in white space would merge with the space after it.
        alone = [word for word in new if word[-1:].isspace() or not word]
        self._words.update(zip(alone, self._bytes_of([f" {word}" for word in alone]), strict=True))
        together = [word for word in new if word and not word[-1].isspace()]
        groups = [together[i : i + _TOGETHER] for i in range(0, len(together), _TOGETHER)]
        texts = [" " + " ".join(group) for group in groups]
        for group, encoding in zip(
            groups, self._backend.encode_batch(texts, add_special_tokens=False), strict=True
        ):
            self._words.update(zip(group, _by_word(group, encoding), strict=True))

    def _bytes_of(self, texts: list[str]) -> list[bytes]:
        return [_to_bytes(ids) for ids in self._ids_of(texts)]

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _ids(self, text: str) -> list[int]:
        return self._ids_of([text])[0]

    def _trim(self, ids: list[int]) -> list[int]:
        """`ids` up to the last special token; empty if there is none."""
        places = [i for i, token in enumerate(ids) if token in self._special_ids]
        return ids[: places[-1] + 1] if places else []


def _by_word(words: list[str], encoding: Encoding) -> list[bytes]:
    """Ids of each word, from the encoding of all words separated by spaces.

    A token belongs to the word in which it starts. A token that starts at the space between two words belongs
    to the second word.
    """
    ends = np.cumsum([len(word) + 1 for word in words])
    token_starts = np.fromiter((start for start, _ in encoding.offsets), dtype=np.int64)
    ids = np.asarray(encoding.ids, dtype=np.int32)
    cuts = np.searchsorted(token_starts, ends[:-1])
    return [piece.tobytes() for piece in np.split(ids, cuts)]


def _split(body: str) -> list[str]:
    is_simple = body.isascii() and body[:1] != " " and body[-1:] != " "
    if is_simple and not any(spaces in body for spaces in _OTHER_SPACES):
        return body.split(" ")
    return _BOUNDARY.split(body)


def _to_bytes(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()
