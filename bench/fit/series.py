"""Measured latencies of one component, and the work that each size takes."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.cost.shape import HEAD, DraftShape, Pass, total_cost
from bench.errors import FitError
from bench.stats.robust import Floats
from bench.vocab.search import utility

IntArray = NDArray[np.int64]

LM_HEAD, DRAFT_STEP, VERIFY = "lm_head", "draft_step", "verify"

COMPONENTS = (LM_HEAD, DRAFT_STEP, VERIFY)

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of every size; all arrays `(n,)`, sizes ascending.

    Attributes:
        sizes: vocabulary sizes, or numbers of tokens of a verification.
        flops: as engines run it, `fc` once per round and so not in a chained step.
        published_flops: as arXiv 2603.05210 counts it, `fc` in every token and no attention over the
            context.
        weight_bytes: weights read.
        total_bytes: everything that moves, weights included.
    """

    sizes: IntArray
    flops: Floats
    published_flops: Floats
    weight_bytes: Floats
    total_bytes: Floats

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, places: IntArray | NDArray[np.bool_]) -> "Work":
        """The sizes at `places`."""
        return Work(*(getattr(self, item.name)[places] for item in fields(self)))

    def at(self, sizes: IntArray) -> "Work":
        """Work of other sizes inside the measured range.

        A vocabulary of one more token costs the same everywhere, so straight lines between sizes are exact.
        """
        columns = [np.interp(sizes, self.sizes, getattr(self, f.name)) for f in fields(self)[1:]]
        return Work(sizes, *columns)


@dataclass(frozen=True)
class LatencySeries:
    """Samples of one component over its sizes.

    Attributes:
        component: `lm_head`, `draft_step` or `verify`.
        work: of every size.
        samples_ms: samples of every size, in its order.
        groups: what the samples of every size were taken on, prompts, numbered from 0 over all sizes; samples
            of one group are not independent. None where every sample is.
        setting: where they are from: `in_situ` (inside real rounds), or on their own, `isolated_cold`,
            `isolated_warm`, and as graphs `isolated_cold_graph` or `isolated_warm_graph`.
    """

    component: str
    work: Work
    samples_ms: list[Floats]
    groups: list[IntArray] | None = None
    setting: str = "in_situ"

    def __post_init__(self) -> None:
        if len(self.samples_ms) != len(self.work) or not len(self.work):
            raise FitError(
                f"{self.component}: {len(self.samples_ms)} series of samples for {len(self.work)} sizes"
            )
        if (np.diff(self.work.sizes) <= 0).any():
            raise FitError(f"{self.component}: sizes must ascend, not {self.work.sizes.tolist()}")
        for size, samples in zip(self.work.sizes, self.samples_ms, strict=True):
            if not len(samples) or not np.isfinite(samples).all() or (samples <= 0).any():
                raise FitError(
                    f"{self.component}: size {size} needs samples, all of them above 0 ms; measure it again"
                )

        shapes = [samples.shape for samples in self.samples_ms]
        if self.groups is not None and [group.shape for group in self.groups] != shapes:
            raise FitError(f"{self.component}: every sample needs a group")

    @property
    def size_is(self) -> str:
        """What a size counts: `vocab_size`, or `num_tokens` of a verification."""
        return "num_tokens" if self.component == VERIFY else "vocab_size"

    @property
    def num_groups(self) -> int:
        """Prompts that were measured; 0 where samples are independent."""
        return 0 if self.groups is None else 1 + max(int(group.max()) for group in self.groups)

    @cached_property
    def medians_ms(self) -> Floats:
        """Median of every size `(n,)`."""
        return np.array([np.median(samples) for samples in self.samples_ms])


