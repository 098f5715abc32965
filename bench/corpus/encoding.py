"""Token ids of responses, fast: words that were seen before are not tokenized again.

Byte-level BPE tokenizers split text before a single space that stands between two other characters, so
what lies between such spaces can be tokenized once and remembered. Whether that holds for a tokenizer is
not assumed: `WordCache` is only used while it gives exactly what the tokenizer gives on a sample of the
very responses that are counted.
"""

import re
from array import array
from collections.abc import Sequence
from itertools import chain
from os.path import commonprefix

from transformers import PreTrainedTokenizerBase

_BOUNDARY = re.compile(r"(?<=\S) (?=\S)")
_MAX_WORDS = 400_000
# One response in so many is tokenized whole as well and compared.
_CHECK_EVERY = 64


class InexactError(Exception):
    """Words alone tokenize differently from words in their text."""


class ResponseEncoder:
    """Token ids of responses, up to and including the token that ends the turn.

    Args:
        tokenizer: of the target.
        tail: what the chat template writes after a response.
        eos_token_id: counted once a response where `tail` holds no special token.
        use_words: remember words; else every response is tokenized whole.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tail: str, eos_token_id: int | None, use_words: bool
    ):
        self._backend = tokenizer.backend_tokenizer
        self._special_ids = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        marks = list(tokenizer.get_added_vocab())
        # Tokens that split text before anything else; their common beginning shows that none is near.
        self._mark = commonprefix(marks)
        self._marks = marks
        self._tail = tail
        self._end = self._trim(self._ids(tail)) if tail else []
        if not self._end and eos_token_id is not None:
            self._end = [eos_token_id]
        self._use_words = use_words
        self._words: dict[str, list[int]] = {}
        self._first_words: dict[str, list[int]] = {}
        self._num_seen = 0

    def encode(self, responses: Sequence[str]) -> list["array[int]"]:
        """Token ids of each response.

        Raises:
            InexactError: remembering words is not exact for this tokenizer.
        """
        bodies = [self._body(response) for response in responses]
        by_words = [i for i, (body, _) in enumerate(bodies) if self._use_words and self._is_plain(body)]
        encoded: list[array[int]] = [array("i") for _ in responses]
        self._encode_words([bodies[i][0] for i in by_words], [encoded[i] for i in by_words])
        whole = sorted(set(range(len(responses))) - set(by_words))
        for index, ids in zip(whole, self._ids_of([bodies[i][0] for i in whole]), strict=True):
            encoded[index].extend(ids)
        for (_, ended), ids in zip(bodies, encoded, strict=True):
            if ended:
                ids.extend(self._end)
        return encoded

    def _body(self, response: str) -> tuple[str, bool]:
        """The response without its end, and whether the end is to be added again."""
        if self._tail and response.endswith(self._tail):
            return response[: len(response) - len(self._tail)], True
        stripped = self._tail.rstrip()
        if stripped and response.endswith(stripped):
            return response[: len(response) - len(stripped)], True
        # Cut off in its midst, or a template that writes no end: the model still has to.
        return response, not self._tail

    def _is_plain(self, body: str) -> bool:
        if self._mark:
            return self._mark not in body
        return not any(mark in body for mark in self._marks)

    def _encode_words(self, bodies: list[str], out: list["array[int]"]) -> None:
        if len(self._words) + len(self._first_words) > _MAX_WORDS:
            self._words.clear()
            self._first_words.clear()
        split = [_BOUNDARY.split(body) for body in bodies]
        self._learn(self._first_words, {words[0] for words in split}, "")
        self._learn(self._words, set(chain.from_iterable(words[1:] for words in split)), " ")
        first, rest = self._first_words, self._words.__getitem__
        for words, ids in zip(split, out, strict=True):
            ids.extend(first[words[0]])
            ids.extend(chain.from_iterable(map(rest, words[1:])))
        checked = [i for i in range(len(bodies)) if (self._num_seen + i) % _CHECK_EVERY == 0]
        self._num_seen += len(bodies)
        for index, ids in zip(checked, self._ids_of([bodies[i] for i in checked]), strict=True):
            if list(out[index]) != ids:
                raise InexactError

    def _learn(self, known: dict[str, list[int]], words: set[str], lead: str) -> None:
        new = list(words - known.keys())
        known.update(zip(new, self._ids_of([lead + word for word in new]), strict=True))

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _ids(self, text: str) -> list[int]:
        return self._ids_of([text])[0]

    def _trim(self, ids: list[int]) -> list[int]:
        """`ids` up to the last special token; nothing when there is none."""
        places = [i for i, token in enumerate(ids) if token in self._special_ids]
        return ids[: places[-1] + 1] if places else []
