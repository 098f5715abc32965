"""Chooses k for one domain: ranking, coverage, cost and search. Pure arithmetic on counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bench.config import CoverageOf, SelectConfig
from bench.cost.shape import DraftShape
from bench.errors import VocabError
from bench.vocab.blocks import BlockCounts
from bench.vocab.coverage import Band, coverage_band
from bench.vocab.draft_vocab import DraftVocab, Floats, IntArray, choose_vocab, rank_by_count, selection_order
from bench.vocab.ranking import mixture_scores
from bench.vocab.search import Choice, SearchSpace, TpeResult, exact_optimum, tpe_search, utility


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a selection may choose from.

    Attributes:
        target_size: V.
        must_keep: ids in every vocabulary, of any size.
        candidates: ids in the draft's LM head, ascending; None if it has all V.
    """

    target_size: int
    must_keep: list[int]
    candidates: IntArray | None = None


@dataclass(frozen=True)
class Selection:
    """The result for one domain. Arrays hold size k at index k - 1.

    Attributes:
        ranking: all candidate ids, best first.
        order: the same, with the must-keep set first: the vocabulary of size k is its first k ids.
        train: coverage of the ranking responses, with intervals.
        held_out: coverage of the held-out responses; None if there are none.
        reduction: R(k).
        space: the sizes that were searched.
        exact: the optimum over every k.
        tpe: trials and best trial of the Tree-structured Parzen Estimator.
        chosen: the vocabulary to export.
        judged: C(k) in the utility, of the ranking or of the held-out responses.
    """

    ranking: IntArray
    order: IntArray
    train: Band
    held_out: Band | None
    reduction: Floats
    space: SearchSpace
    exact: Choice
    tpe: TpeResult
    chosen: DraftVocab

    judged: Floats

    @property
    def sizes(self) -> IntArray:
        """Every k `(n,)`."""
        return np.arange(1, len(self.order) + 1)

    @property
    def utility(self) -> Floats:
        """U(k) `(n,)`."""
        return utility(self.judged, self.reduction, self.space.coverage_weight)


def rank(counts: Mapping[str, IntArray], weights: Mapping[str, float], vocabulary: Vocabulary) -> IntArray:
    """Candidate ids, best first.

    Args:
        counts: token counts `(V,)` of the ranking responses by domain.
        weights: weight of each domain in the ranking.
        vocabulary: the candidates.

    Raises:
        VocabError: a domain with a weight is unknown or empty.
    """
    ranking = rank_by_count(mixture_scores(counts, weights))
    if vocabulary.candidates is None:
        return ranking
    return ranking[np.isin(ranking, vocabulary.candidates)]


def select(
    ranking: IntArray,
    ranking_responses: BlockCounts,
    held_out_responses: BlockCounts,
    vocabulary: Vocabulary,
    shape: DraftShape,
    settings: SelectConfig,
    on_trial: Callable[[], None] = lambda: None,
) -> Selection:
    """Chooses k for one domain as in arXiv 2603.05210, exactly and by TPE.

    Raises:
        VocabError: no k is within the limits, or none reaches the required coverage.
    """
    order = selection_order(ranking, vocabulary.must_keep)
    space = _space(settings, order, vocabulary)
    train = coverage_band(ranking_responses, order, settings.bootstrap_samples, settings.seed)
    held_out = None
    if held_out_responses.num_conversations:
        held_out = coverage_band(held_out_responses, order, settings.bootstrap_samples, settings.seed)
    judged = train if settings.coverage_of is CoverageOf.ranking else held_out
    if judged is None:
        raise VocabError(
            "select.coverage_of=held_out needs held-out responses, and there are none; raise "
            "vocab.held_out_share or give more conversations"
        )
    reduction = shape.latency_reduction(np.arange(1, len(order) + 1))
    exact = exact_optimum(judged.value, reduction, space)
    size = exact.vocab_size if settings.vocab_size is None else settings.vocab_size
    num_kept = _num_kept(order, vocabulary)
    if size < num_kept and settings.keep_scripts:
        raise VocabError(
            f"select.vocab_size={size} is smaller than the {num_kept} tokens that every draft must keep, "
            f"such as end of turn{_and_scripts(settings)}; raise it"
        )
    chosen = choose_vocab(ranking, vocabulary.must_keep, size, vocabulary.target_size)
    tpe = tpe_search(
        judged.value, reduction, space, settings.trials, settings.seed, lambda _trial: on_trial()
    )
    return Selection(ranking, order, train, held_out, reduction, space, exact, tpe, chosen, judged.value)


def _space(settings: SelectConfig, order: IntArray, vocabulary: Vocabulary) -> SearchSpace:
    largest = len(order)
    if settings.k_max is not None and settings.k_max > largest:
        raise VocabError(
            f"select.k_max={settings.k_max} is larger than the draft's vocabulary of {largest} "
            "tokens; lower it"
        )
    num_kept = _num_kept(order, vocabulary)
    k_max = settings.k_max or largest
    if k_max < num_kept:
        raise VocabError(
            f"select.k_max={k_max} is smaller than the {num_kept} tokens that every draft must keep, such as "
            f"end of turn{_and_scripts(settings)}; raise it"
        )
    return SearchSpace(
        settings.coverage_weight,
        settings.min_coverage,
        max(settings.k_min, num_kept),
        k_max,
        settings.multiple,
    )


def _num_kept(order: IntArray, vocabulary: Vocabulary) -> int:
    return int(np.isin(vocabulary.must_keep, order).sum())


def _and_scripts(settings: SelectConfig) -> str:
    return (
        f" and those of select.keep_scripts=[{', '.join(settings.keep_scripts)}]"
        if settings.keep_scripts
        else ""
    )