def draft_work(
    shape: DraftShape,
    component: str,
    sizes: IntArray,
    context_length: int,
    batch: int = 1,
    dtype_bytes: int = 2,
) -> Work:
    """Work of the LM head or of a chained draft step, for every k.

    The head is what the lap `lm_head` times: its product alone. A step is head, layers and selection.

    Args:
        shape: of the draft.
        component: `lm_head` or `draft_step`.
        sizes: vocabulary sizes, ascending `(n,)`.
        context_length: positions held.
        batch: sequences.
        dtype_bytes: of weights and arithmetic.
    """
    one_token = Pass(1, context_length, batch, dtype_bytes)
    steps = [shape.cost(one_token, int(k)) for k in sizes]
    head_only = component == LM_HEAD
    costs = [step[HEAD] if head_only else total_cost(step) for step in steps]
    flops = np.array([cost.flops for cost in costs], dtype=np.float64)
    return Work(
        sizes=np.asarray(sizes, dtype=np.int64),
        flops=flops,
        published_flops=flops if head_only else batch * shape.total_flops(sizes).astype(np.float64),
        weight_bytes=np.array([cost.weight_bytes for cost in costs], dtype=np.float64),
        total_bytes=np.array([cost.total_bytes for cost in costs], dtype=np.float64),
    )


def verify_work(
    target: DraftShape, sizes: IntArray, context_length: int, batch: int = 1, dtype_bytes: int = 2
) -> Work:
    """Work of verifications of `sizes` tokens each, ascending `(n,)`."""
    costs = [total_cost(target.cost(Pass(int(n), context_length, batch, dtype_bytes))) for n in sizes]
    per_token = float(target.token_flops(target.vocab_size).total)
    return Work(
        sizes=np.asarray(sizes, dtype=np.int64),
        flops=np.array([cost.flops for cost in costs], dtype=np.float64),
        published_flops=batch * per_token * np.asarray(sizes, dtype=np.float64),
        weight_bytes=np.array([cost.weight_bytes for cost in costs], dtype=np.float64),
        total_bytes=np.array([cost.total_bytes for cost in costs], dtype=np.float64),
    )


class Goal(Protocol):
    """What a k is chosen for."""

    @property
    def sizes(self) -> IntArray:
        """Candidates, ascending `(m,)`."""

    def worth(self, component_ms: Floats) -> Floats:
        """The value of each candidate if the component takes `component_ms` `(m,)`; more is better."""


@dataclass(frozen=True)
class SpeedGoal:
    """Tokens per second, given what a target accepts.

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
        """Tokens per second of each candidate `(m,)`."""
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
        """U of each candidate `(m,)`."""
        return utility(self.coverage, reduction(component_ms), self.coverage_weight)


@dataclass(frozen=True)
class Goals:
    """The goals of one domain.

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
    """The k that one latency model chooses, judged by the measured latency.

    Attributes:
        vocab_size: the k that the model chooses.
        value: its value by the measured latency, in the goal's unit.
        best_vocab_size: the best k by the measured latency.
        best_value: its value.
    """

    vocab_size: int
    value: float
    best_vocab_size: int
    best_value: float

    @property
    def regret(self) -> float:
        """The value lost by the choice."""
        return self.best_value - self.value

    @property
    def regret_share(self) -> float:
        """The value lost, as a share of the best value."""
        return self.regret / self.best_value


@dataclass(frozen=True)
class Decisions:
    """The choices of one latency model on one domain.

    Attributes:
        draft_length: gamma.
        speed: regret in tokens per second.
        utility: regret in U.
    """

    draft_length: int
    speed: Decision
    utility: Decision


def decide(goal: Goal, predicted_ms: Floats, measured_ms: Floats) -> Decision:
    """Chooses by `predicted_ms` and judges by `measured_ms`, both `(m,)`; of equal values the smallest k."""
    real = goal.worth(measured_ms)
    chosen, best = int(np.argmax(goal.worth(predicted_ms))), int(np.argmax(real))
    sizes = goal.sizes
    return Decision(int(sizes[chosen]), float(real[chosen]), int(sizes[best]), float(real[best]))


def reduction(times_ms: Floats) -> Floats:
    """R(k): the share of the last size's latency that each size saves `(..., n)`."""
    return 1 - times_ms / times_ms[..., -1:]


def _require_candidates(sizes: IntArray, values: Floats) -> None:
    if len(sizes) != len(values) or not len(sizes) or (np.diff(sizes) <= 0).any():
        raise FitError(
            f"{len(sizes)} sizes with {len(values)} values: candidates must ascend, one value each"
        )
