"""From a domain's text to a workload: held-out prompts, ranking, and one draft head per size."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.config import DomainSource, MeasureConfig, VocabConfig
from bench.domains import Prompt, Split, take_split
from bench.errors import DomainError
from bench.measure.session import EncodedPrompt, Workload
from bench.pair import Pair
from bench.records import VocabRecord
from bench.vocab.counting import count_tokens, coverage, must_keep_ids
from bench.vocab.draft_vocab import DraftVocab, choose_vocab, rank_by_count


@dataclass(frozen=True)
class Prepared:
    """A workload, and the records of the vocabularies it uses."""

    workload: Workload
    vocabs: list[VocabRecord]


def prepare(
    pair: Pair,
    domain: DomainSource,
    prompts: list[Prompt],
    vocab: VocabConfig,
    measure: MeasureConfig,
    progress: Callable[[int, int], None],
) -> Prepared:
    """Ranks the vocabulary on the ranking prompts' answers and encodes the held-out prompts.

    Raises:
        DomainError: one side of the split is empty.
        VocabError: a size is below the must-keep set or above the draft's vocabulary.
    """
    ranking = take_split(prompts, Split.RANKING, vocab.split_seed, vocab.held_out_share)
    held_out = take_split(prompts, Split.HELD_OUT, vocab.split_seed, vocab.held_out_share)
    encoded = _encode(pair, held_out, domain.max_prompt_tokens, measure.num_prompts)
    if not ranking or not encoded:
        raise DomainError(
            f"domain {domain.name}: {len(prompts)} prompts gave {len(ranking)} to rank on and "
            f"{len(encoded)} held-out ones of at most {domain.max_prompt_tokens} tokens; both are needed - "
            f"give more prompts, or change vocab.held_out_share, vocab.split_seed or domain.max_prompt_tokens"
        )
    # Sizes are checked before the target is asked for answers, which may take minutes.
    _choose_all(pair, vocab, np.zeros(pair.target.vocab_size, dtype=np.int64))
    if pair.answers.lacks(ranking, vocab.ranking_answers):
        ranking = [p for p in ranking if _fits(pair, p, domain.max_prompt_tokens)]
    answers = pair.answers.get(pair.target, ranking, vocab.ranking_answers, progress)
    if not answers:
        raise DomainError(
            f"domain {domain.name}: every ranking prompt is longer than domain.max_prompt_tokens="
            f"{domain.max_prompt_tokens}; raise it"
        )
    counts = count_tokens(answers, pair.target.vocab_size)
    chosen = _choose_all(pair, vocab, counts)
    heads = {len(v): pair.draft.head(v) for v in chosen}
    records = [_record(domain.name, v, counts) for v in chosen]
    return Prepared(Workload(domain.name, encoded, heads), records)


def _encode(pair: Pair, prompts: list[Prompt], max_tokens: int, wanted: int) -> list[EncodedPrompt]:
    encoded: list[EncodedPrompt] = []
    for prompt in prompts:
        ids = pair.target.encode(prompt.as_dicts())
        if len(ids) <= max_tokens:
            encoded.append(EncodedPrompt(prompt.prompt_id, ids))
        if len(encoded) == wanted:
            break
    return encoded


def _fits(pair: Pair, prompt: Prompt, max_tokens: int) -> bool:
    return len(pair.target.encode(prompt.as_dicts())) <= max_tokens


def _choose_all(pair: Pair, vocab: VocabConfig, counts: np.ndarray) -> list[DraftVocab]:
    """The draft's whole vocabulary, then every trimmed one, largest first."""
    whole = pair.draft.vocab
    ranking = rank_by_count(counts)
    ranking = ranking[np.isin(ranking, whole.target_ids)]
    must_keep = must_keep_ids(pair.target.tokenizer, pair.target.eos_token_ids())
    sizes = [size for size in vocab.trimmed_sizes() if size != len(whole)]
    trimmed = [choose_vocab(ranking, must_keep, size, pair.target.vocab_size) for size in sizes]
    return [whole, *trimmed]


def _record(domain: str, vocab: DraftVocab, counts: np.ndarray) -> VocabRecord:
    return VocabRecord(
        domain=domain,
        vocab_size=len(vocab),
        target_ids=None if vocab.is_full else vocab.target_ids.tolist(),
        coverage_train=coverage(counts, vocab),
        num_ranking_tokens=int(counts.sum()),
        num_ranking_distinct=int((counts > 0).sum()),
        content_hash=vocab.content_hash,
    )
