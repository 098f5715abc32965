"""A target's tokenizer and vocabulary, without its weights."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bench.cost.config_json import read_config
from bench.errors import CheckpointError, one_line
from bench.identity import Identity, of_tokenizer
from bench.text.scripts import TokenScripts
from bench.vocab.coverage import must_keep_ids
from bench.vocab.draft_vocab import IntArray

# Package and module of what reads a SentencePiece model.
_FOR_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}

# A token in base64 and its id; a SentencePiece model is a protocol buffer.
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class TargetTokenizer:
    """What a selection needs of a target.

    Attributes:
        tokenizer: as loaded by `transformers`.
        vocab_size: V, rows of the target's LM head. It can be larger than the tokenizer's vocabulary
            (padding), or smaller: some tokens have no row, such as Gemma 3's for images.
        eos_token_ids: tokens that end an answer.
        identity: hashes of vocabulary, chat template and special tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    eos_token_ids: frozenset[int]
    identity: Identity

    @property
    def fingerprint(self) -> str:
        """One hash of all that decides how a conversation becomes tokens."""
        return self.identity.digest

    @cached_property
    def num_ids(self) -> int:
        """One more than the largest id that the tokenizer or the LM head has."""
        return max(self.vocab_size, 1 + max(self.tokenizer.get_vocab().values()))

    def name_of(self, token: int) -> str:
        """A token as it is written, for messages."""
        return f"{self.tokenizer.convert_ids_to_tokens(token)!r} (id {token})"

    @cached_property
    def scripts(self) -> TokenScripts:
        """The script of each token."""
        return TokenScripts(self.tokenizer, self.num_ids)

    def must_keep(
        self, byte_fallback: bool = False, templates: Iterable[str] = (), scripts: Iterable[str] = ()
    ) -> list[int]:
        """Tokens that stay in a draft vocabulary of every size, ascending.

        These are the tokens that end an answer, the tokenizer's special tokens, and every added token that
        the chat template can emit.

        Args:
            byte_fallback: also keep the tokens of single bytes, which can write any text.
            templates: sources of further chat templates.
            scripts: also keep every token that can write a part of a text in these scripts.
        """
        kept = {*must_keep_ids(self.tokenizer, self.eos_token_ids), *self._template_ids(templates)}
        if byte_fallback:
            kept |= _byte_ids(self.tokenizer.get_vocab())
        if wanted := [*scripts]:  # else no table of the whole vocabulary is needed
            kept |= {*self.scripts.tokens_of(wanted).tolist()}
        return sorted(token for token in kept if token < self.vocab_size)

    def _template_ids(self, templates: Iterable[str]) -> Iterable[int]:
        template = self.tokenizer.chat_template
        texts = template.values() if isinstance(template, dict) else [template or ""]
        source = "\n".join([*texts, *templates])
        # A line break in a token's text would be escaped in the template's source; no known token has one.
        return [token for text, token in self.tokenizer.get_added_vocab().items() if text in source]


def check_tokenizer_files(folder: Path) -> None:
    """Refuses a tokenizer that only a library that is not here can convert; reads no vocabulary.

    Raises:
        CheckpointError: such a library is missing; its name is given.
    """
    models = sorted(folder.glob("*.model"))
    if not models or (folder / "tokenizer.json").exists():
        return
    with models[0].open("rb") as file:
        is_tiktoken = _TIKTOKEN_LINE.match(file.read(64))
    needed = {"tiktoken": "tiktoken"} if is_tiktoken else _FOR_SENTENCEPIECE
    missing = [package for package, module in needed.items() if not _is_here(module)]
    if missing:
        raise CheckpointError(
            f"{folder} has {models[0].name} and no tokenizer.json; transformers converts it with "
            f"{' and '.join(needed)}, and {' and '.join(missing)} cannot be imported: pip install "
            f"{' '.join(missing)}, or put the model's tokenizer.json beside it"
        )


def _is_here(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def read_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, as `transformers` loads it.

    Raises:
        CheckpointError: there is none that can be loaded.
    """
    check_tokenizer_files(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # damaged or foreign files raise whatever their code happens to
        if not any((folder / name).exists() for name in _VOCABULARIES):
            raise CheckpointError(
                f"{folder} holds no tokenizer: none of {', '.join(_VOCABULARIES)}; fetch the whole model"
            ) from error
        raise CheckpointError(
            f"{folder} has no tokenizer that transformers can load: {one_line(error)}"
        ) from error


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> TargetTokenizer:
    """Loads the tokenizer and `config.json` of the target in `folder`.

    Raises:
        CheckpointError: there is no tokenizer, or it is not a fast one.
    """
    tokenizer = read_tokenizer(folder, trust_remote_code)
    if not tokenizer.is_fast or not tokenizer.get_vocab():
        raise CheckpointError(
            f"{folder}: this tokenizer has no tokenizer.json; convert it to a fast tokenizer first"
        )
    config = read_config(folder / "config.json")[1]
    inner = config.get("text_config")
    vocab_size = (inner if isinstance(inner, dict) else config).get("vocab_size")
    if not isinstance(vocab_size, int) or vocab_size < 1:
        raise CheckpointError(f"{folder / 'config.json'}: vocab_size is missing")
    return TargetTokenizer(
        tokenizer, vocab_size, _eos_ids(folder, config, tokenizer), of_tokenizer(tokenizer)
    )


def _eos_ids(folder: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    generation = folder / "generation_config.json"
    declared = read_config(generation)[1].get("eos_token_id") if generation.exists() else None
    if declared is None:
        declared = config.get("eos_token_id")
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int))


class HasTokens(Protocol):
    """What a comparison of ids needs of a target."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """As loaded by `transformers`."""

    @property
    def vocab_size(self) -> int:
        """Rows of its LM head."""


def shared_ids(target: HasTokens, draft_folder: Path, num_rows: int) -> IntArray:
    """Ids that stand for the same token in the target and in a draft, ascending.

    Padding counts as shared. A draft without a tokenizer of its own uses the target's ids.

    Args:
        target: tokenizer and vocabulary size of the target.
        draft_folder: folder of the draft.
        num_rows: tokens of the draft's untrimmed LM head.

    Raises:
        CheckpointError: the draft's tokenizer cannot be read.
    """
    ids = np.arange(min(target.vocab_size, num_rows), dtype=np.int64)
    path = draft_folder / "tokenizer.json"
    if not path.exists():
        return ids
    try:
        own = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # the library raises no class of its own
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    names, own_names = (
        {token: name for name, token in v.items()} for v in (target.tokenizer.get_vocab(), own)
    )
    return ids[[names.get(i) == own_names.get(i) for i in ids.tolist()]]


def _byte_ids(vocab: dict[str, int]) -> set[int]:
    """Tokens `<0x00>` to `<0xFF>`, or the 256 characters of a byte-level alphabet."""
    fallback = {token for text, token in vocab.items() if _BYTE_FALLBACK.fullmatch(text)}
    if fallback:
        return fallback
    from tokenizers.pre_tokenizers import ByteLevel

    return {vocab[letter] for letter in ByteLevel.alphabet() if letter in vocab}
