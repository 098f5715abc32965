"""Loads what all domains of a selection share: tokenizer, shape of the draft, and all token counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.caches import say_once
from bench.config import Config, DomainSource, PairConfig
from bench.cost.shape import DraftShape
from bench.decoding.answers import AnswerStore
from bench.device import open_device
from bench.errors import CheckpointError, ConfigError, VocabError
from bench.export.checkpoint import read_offsets
from bench.identity import of_model
from bench.models.checkpoint import Purpose, confirmed_shape, resolve_pair_draft, shape_of_pair
from bench.models.fetching import resolve_tokenizer
from bench.models.mtp import OF_TARGET
from bench.models.target import Target, load_target, resolve_target
from bench.runs.pair import dtype_of, shipped_answers
from bench.select.choose import Vocabulary
from bench.text import OddRows, Prompt, RowError
from bench.text.domain_counts import AnswerWriter, DomainCounts, count_domain
from bench.text.template import prompt_ids, template_source
from bench.text.tokenizer import TargetTokenizer, load_tokenizer, shared_ids
from bench.vocab.draft_vocab import DraftVocab, IntArray


@dataclass(frozen=True)
class Context:
    """What all domains of a selection share.

    Attributes:
        config: the configuration.
        target: tokenizer and vocabulary size.
        draft_folder: the draft's files.
        shape: shape of the draft.
        vocabulary: the tokens to choose from.
        counts: counts of every domain and corpus, by name.
    """

    config: Config
    target: TargetTokenizer
    draft_folder: Path
    shape: DraftShape
    vocabulary: Vocabulary
    counts: dict[str, DomainCounts]


def prepare(config: Config, status: Callable[[str], None]) -> Context:
    """Loads tokenizer and draft, and counts every domain and corpus.

    Args:
        config: the configuration.
        status: called with a message about the current step.

    Raises:
        BenchError: wrong input.
    """
    sources = _all_sources(config)
    status("loading the tokenizer")
    pair = config.pair
    tokenizer = resolve_tokenizer(pair.target, pair.target_revision, pair.trust_remote_code)
    target = load_tokenizer(tokenizer, pair.trust_remote_code)
    draft_folder = resolve_pair_draft(pair, purpose=Purpose.TRIM, weights=False)
    shape = shape_of_pair(pair, draft_folder)
    # Which tokens a trimmed head has is in the weights.
    is_trimmed = shape.draft_vocab_size < shape.vocab_size
    if config.select.checkpoint or is_trimmed:
        draft_folder = resolve_pair_draft(pair, purpose=Purpose.TRIM)
        shape = confirmed_shape(draft_folder, pair.draft == OF_TARGET)
        is_trimmed = shape.draft_vocab_size < shape.vocab_size
    templates = [template_source(source.template) for source in sources]
    must_keep = target.must_keep(
        config.select.byte_fallback, filter(None, templates), config.select.keep_scripts
    )
    shared = shared_ids(target, draft_folder, shape.vocab_size)
    if shape.vocab_size != target.vocab_size and not (draft_folder / "tokenizer.json").exists():
        say_once(
            f"{draft_folder} has {shape.vocab_size:,} tokens and the target {target.vocab_size:,}; the draft "
            "has no tokenizer to compare: equal ids are assumed to be equal tokens"
        )
    candidates = np.intersect1d(_own_vocabulary(draft_folder, shape), shared) if is_trimmed else shared
    _say_what_is_lacking(draft_folder, target, config.select.keep_scripts, candidates)
    writer = _AnswerWriter(pair, config.dtype, config.gpu.device, target, draft_folder, status)
    counts = {}
    for source in sources:

        def progress(done: int, name: str = source.name) -> None:
            writer.count(name, done)

        status(f"{source.name}: counting responses")
        counts[source.name] = count_domain(
            source, target, config.vocab, writer.for_domain(source), config.select.num_processes, progress
        )
        _check_shared(draft_folder, shape, target, shared, counts[source.name])
    has_all = len(candidates) == target.vocab_size
    vocabulary = Vocabulary(target.vocab_size, must_keep, None if has_all else candidates)
    return Context(config, target, draft_folder, shape, vocabulary, counts)


def _say_what_is_lacking(
    draft_folder: Path, target: TargetTokenizer, scripts: list[str], candidates: IntArray
) -> None:
    """Names the scripts of which a draft that is trimmed already has not all tokens."""
    wanted = target.scripts.tokens_of(scripts)
    wanted = wanted[wanted < target.vocab_size]
    if lacking := len(np.setdiff1d(wanted, candidates)):
        say_once(
            f"{draft_folder}: its LM head lacks {lacking:,} of the {len(wanted):,} tokens of "
            f"select.keep_scripts=[{', '.join(scripts)}]; they cannot be kept"
        )


def _check_shared(
    draft_folder: Path, shape: DraftShape, target: TargetTokenizer, shared: IntArray, counts: DomainCounts
) -> None:
    """Refuses a draft in whose untrimmed vocabulary a counted token does not exist."""
    total = counts.sides.ranking.total() + counts.sides.held_out.total()
    missing = np.setdiff1d(np.flatnonzero(total), shared)
    if not len(missing):
        return
    token = int(missing[np.argmax(total[missing])])
    rows = f"its LM head has only {shape.vocab_size:,} rows"
    why = rows if token >= shape.vocab_size else "its tokenizer has another token with this id"
    raise CheckpointError(
        f"{draft_folder}: the draft lacks {len(missing):,} tokens that were counted, such as "
        f"{target.name_of(token)}, {total[token]:,} times in {counts.name}: {why}; use a draft of this target"
    )


def _all_sources(config: Config) -> list[DomainSource]:
    sources = [*config.domain.sources(), *config.corpora.values()]
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"domain {twice[0]} is named twice among domain and corpora; rename one with its .name"
        )
    unknown = sorted(set(config.select.ranking_weights()) - set(names))
    if unknown:
        raise ConfigError(
            f"select.ranking names {unknown[0]}, which is neither a domain nor a corpus of this run; "
            f"known are {', '.join(names)}"
        )
    return sources


def _own_vocabulary(draft_folder: Path, shape: DraftShape) -> IntArray:
    """Ids in the LM head of a draft that is already trimmed."""
    d2t = read_offsets(draft_folder)
    if d2t is None:
        raise CheckpointError(
            f"{draft_folder}: its LM head is trimmed (draft_vocab_size), and the weights hold no d2t, which "
            "says to which tokens; fetch the draft again, or give one that has it"
        )
    try:
        return DraftVocab.from_d2t(d2t, shape.vocab_size).target_ids
    except VocabError as error:
        raise CheckpointError(f"{draft_folder}: d2t is not a vocabulary map: {error}") from error


class _AnswerWriter:
    """Lets the target write answers. Its weights are only loaded if answers are missing."""

    def __init__(
        self,
        pair: PairConfig,
        dtype: str,
        device: str,
        tokenizer: TargetTokenizer,
        draft_folder: Path,
        status: Callable[[str], None],
    ):
        self._pair, self._dtype, self._device = pair, dtype, device
        self._tokenizer, self._draft_folder = tokenizer, draft_folder
        self._status = status
        self._target: Target | None = None
        self._store: AnswerStore | None = None
        self._done = 0

    def count(self, name: str, done: int) -> None:
        """Shows the number of counted conversations."""
        self._done += done
        self._status(f"{name}: counting responses, {self._done:,} conversations")

    def for_domain(self, domain: DomainSource) -> AnswerWriter:
        """The answer writer for `count_domain`."""
        self._done = 0

        def write(prompts: Sequence[Prompt], wanted: int, odd: OddRows) -> list[tuple[Prompt, list[int]]]:
            return self._write(domain, prompts, wanted, odd)

        return write

    def _write(
        self, domain: DomainSource, prompts: Sequence[Prompt], wanted: int, odd: OddRows
    ) -> list[tuple[Prompt, list[int]]]:
        store = self._open_store()
        if store.lacks(prompts, wanted):
            prompts = [p for p in prompts if self._fits(p, domain.max_prompt_tokens, odd)]
        if store.lacks(prompts, wanted):

            def show(done: int, total: int) -> None:
                self._status(
                    f"{domain.name}: the target answers prompts, {done} of {total} (answers are cached)"
                )

            show(0, min(wanted, len(prompts)) - store.num_known(prompts))
            store.get(self._load_target(), prompts, wanted, show)
        return [(prompt, ids) for prompt in prompts for ids in store.known(prompt)]

    @cached_property
    def _folder(self) -> Path:
        """Of the target."""
        pair = self._pair
        return resolve_target(pair.target, pair.target_revision, pair.trust_remote_code)

    def _open_store(self) -> AnswerStore:
        if self._store is None:
            dtype = dtype_of(self._dtype, open_device(self._device))
            identity = of_model(self._pair.target, self._folder)
            self._store = AnswerStore(identity, str(dtype), *shipped_answers(self._draft_folder))
        return self._store

    def _load_target(self) -> Target:
        if self._target is None:
            pair, device = self._pair, open_device(self._device)
            dtype = dtype_of(self._dtype, device)
            self._target = load_target(
                self._folder, device.torch_device, dtype, pair.trust_remote_code, pair.device_map
            )
        return self._target

    def _fits(self, prompt: Prompt, most: int, odd: OddRows) -> bool:
        try:
            return len(prompt_ids(self._tokenizer.tokenizer, prompt, self._tokenizer.vocab_size)) <= most
        except RowError as error:
            odd.leave(error)
            return False
