"""From a domain's text to held-out prompts, and to orders in which tokens enter a draft's vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.config import OWN, POOLED, DomainSource, MeasureConfig, SelectConfig, VocabConfig
from bench.errors import ConfigError, DomainError
from bench.measure.workload import EncodedPrompt
from bench.records import RankingRecord
from bench.runs.pair import Pair
from bench.text import Prompt, Split, take_split
from bench.vocab.coverage import count_tokens, coverage_curve, must_keep_ids
from bench.vocab.draft_vocab import Floats, IntArray, choose_vocab, rank_by_count, selection_order
from bench.vocab.ranking import mixture_scores
from bench.vocab.search import SearchSpace, exact_optimum


def _say_nothing(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Ranking:
    """An order of the draft's tokens, and what it was made of.

    Attributes:
        source: the domain that was counted, or the pool of all.
        scores: how often each target token was counted, or its expected share `(V,)`.
        order: the draft's tokens, the must-keep set first and then by falling score `(draft's V,)`.
    """

    source: str
    scores: Floats | IntArray
    order: IntArray

    def record(self, num_kept: int, target_vocab_size: int) -> RankingRecord:
        """As a run writes it down; `num_kept` tokens at the front of the order stay at any size."""
        num_seen = max(num_kept, int(np.flatnonzero(self.scores[self.order] > 0)[-1]) + 1)
        seen = self.order[:num_seen]
        candidates = None if len(self.order) == target_vocab_size else sorted(self.order.tolist())
        return RankingRecord(self.source, seen.tolist(), self.scores[seen].tolist(), num_kept, candidates)


def held_out_prompts(
    pair: Pair, domain: DomainSource, prompts: list[Prompt], vocab: VocabConfig, measure: MeasureConfig
) -> list[EncodedPrompt]:
    """The first held-out prompts that are short enough, as token ids.

    Raises:
        DomainError: there is none.
    """
    held_out = take_split(prompts, Split.HELD_OUT, vocab.split_seed, vocab.held_out_share)
    encoded: list[EncodedPrompt] = []
    for prompt in held_out:
        ids = pair.target.encode(prompt.as_dicts())
        if len(ids) <= domain.max_prompt_tokens:
            encoded.append(EncodedPrompt(prompt.prompt_id, ids))
        if len(encoded) == measure.num_prompts:
            break
    if not encoded:
        raise DomainError(
            f"domain {domain.name}: none of its {len(prompts)} prompts is held out and at most "
            f"{domain.max_prompt_tokens} tokens long; give more prompts, or change vocab.held_out_share, "
            "vocab.split_seed or domain.max_prompt_tokens"
        )
    return encoded


def count_answers(
    pair: Pair,
    domain: DomainSource,
    prompts: list[Prompt],
    vocab: VocabConfig,
    progress: Callable[[int, int], None] = _say_nothing,
) -> IntArray:
    """Token counts of the target's answers to the ranking prompts `(V,)`; it writes what is missing.

    Raises:
        DomainError: no prompt is left to rank on.
    """
    ranking = take_split(prompts, Split.RANKING, vocab.split_seed, vocab.held_out_share)
    if pair.answers.lacks(ranking, vocab.ranking_answers):
        most = domain.max_prompt_tokens
        ranking = [p for p in ranking if len(pair.target.encode(p.as_dicts())) <= most]
    answers = pair.answers.get(pair.target, ranking, vocab.ranking_answers, progress)
    if not answers:
        raise DomainError(
            f"domain {domain.name}: none of its {len(prompts)} prompts is left to rank on, at most "
            f"domain.max_prompt_tokens={domain.max_prompt_tokens} tokens long; raise it, give more prompts, "
            "or lower vocab.held_out_share"
        )
    return count_tokens(answers, pair.target.vocab_size)


def make_rankings(pair: Pair, counts: dict[str, IntArray]) -> dict[str, Ranking]:
    """One ranking by domain, and the pool of all where there are several, each domain weighing the same."""
    scores: dict[str, Floats | IntArray] = dict(counts)
    if len(counts) > 1:
        scores[POOLED] = mixture_scores(counts, dict.fromkeys(counts, 1.0))
    return {name: Ranking(name, score, _order(pair, score)) for name, score in scores.items()}


def source_for(domain: str, vocab: VocabConfig, rankings: dict[str, Ranking]) -> str:
    """Which ranking a domain's vocabularies follow.

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


def check_sizes(pair: Pair, vocab: VocabConfig, measure: MeasureConfig) -> list[int]:
    """The sizes that are probed, the full vocabulary among them, ascending.

    Raises:
        VocabError: a size is below the must-keep set or above the draft's vocabulary.
    """
    everything = np.arange(pair.target.vocab_size)
    order = everything[np.isin(everything, pair.draft.vocab.target_ids)]
    sizes = {*vocab.trimmed_sizes(), len(order)}
    for size in {*sizes, *(variant.vocab_size for variant in measure.also())}:
        choose_vocab(order, must_keep(pair), size, pair.target.vocab_size)
    return sorted(sizes)


def paper_size(pair: Pair, ranking: Ranking, select: SelectConfig) -> int:
    """k* of arXiv 2603.05210: the exact optimum of its utility on the ranking's own coverage."""
    coverage = coverage_curve(ranking.scores, ranking.order)
    reduction = pair.draft.shape.latency_reduction(np.arange(1, len(ranking.order) + 1))
    largest = min(select.k_max or len(ranking.order), len(ranking.order))
    smallest = min(max(select.k_min, len(must_keep(pair))), largest)
    space = SearchSpace(
        select.coverage_weight, select.min_coverage, smallest, largest, min(select.multiple, smallest)
    )
    return exact_optimum(coverage, reduction, space).vocab_size


def must_keep(pair: Pair) -> list[int]:
    """Tokens that a vocabulary of any size holds."""
    return must_keep_ids(pair.target.tokenizer, pair.target.eos_token_ids())


def _order(pair: Pair, scores: Floats | IntArray) -> IntArray:
    ranking = rank_by_count(scores)
    ranking = ranking[np.isin(ranking, pair.draft.vocab.target_ids)]
    return selection_order(ranking, must_keep(pair))
