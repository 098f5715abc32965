"""The search for k: maximise U(k) = a C(k) + (1-a) R(k) subject to C(k) >= c_min (arXiv 2603.05210).

Exactly, over every k, and by the paper's Tree-structured Parzen Estimator. Arrays hold size k at index k - 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.errors import VocabError
from bench.vocab.draft_vocab import Floats, IntArray


@dataclass(frozen=True)
class SearchSpace:
    """The candidate sizes k, and the utility.

    Attributes:
        coverage_weight: a.
        min_coverage: c_min.
        k_min: smallest size.
        k_max: largest size.
        multiple: all sizes are multiples of this.
    """

    coverage_weight: float
    min_coverage: float
    k_min: int
    k_max: int
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.lowest > self.k_max:
            raise VocabError(
                f"no multiple of {self.multiple} lies between k_min={self.k_min} and k_max={self.k_max}; "
                "widen select.k_min and select.k_max, or lower select.multiple"
            )

    @property
    def lowest(self) -> int:
        """The smallest candidate."""
        return -(-self.k_min // self.multiple) * self.multiple

    def sizes(self) -> IntArray:
        """Every candidate, ascending."""
        return np.arange(self.lowest, self.k_max + 1, self.multiple)


def utility(coverage: Floats, reduction: Floats, coverage_weight: float) -> Floats:
    """U(k) for every k."""
    return coverage_weight * coverage + (1 - coverage_weight) * reduction


@dataclass(frozen=True)
class Choice:
    """One k with its coverage, reduction and utility."""

    vocab_size: int
    coverage: float
    latency_reduction: float
    utility: float


@dataclass(frozen=True)
class Trial(Choice):
    """One trial of the estimator; `feasible` if it reaches c_min."""

    feasible: bool


@dataclass(frozen=True)
class TpeResult:
    """The trials of the estimator.

    Attributes:
        best: the best feasible trial; None if no trial was feasible.
        trials: all trials, in order.
    """

    best: Choice | None
    trials: list[Trial]


def exact_optimum(coverage: Floats, reduction: Floats, space: SearchSpace) -> Choice:
    """The best of all candidates; the smallest if several are equal.

    Raises:
        VocabError: no candidate reaches c_min.
    """
    sizes = space.sizes()
    covered, reduced = coverage[sizes - 1], reduction[sizes - 1]
    feasible = covered >= space.min_coverage
    if not feasible.any():
        best = int(np.argmax(covered))
        raise VocabError(
            f"no k reaches select.min_coverage={space.min_coverage}: the highest possible coverage is "
            f"{covered[best]:.4f}, at k = {sizes[best]}; lower select.min_coverage or raise select.k_max"
        )
    utilities = np.where(feasible, utility(covered, reduced, space.coverage_weight), -np.inf)
    return _choice(coverage, reduction, space, int(sizes[np.argmax(utilities)]))


def tpe_search(
    coverage: Floats,
    reduction: Floats,
    space: SearchSpace,
    num_trials: int,
    seed: int,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> TpeResult:
    """The search of the paper: a Tree-structured Parzen Estimator with a constraint, seeded.

    Args:
        coverage: C(k).
        reduction: R(k).
        space: candidates and weights.
        num_trials: number of evaluations of U.
        seed: seed of the sampler.
        on_trial: called after every trial.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    highest = int(space.sizes()[-1])
    trials: list[Trial] = []

    def objective(trial) -> float:
        size = trial.suggest_int("k", space.lowest, highest, step=space.multiple)
        found = _choice(coverage, reduction, space, size)
        trial.set_constraint("below_min_coverage", space.min_coverage - found.coverage)
        trials.append(Trial(**vars(found), feasible=found.coverage >= space.min_coverage))
        on_trial(trials[-1])
        return found.utility

    study.optimize(objective, n_trials=num_trials)
    feasible = [trial for trial in trials if trial.feasible]
    best = max(feasible, key=lambda t: (t.utility, -t.vocab_size), default=None)
    chosen = None if best is None else _choice(coverage, reduction, space, best.vocab_size)
    return TpeResult(chosen, trials)


def pareto_frontier(coverage: Floats, cost: Floats | IntArray, space: SearchSpace) -> IntArray:
    """The candidates that no other candidate beats in both coverage and cost, by increasing k.

    Cost increases with k, so a size is on the frontier if it covers more than every smaller one.
    """
    sizes = space.sizes()
    sizes = sizes[np.argsort(cost[sizes - 1], kind="stable")]
    covered = coverage[sizes - 1]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(covered)[:-1]])
    return sizes[covered > before]


def _choice(coverage: Floats, reduction: Floats, space: SearchSpace, size: int) -> Choice:
    covered, reduced = float(coverage[size - 1]), float(reduction[size - 1])
    weight = space.coverage_weight
    return Choice(size, covered, reduced, weight * covered + (1 - weight) * reduced)
