"""A draft that was never loaded, on a device that may not be here: from two configurations alone.

Every assumption is told with the result, in words, because all of them are.
"""

from dataclasses import dataclass, field

import numpy as np

from bench.cost.components import ComponentCost, draft_step_cost, total_cost, verify_cost
from bench.cost.flops import DraftShape
from bench.cost.hardware import HardwareSpec
from bench.fit.calibration import Calibration, latency_ms
from bench.fit.choice import reduction
from bench.fit.errors import FitError
from bench.fit.series import DTYPE_BYTES, Floats, IntArray
from bench.vocab.search import utility


@dataclass(frozen=True)
class Setting:
    """How the draft is used.

    Attributes:
        dtype: of weights and arithmetic, as torch names it.
        draft_lengths: gammas to choose from; without an acceptance there is no choice, and the first is used.
        context_length: positions held.
        batch: sequences.
    """

    dtype: str = "bfloat16"
    draft_lengths: tuple[int, ...] = (3,)
    context_length: int = 512
    batch: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise FitError(f"dtype={self.dtype} is unknown; it must be one of {', '.join(DTYPE_BYTES)}")
        if not self.draft_lengths or min(self.draft_lengths) < 1:
            raise FitError(f"draft lengths must be at least 1, not {self.draft_lengths}")


@dataclass(frozen=True)
class Proposals:
    """What is known of what a draft proposes, per size `m`.

    Attributes:
        acceptance_length: mean acceptance length of each draft length and size `(gammas, m)`; None where
            unknown.
        acceptance_origin: where it is from, in words.
        coverage: share of tokens inside each size `(m,)`; None where unknown.
        coverage_weight: of the utility.
    """

    acceptance_length: Floats | None = None
    acceptance_origin: str = "the acceptance holds for this draft, target and text"
    coverage: Floats | None = None
    coverage_weight: float = 0.5


@dataclass(frozen=True)
class Untried:
    """What to expect; arrays per size `(m,)`.

    Attributes:
        sizes: vocabulary sizes, ascending.
        draft_lengths: fastest gamma of each size.
        draft_step_ms: a chained step.
        round_ms: draft, verification and nothing else, at that gamma.
        plain_token_ms: a token of the target alone.
        speedup: over plain decoding, at that gamma; None without an acceptance.
        utility: U with R from these latencies; None without a coverage.
        chosen_k: of the best speedup, else of the best utility; None without both.
        assumptions: in words.
    """

    sizes: IntArray
    draft_lengths: IntArray
    draft_step_ms: Floats
    round_ms: Floats
    plain_token_ms: float
    speedup: Floats | None
    utility: Floats | None
    chosen_k: int | None
    assumptions: list[str] = field(default_factory=list)


def predict_untried(
    draft: DraftShape,
    target: DraftShape,
    spec: HardwareSpec,
    sizes: IntArray,
    setting: Setting,
    calibration: Calibration | None = None,
    proposals: Proposals | None = None,
) -> Untried:
    """Latency of a draft step and of a round, and with an acceptance the fastest (k, gamma).

    Args:
        draft: its shape, from `config.json`.
        target: its shape, from `config.json`.
        spec: of the device.
        sizes: vocabulary sizes, ascending, the full one last `(m,)`.
        setting: how the draft is used.
        calibration: from a measured run, or none.
        proposals: what is known of them, or nothing.

    Raises:
        FitError: the device has no peak for the dtype.
    """
    calibration, known = calibration or Calibration(), proposals or Proposals()
    width, context, batch = DTYPE_BYTES[setting.dtype], setting.context_length, setting.batch

    def time(parts: dict[str, ComponentCost]) -> float:
        return latency_ms(total_cost(parts), spec, setting.dtype, calibration)

    steps = [draft_step_cost(draft, int(k), context, batch, width) for k in sizes]
    firsts = [draft_step_cost(draft, int(k), context, batch, width, include_fc=True) for k in sizes]
    step_ms, first_ms = (np.array([time(parts) for parts in every]) for every in (steps, firsts))
    gammas = np.array(setting.draft_lengths)
    verify_ms = np.array([time(verify_cost(target, int(n) + 1, context, batch, width)) for n in gammas])
    plain_ms = time(verify_cost(target, 1, context, batch, width))
    round_ms = first_ms + (gammas - 1)[:, None] * step_ms + verify_ms[:, None]
    rows, speedup = np.zeros(len(sizes), dtype=np.int64), None
    columns = np.arange(len(sizes))
    if known.acceptance_length is not None:
        speedups = known.acceptance_length * plain_ms / round_ms
        rows = speedups.argmax(axis=0)
        speedup = speedups[rows, columns]
    worth = None
    if known.coverage is not None:
        worth = utility(known.coverage, reduction(step_ms), known.coverage_weight)
    best = speedup if speedup is not None else worth
    return Untried(
        sizes=sizes,
        draft_lengths=gammas[rows],
        draft_step_ms=step_ms,
        round_ms=round_ms[rows, columns],
        plain_token_ms=plain_ms,
        speedup=speedup,
        utility=worth,
        chosen_k=None if best is None else int(sizes[np.argmax(best)]),
        assumptions=_assumptions(spec, setting, calibration, known),
    )


def acceptance_from_coverage(coverage: Floats, full_acceptance: float, draft_length: int) -> Floats:
    """Mean acceptance length if every drafted token were accepted with chance `full_acceptance` C(k).

    A chain of gamma tokens, each as likely as the one before: (1 - x^(gamma+1)) / (1 - x). Measured
    acceptance does not follow coverage well: what a draft gets right are mostly frequent tokens.

    Args:
        coverage: C(k) `(m,)`.
        full_acceptance: chance of one token with the full vocabulary.
        draft_length: gamma.
    """
    powers = np.arange(draft_length + 1)
    return ((full_acceptance * coverage)[:, None] ** powers).sum(axis=1)


def _assumptions(
    spec: HardwareSpec, setting: Setting, calibration: Calibration, known: Proposals
) -> list[str]:
    lengths = ", ".join(map(str, setting.draft_lengths))
    if len(setting.draft_lengths) > 1:
        lengths = f"the fastest of {lengths}"
    found = [
        f"rates of {spec.name}: {spec.source}",
        calibration.origin,
        calibration.launch_origin,
        "latency is t0 + max(F/P, B/W), with every operation's input and output passing through memory",
        f"{setting.dtype}, {setting.context_length} positions held, batch {setting.batch}; drafted tokens a "
        f"round: {lengths}",
        "a round is drafting and verification, without host work between them",
        "the first step of a round takes in one position, though accepted tokens add more",
    ]
    if known.acceptance_length is not None:
        found.append(known.acceptance_origin)
    elif known.coverage is not None:
        found.append(
            "k is chosen by coverage and latency, as arXiv 2603.05210 does; coverage is not acceptance, and "
            "a vocabulary chosen by it is often too large"
        )
    else:
        found.append("neither acceptance nor coverage is given, so that no k is chosen")
    return found
