"""Held-out prompts and rankings of a domain, from its text."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.config import OWN, POOLED, DomainSource, MeasureConfig, SelectConfig, VocabConfig
from bench.errors import CheckpointError, ConfigError, DomainError
from bench.export.checkpoint import read_offsets
from bench.export.readers import read_map
from bench.measure.workload import AnsweredPrompt, EncodedPrompt
from bench.models.checkpoint import Purpose, resolve_draft
from bench.records import RankingRecord
from bench.runs.pair import Pair
from bench.text import OddRows, Prompt, RowError, Split, take_split
from bench.vocab.coverage import count_tokens, coverage_curve, must_keep_ids
from bench.vocab.draft_vocab import (
    DraftVocab,
    Floats,
    IntArray,
    choose_vocab,
    rank_by_count,
    selection_order,
)
from bench.vocab.ranking import mixture_scores
from bench.vocab.search import SearchSpace, exact_optimum


def _say_nothing(done: int, total: int) -> None:
    pass


def _drop(line: str) -> None:
    pass


def possible_sizes(
    vocab: VocabConfig, least: int, most: int, say: Callable[[str], None] = _drop
) -> list[int]:
    """The sizes of a configuration that are possible for a draft, and its full size, ascending.

    Args:
        vocab: the requested sizes.
        least: number of tokens that every vocabulary must keep.
        most: number of tokens of the draft.
        say: called with a message about sizes that are left out.
    """
    wanted = vocab.trimmed_sizes()
    if above := [size for size in wanted if size > most]:
        say(f"vocab.sizes: left out {_listed(above)}, more than the {most:,} tokens of the draft")
    if below := [size for size in wanted if size < least]:
        kept = f"the {least:,} tokens that every draft must keep"
        say(f"vocab.sizes: left out {_listed(below)}, fewer than {kept}")
    return sorted({size for size in wanted if least <= size <= most} | {most})


def _listed(sizes: list[int]) -> str:
    return ", ".join(f"{size:,}" for size in sorted(sizes))


# A held-out prompt, also as token ids.
Held = tuple[Prompt, EncodedPrompt]


@dataclass(frozen=True)
class Ranking:
    """The order in which the draft's tokens enter a vocabulary.

    Attributes:
        source: the domain that was counted, or the pool of all.
        scores: count of each target token, or its share in the pool `(V,)`.
        order: the draft's tokens: the must-keep set, then the others by decreasing score `(draft's V,)`.
    """

    source: str
    scores: Floats | IntArray
    order: IntArray

    def record(self, num_kept: int, target_vocab_size: int) -> RankingRecord:
        """Its record; `num_kept` tokens at the front of the order are in every vocabulary."""
        num_seen = max(num_kept, int(np.flatnonzero(self.scores[self.order] > 0)[-1]) + 1)
        seen = self.order[:num_seen]
        candidates = None if len(self.order) == target_vocab_size else sorted(self.order.tolist())
        return RankingRecord(self.source, seen.tolist(), self.scores[seen].tolist(), num_kept, candidates)


def held_out_prompts(
    pair: Pair,
    domain: DomainSource,
    prompts: list[Prompt],
    vocab: VocabConfig,
    wanted: int,
    odd: OddRows | None = None,
) -> list[EncodedPrompt]:
    """The held-out prompts that are measured, see `split_held_out`."""
    found, _ = split_held_out(pair, domain, prompts, vocab, wanted, 0, odd)
    return [encoded for _, encoded in found]


def split_held_out(
    pair: Pair,
    domain: DomainSource,
    prompts: list[Prompt],
    vocab: VocabConfig,
    wanted: int,
    replayed: int,
    odd: OddRows | None = None,
) -> tuple[list[Held], list[Held]]:
    """The first held-out prompts that are short enough, also as token ids, and further ones to replay.

    Args:
        pair: the pair.
        domain: the domain.
        prompts: its prompts.
        vocab: the split.
        wanted: prompts of at most `max_prompt_tokens`, as far as there are.
        replayed: of both lists together, as far as there are; the further ones are of at most
            `max_replayed_prompt_tokens`.
        odd: collects the prompts that the target refuses.

    Raises:
        DomainError: there is none.
        CheckpointError: one has a token that the draft does not know.
    """
    odd = OddRows(num_read=len(prompts)) if odd is None else odd
    held_out = take_split(prompts, Split.HELD_OUT, vocab.split_seed, vocab.held_out_share)
    found: list[Held] = []
    further: list[Held] = []
    longest = max(domain.max_prompt_tokens, (replayed and domain.max_replayed_prompt_tokens) or 0)
    for prompt, ids in _short(pair, held_out, longest, odd):
        is_short = len(ids) <= domain.max_prompt_tokens and len(found) < wanted
        (found if is_short else further).append((prompt, EncodedPrompt(prompt.prompt_id, ids)))
        if len(found) >= wanted and len(found) + len(further) >= replayed:
            break
    odd.check(domain.name, domain.max_bad_share)
    if not found:
        raise DomainError(_why_none(domain, len(prompts), len(held_out), "held out", vocab))
    further = further[: max(0, replayed - len(found))]
    read = [encoded.token_ids for _, encoded in (*found, *further)]
    _check_known(pair, domain.name, count_tokens(read, pair.target.vocab_size))
    return found, further


def with_answers(
    pair: Pair,
    prompts: list[Held],
    progress: Callable[[int, int], None] = _say_nothing,
) -> list[AnsweredPrompt]:
    """Prompts with the target's greedy answers, which it writes, in batches, where they are not kept yet.

    Answers of one token leave nothing to draft, and are left out.
    """
    pair.answers.get(pair.target, [prompt for prompt, _ in prompts], len(prompts), progress)
    found = [(encoded, pair.answers.known(prompt)[0]) for prompt, encoded in prompts]
    return [AnsweredPrompt(e.prompt_id, e.token_ids, answer) for e, answer in found if len(answer) > 1]


def _short(
    pair: Pair, prompts: Iterable[Prompt], most: int, odd: OddRows
) -> Iterator[tuple[Prompt, list[int]]]:
    """Prompts of at most `most` tokens, with their token ids."""
    for prompt in prompts:
        try:
            ids = pair.target.encode(prompt)
        except RowError as error:
            odd.leave(error)
            continue
        if len(ids) <= most:
            yield prompt, ids


def _why_none(domain: DomainSource, num_prompts: int, num_on_side: int, side: str, vocab: VocabConfig) -> str:
    if not num_on_side:
        whose = "its only prompt is not" if num_prompts == 1 else f"none of its {num_prompts} prompts is"
        return (
            f"domain {domain.name}: {whose} {side}; give more prompts, or another vocab.split_seed (now "
            f"{vocab.split_seed}) or vocab.held_out_share (now {vocab.held_out_share:g})"
        )
    return (
        f"domain {domain.name}: none of the {num_on_side} prompts that are {side} is at most "
        f"domain.max_prompt_tokens={domain.max_prompt_tokens} tokens long; raise it, or give shorter prompts"
    )


def count_answers(
    pair: Pair,
    domain: DomainSource,
    prompts: list[Prompt],
    vocab: VocabConfig,
    progress: Callable[[int, int], None] = _say_nothing,
    odd: OddRows | None = None,
) -> IntArray:
    """Token counts of the target's answers to the ranking prompts `(V,)`; the target writes missing answers.

    Args:
        pair: the pair.
        domain: the domain.
        prompts: its prompts.
        vocab: the split, and the number of answers.
        progress: called with (prompts answered, prompts to answer).
        odd: collects the prompts that the target refuses.

    Raises:
        DomainError: no prompt is left to rank on.
    """
    odd = OddRows(num_read=len(prompts)) if odd is None else odd
    ranking = take_split(prompts, Split.RANKING, vocab.split_seed, vocab.held_out_share)
    num_ranking = len(ranking)
    if pair.answers.lacks(ranking, vocab.ranking_answers):
        ranking = [prompt for prompt, _ in _short(pair, ranking, domain.max_prompt_tokens, odd)]
    odd.check(domain.name, domain.max_bad_share)
    answers = pair.answers.get(pair.target, ranking, vocab.ranking_answers, progress)
    if not answers:
        raise DomainError(_why_none(domain, len(prompts), num_ranking, "left to rank the tokens", vocab))
    counts = count_tokens(answers, pair.target.vocab_size)
    _check_known(pair, domain.name, counts)
    return counts


def _check_known(pair: Pair, domain: str, counts: IntArray) -> None:
    """Refuses a draft in whose untrimmed vocabulary a counted token does not exist.

    Raises:
        CheckpointError: there is such a token, which is named.
    """
    unknown = pair.draft.unknown_ids
    counted = unknown[counts[unknown] > 0]
    if len(counted):
        token = int(counted[np.argmax(counts[counted])])
        name = pair.target.tokenizer.convert_ids_to_tokens(token)
        raise CheckpointError(
            f"the draft of {pair.name} lacks {len(counted):,} tokens that were counted, such as {name!r} (id "
            f"{token}), {counts[token]:,} times in {domain}; use a draft of this target"
        )


def make_rankings(pair: Pair, counts: dict[str, IntArray]) -> dict[str, Ranking]:
    """One ranking by domain and, if there are several domains, the pool of all with equal weights."""
    scores: dict[str, Floats | IntArray] = dict(counts)
    if len(counts) > 1:
        scores[POOLED] = mixture_scores(counts, dict.fromkeys(counts, 1.0))
    return {name: Ranking(name, score, _order(pair, score)) for name, score in scores.items()}


def source_for(domain: str, vocab: VocabConfig, rankings: dict[str, Ranking]) -> str:
    """The ranking of a domain's vocabularies.

    Raises:
        ConfigError: the run has no such ranking.
    """
    wanted = vocab.source
    if wanted == OWN or (wanted == POOLED and len(rankings) == 1):
        return domain
    if wanted not in rankings:
        raise ConfigError(
            f"vocab.source={wanted} is neither {OWN}, {POOLED} nor a domain or corpus of this run "
            f"({', '.join(name for name in rankings if name != POOLED)})"
        )
    return wanted


def check_sizes(
    pair: Pair, vocab: VocabConfig, measure: MeasureConfig, say: Callable[[str], None] = _drop
) -> list[int]:
    """The sizes to probe, including the full size, ascending.

    Args:
        pair: target and draft.
        vocab: the requested sizes; those that are impossible for this draft are left out.
        measure: further variants to decode; their sizes must be possible.
        say: called with a message about sizes that are left out.

    Raises:
        VocabError: the size of a variant is below the must-keep set or above the draft's vocabulary.
    """
    order, kept = pair.draft.vocab.target_ids, must_keep(pair)
    for variant in measure.also():
        choose_vocab(order, kept, variant.vocab_size, pair.target.vocab_size)
    return possible_sizes(vocab, len(kept), len(order), say)


def paper_size(pair: Pair, ranking: Ranking, select: SelectConfig) -> int:
    """k* of arXiv 2603.05210: the exact optimum of its utility, with coverage of the ranking responses."""
    coverage = coverage_curve(ranking.scores, ranking.order)
    reduction = pair.draft.shape.latency_reduction(np.arange(1, len(ranking.order) + 1))
    largest = min(select.k_max or len(ranking.order), len(ranking.order))
    smallest = min(max(select.k_min, num_kept(pair)), largest)
    space = SearchSpace(
        select.coverage_weight, select.min_coverage, smallest, largest, min(select.multiple, smallest)
    )
    return exact_optimum(coverage, reduction, space).vocab_size


def published_ids(vocab: VocabConfig, pair: Pair) -> IntArray | None:
    """The tokens of `vocab.published`; None without.

    Raises:
        AssetError: it cannot be had.
        CheckpointError: it is a draft with the whole vocabulary.
        VocabError: it is no list of tokens of this target.
    """
    if vocab.published is None:
        return None
    if Path(vocab.published).is_file():
        return read_map(Path(vocab.published), pair.target.vocab_size).target_ids
    folder = resolve_draft(vocab.published, purpose=Purpose.TRIM)
    offsets = read_offsets(folder)
    if offsets is None:
        raise CheckpointError(
            f"vocab.published={vocab.published}: the draft has no d2t, so that its list is the whole "
            "vocabulary; name a draft with a trimmed head, or a file of token ids"
        )
    return DraftVocab.from_d2t(offsets, pair.target.vocab_size).target_ids


def must_keep(pair: Pair) -> list[int]:
    """Tokens of the draft that are in every vocabulary."""
    kept = must_keep_ids(pair.target.tokenizer, pair.target.eos_token_ids())
    return np.intersect1d(kept, pair.draft.vocab.target_ids).tolist()


def num_kept(pair: Pair) -> int:
    """Size of the smallest vocabulary."""
    return max(1, len(must_keep(pair)))


def _order(pair: Pair, scores: Floats | IntArray) -> IntArray:
    ranking = rank_by_count(scores)
    ranking = ranking[np.isin(ranking, pair.draft.vocab.target_ids)]
    return selection_order(ranking, must_keep(pair))
