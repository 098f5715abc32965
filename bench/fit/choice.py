"""From latency to the k that it would choose, and what a wrong latency loses."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.fit.errors import FitError
from bench.fit.series import Floats, IntArray
from bench.vocab.search import utility


class Goal(Protocol):
    """What makes a k good."""

    @property
    def sizes(self) -> IntArray:
        """Candidates, ascending `(m,)`."""

    def worth(self, component_ms: Floats) -> Floats:
        """How good each candidate is when the component takes so long `(m,)`; more is better."""


@dataclass(frozen=True)
class SpeedGoal:
    """Tokens per second, for what a target accepts.

    Attributes:
        sizes: candidates k, ascending `(m,)`.
        rounds_per_token: of each candidate `(m,)`: 1 over the mean acceptance length.
        runs_per_round: how often a round runs the component.
        other_ms: all else of a round. It may be below 0 where a round runs something cheaper than the
            component in its place, such as its first draft step, which has no layer.
    """

    sizes: IntArray
    rounds_per_token: Floats
    runs_per_round: float
    other_ms: float

    def __post_init__(self) -> None:
        _require_candidates(self.sizes, self.rounds_per_token)

    def worth(self, component_ms: Floats) -> Floats:
        """Tokens per second."""
        return 1e3 / (self.rounds_per_token * (self.other_ms + self.runs_per_round * component_ms))


@dataclass(frozen=True)
class UtilityGoal:
    """U(k) = a C(k) + (1-a) R(k), with R(k) from the latency instead of FLOPs (arXiv 2603.05210).

    Attributes:
        sizes: candidates k, ascending, the full vocabulary last `(m,)`.
        coverage: C of each candidate `(m,)`.
        coverage_weight: a.
    """

    sizes: IntArray
    coverage: Floats
    coverage_weight: float = 0.5

    def __post_init__(self) -> None:
        _require_candidates(self.sizes, self.coverage)

    def worth(self, component_ms: Floats) -> Floats:
        """U."""
        return utility(self.coverage, reduction(component_ms), self.coverage_weight)


@dataclass(frozen=True)
class Goals:
    """What a k is chosen for on the text of one domain.

    Attributes:
        draft_length: gamma.
        speed: tokens per second at that gamma.
        utility: the paper's.
    """

    draft_length: int
    speed: SpeedGoal
    utility: UtilityGoal


@dataclass(frozen=True)
class Decision:
    """What one latency model decides, judged by the measured latency.

    Attributes:
        vocab_size: the k that it would choose.
        value: what that is really worth, in the goal's unit.
        best_vocab_size: the k that is really best.
        best_value: what it is worth.
    """

    vocab_size: int
    value: float
    best_vocab_size: int
    best_value: float

    @property
    def regret(self) -> float:
        """What is lost."""
        return self.best_value - self.value

    @property
    def regret_share(self) -> float:
        """Of what could be had."""
        return self.regret / self.best_value


@dataclass(frozen=True)
class Decisions:
    """What one latency model decides on one domain.

    Attributes:
        draft_length: gamma.
        speed: regret in tokens per second.
        utility: regret in U.
    """

    draft_length: int
    speed: Decision
    utility: Decision


def decide(goal: Goal, predicted_ms: Floats, measured_ms: Floats) -> Decision:
    """Chooses by one latency and judges by another, both over the goal's sizes; of equals the smallest k."""
    real = goal.worth(measured_ms)
    chosen, best = int(np.argmax(goal.worth(predicted_ms))), int(np.argmax(real))
    sizes = goal.sizes
    return Decision(int(sizes[chosen]), float(real[chosen]), int(sizes[best]), float(real[best]))


def reduction(times_ms: Floats) -> Floats:
    """R(k): share of the latency that the last size has and each size saves `(..., n)`."""
    return 1 - times_ms / times_ms[..., -1:]


def _require_candidates(sizes: IntArray, values: Floats) -> None:
    if len(sizes) != len(values) or not len(sizes) or (np.diff(sizes) <= 0).any():
        raise FitError(
            f"{len(sizes)} sizes with {len(values)} values: candidates must ascend, one value each"
        )
