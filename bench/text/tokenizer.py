"""A target's tokenizer and vocabulary, without its weights."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bench.cost.config_json import read_config
from bench.errors import CheckpointError
from bench.vocab.coverage import must_keep_ids

_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class TargetTokenizer:
    """What a selection needs of a target.

    Attributes:
        tokenizer: as loaded by `transformers`.
        vocab_size: V, rows of the target's LM head. It can be larger than the tokenizer's vocabulary
            (padding).
        eos_token_ids: tokens that end an answer.
        fingerprint: sha256 of vocabulary, merges and chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    eos_token_ids: frozenset[int]
    fingerprint: str

    def must_keep(self, byte_fallback: bool = False) -> list[int]:
        """Tokens that stay in a draft vocabulary of every size, ascending.

        These are the tokens that end an answer, the tokenizer's special tokens, and every added token that
        the chat template can emit.

        Args:
            byte_fallback: also keep the tokens of single bytes, which can write any text.
        """
        kept = {*must_keep_ids(self.tokenizer, self.eos_token_ids), *self._template_ids()}
        if byte_fallback:
            kept |= _byte_ids(self.tokenizer.get_vocab())
        return sorted(token for token in kept if token < self.vocab_size)

    def _template_ids(self) -> Iterable[int]:
        template = self.tokenizer.chat_template
        texts = template.values() if isinstance(template, dict) else [template or ""]
        source = "\n".join(texts)
        # A line break in a token's text would be escaped in the template's source; no known token has one.
        return [token for text, token in self.tokenizer.get_added_vocab().items() if text in source]


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> TargetTokenizer:
    """Loads the tokenizer and `config.json` of the target in `folder`.

    Raises:
        CheckpointError: there is no tokenizer, it is not a fast one, or it has more tokens than the LM head.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder} holds no tokenizer that transformers can load: {reason}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder}: this tokenizer has no tokenizer.json; convert it to a fast tokenizer first"
        )
    config = read_config(folder / "config.json")[1]
    vocab_size = (config.get("text_config") or config).get("vocab_size")
    if not isinstance(vocab_size, int):
        raise CheckpointError(f"{folder / 'config.json'}: vocab_size is missing")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has token ids up to {largest}, the checkpoint's vocab_size is "
            f"{vocab_size}; use the tokenizer that belongs to the checkpoint"
        )
    return TargetTokenizer(
        tokenizer, vocab_size, _eos_ids(folder, config, tokenizer), _fingerprint(tokenizer)
    )


def _eos_ids(folder: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    generation = folder / "generation_config.json"
    declared = read_config(generation)[1].get("eos_token_id") if generation.exists() else None
    if declared is None:
        declared = config.get("eos_token_id")
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    content = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _byte_ids(vocab: dict[str, int]) -> set[int]:
    """Tokens `<0x00>` to `<0xFF>`, or the 256 characters of a byte-level alphabet."""
    fallback = {token for text, token in vocab.items() if _BYTE_FALLBACK.fullmatch(text)}
    if fallback:
        return fallback
    from tokenizers.pre_tokenizers import ByteLevel

    return {vocab[letter] for letter in ByteLevel.alphabet() if letter in vocab}
