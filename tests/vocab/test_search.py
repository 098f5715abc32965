"""The search for k against brute force, and the constraint."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import VocabError
from bench.vocab.search import SearchSpace, exact_optimum, pareto_frontier, tpe_search, utility


@st.composite
def problems(draw):
    """Coverage that rises, reduction that falls, and limits within them."""
    n = draw(st.integers(2, 40))
    steps = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n).filter(lambda s: sum(s) > 0))
    coverage = np.cumsum(steps) / sum(steps)
    reduction = 1 - np.arange(1, n + 1) / n
    k_min = draw(st.integers(1, n))
    k_max = draw(st.integers(k_min, n))
    multiple = draw(st.integers(1, 3))
    if -(-k_min // multiple) * multiple > k_max:
        multiple = 1
    weight, least = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    return coverage, reduction, SearchSpace(weight, least, k_min, k_max, multiple)


@given(problems())
def test_the_exact_optimum_is_that_of_brute_force(problem):
    coverage, reduction, space = problem
    best = None
    for k in range(space.k_min, space.k_max + 1):
        if k % space.multiple == 0 and coverage[k - 1] >= space.min_coverage:
            value = space.coverage_weight * coverage[k - 1] + (1 - space.coverage_weight) * reduction[k - 1]
            if best is None or value > best[1]:
                best = (k, value)
    if best is None:
        with pytest.raises(VocabError, match="highest possible coverage"):
            exact_optimum(coverage, reduction, space)
        return
    found = exact_optimum(coverage, reduction, space)
    assert (found.vocab_size, found.utility) == best
    assert found.coverage == coverage[best[0] - 1] and found.latency_reduction == reduction[best[0] - 1]


def test_an_unreachable_coverage_says_what_can_be_had_and_where():
    coverage = np.array([0.5, 0.75, 0.8, 0.8])
    with pytest.raises(VocabError, match=r"min_coverage=0.9: .* 0\.8000, at k = 3; lower"):
        exact_optimum(coverage, np.zeros(4), SearchSpace(0.5, 0.9, 1, 4))


@settings(deadline=None, max_examples=8)
@given(problems())
def test_tpe_keeps_to_the_limits_repeats_itself_and_never_beats_the_optimum(problem):
    coverage, reduction, space = problem
    first, again = (tpe_search(coverage, reduction, space, 12, seed=3) for _ in range(2))
    assert [t.vocab_size for t in first.trials] == [t.vocab_size for t in again.trials]
    assert len(first.trials) == 12
    for trial in first.trials:
        assert space.k_min <= trial.vocab_size <= space.k_max and trial.vocab_size % space.multiple == 0
        assert trial.feasible == (coverage[trial.vocab_size - 1] >= space.min_coverage)
    if first.best is None:
        assert not any(trial.feasible for trial in first.trials)
    else:
        assert first.best.coverage >= space.min_coverage
        assert first.best.utility <= exact_optimum(coverage, reduction, space).utility


def test_tpe_comes_close_on_a_smooth_problem():
    k = np.arange(1, 5001)
    coverage, reduction = 1 - np.exp(-k / 300), 1 - k / 5000
    space = SearchSpace(0.5, 0.0, 50, 5000)
    best, exact = (
        tpe_search(coverage, reduction, space, 60, seed=42).best,
        exact_optimum(coverage, reduction, space),
    )
    assert best is not None
    assert 0 <= exact.utility - best.utility < 0.01


@given(problems())
def test_the_frontier_is_what_no_other_size_dominates(problem):
    coverage, _, space = problem
    cost = np.arange(1, len(coverage) + 1) * 7
    sizes = space.sizes()
    expected = [
        k
        for k in sizes
        if not any(
            (coverage[o - 1] >= coverage[k - 1] and cost[o - 1] < cost[k - 1])
            or (coverage[o - 1] > coverage[k - 1] and cost[o - 1] <= cost[k - 1])
            for o in sizes
        )
    ]
    assert pareto_frontier(coverage, cost, space).tolist() == expected


def test_an_empty_space_names_its_limits():
    with pytest.raises(VocabError, match="no multiple of 64 lies between k_min=65 and k_max=100"):
        SearchSpace(0.5, 0.0, 65, 100, 64)


def test_utility_weighs_coverage_by_a():
    assert utility(np.array([0.8]), np.array([0.4]), 0.75).tolist() == pytest.approx([0.7])
