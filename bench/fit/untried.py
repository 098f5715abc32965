"""A draft that was never loaded, on a device that may not be here: from two configurations alone.

Every assumption is told with the result, in words, because all of them are.
"""

from dataclasses import dataclass, field

import numpy as np

from bench.cost.components import ComponentCost, draft_step_cost, total_cost, verify_cost
from bench.cost.flops import DraftShape
from bench.cost.hardware import HardwareSpec
from bench.fit.choice import reduction
from bench.fit.errors import FitError
from bench.fit.series import DTYPE_BYTES, Floats, IntArray
from bench.vocab.search import utility

# Between launches an eager PyTorch loop spends some microseconds of the host's time.
EAGER_LAUNCH_US = 5.0


@dataclass(frozen=True)
class Calibration:
    """How near to its limits a device comes.

    Attributes:
        bandwidth_share: reached, of the memory bandwidth.
        peak_share: reached, of the peak.
        launch_us: per kernel.
        origin: where the shares are from, in words.
    """

    bandwidth_share: float = 1.0
    peak_share: float = 1.0
    launch_us: float = EAGER_LAUNCH_US
    origin: str = (
        "the device reaches its whole data-sheet bandwidth and peak, so that real steps are slower, and an "
        f"eager launch takes {EAGER_LAUNCH_US:g} us"
    )

    def __post_init__(self) -> None:
        if min(self.bandwidth_share, self.peak_share) <= 0 or self.launch_us < 0:
            raise FitError("shares of bandwidth and peak must be above 0 and launch times not below 0")


@dataclass(frozen=True)
class Setting:
    """How the draft is used.

    Attributes:
        dtype: of weights and arithmetic, as torch names it.
        draft_length: gamma.
        context_length: positions held.
        batch: sequences.
    """

    dtype: str = "bfloat16"
    draft_length: int = 3
    context_length: int = 512
    batch: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise FitError(f"dtype={self.dtype} is unknown; it must be one of {', '.join(DTYPE_BYTES)}")


@dataclass(frozen=True)
class Untried:
    """What to expect; arrays per size `(m,)`.

    Attributes:
        sizes: vocabulary sizes, ascending.
        draft_step_ms: a chained step.
        round_ms: draft, verification and nothing else.
        plain_token_ms: a token of the target alone.
        speedup: over plain decoding; None without an acceptance.
        utility: U with R from these latencies; None without a coverage.
        chosen_k: of the best speedup, else of the best utility; None without both.
        assumptions: in words.
    """

    sizes: IntArray
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
    acceptance_length: Floats | None = None,
    coverage: Floats | None = None,
    coverage_weight: float = 0.5,
) -> Untried:
    """Latency of a draft step and of a round, and with an acceptance the speedup.

    Args:
        draft: its shape, from `config.json`.
        target: its shape, from `config.json`.
        spec: of the device.
        sizes: vocabulary sizes, ascending, the full one last `(m,)`.
        setting: how the draft is used.
        calibration: from a measured run, or none.
        acceptance_length: mean acceptance length of each size, measured elsewhere `(m,)`.
        coverage: share of tokens inside each size `(m,)`.
        coverage_weight: of the utility.

    Raises:
        FitError: the device has no peak for the dtype.
    """
    calibration = calibration or Calibration()
    parts = [_round_ms(draft, target, int(k), spec, setting, calibration) for k in sizes]
    step_ms, round_ms = (np.array(values) for values in zip(*parts, strict=True))
    width, context, batch = DTYPE_BYTES[setting.dtype], setting.context_length, setting.batch
    plain = total_cost(verify_cost(target, 1, context, batch, width))
    plain_ms = latency_ms(plain, spec, setting.dtype, calibration)
    speedup = None if acceptance_length is None else acceptance_length * plain_ms / round_ms
    worth = None if coverage is None else utility(coverage, reduction(step_ms), coverage_weight)
    best = speedup if speedup is not None else worth
    return Untried(
        sizes=sizes,
        draft_step_ms=step_ms,
        round_ms=round_ms,
        plain_token_ms=plain_ms,
        speedup=speedup,
        utility=worth,
        chosen_k=None if best is None else int(sizes[np.argmax(best)]),
        assumptions=_assumptions(spec, setting, calibration, speedup, worth),
    )


def latency_ms(cost: ComponentCost, spec: HardwareSpec, dtype: str, calibration: Calibration) -> float:
    """t0 + max(F/P, B/W) of a pass, with t0 from its launches.

    Raises:
        FitError: the device has no peak for `dtype`.
    """
    peak = spec.peak(dtype)
    if peak is None:
        raise FitError(f"{spec.name} has no peak for {dtype}: {spec.source} gives none; choose another dtype")
    compute_s = cost.flops / (calibration.peak_share * peak)
    memory_s = cost.total_bytes / (calibration.bandwidth_share * spec.memory_bytes_per_s)
    return 1e3 * (cost.num_launches * calibration.launch_us * 1e-6 + max(compute_s, memory_s))


def calibrate(
    t0_ms: float, bytes_per_s: float, step: ComponentCost, spec: HardwareSpec, device_name: str
) -> Calibration:
    """The shares of a measured device, from a fit of t0 + B/W to its draft step.

    Args:
        t0_ms: fitted.
        bytes_per_s: fitted.
        step: the draft step that it was fitted to.
        spec: of the device that was measured.
        device_name: for the assumptions.
    """
    share = bytes_per_s / spec.memory_bytes_per_s
    return Calibration(
        bandwidth_share=share,
        peak_share=1.0,
        launch_us=1e3 * t0_ms / step.num_launches,
        origin=(
            f"the device reaches {share:.0%} of its bandwidth and launches a kernel in "
            f"{1e3 * t0_ms / step.num_launches:.1f} us, as {device_name} did, and its whole peak"
        ),
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


def _round_ms(
    draft: DraftShape,
    target: DraftShape,
    vocab_size: int,
    spec: HardwareSpec,
    setting: Setting,
    calibration: Calibration,
) -> tuple[float, float]:
    width, context, batch = DTYPE_BYTES[setting.dtype], setting.context_length, setting.batch

    def time(parts: dict[str, ComponentCost]) -> float:
        return latency_ms(total_cost(parts), spec, setting.dtype, calibration)

    step = time(draft_step_cost(draft, vocab_size, context, batch, width))
    first = time(draft_step_cost(draft, vocab_size, context, batch, width, include_fc=True))
    verify = time(verify_cost(target, setting.draft_length + 1, context, batch, width))
    return step, first + (setting.draft_length - 1) * step + verify


def _assumptions(
    spec: HardwareSpec,
    setting: Setting,
    calibration: Calibration,
    speedup: Floats | None,
    worth: Floats | None,
) -> list[str]:
    found = [
        f"rates of {spec.name}: {spec.source}",
        calibration.origin,
        "latency is t0 + max(F/P, B/W), with every operation's input and output passing through memory",
        f"{setting.dtype}, {setting.context_length} positions held, batch {setting.batch}, "
        f"{setting.draft_length} drafted tokens a round",
        "a round is drafting and verification, without host work between them",
        "the first step of a round takes in one position, though accepted tokens add more",
    ]
    if speedup is not None:
        found.append("the acceptance holds for this draft, target and text")
    elif worth is not None:
        found.append(
            "k is chosen by coverage and latency, as arXiv 2603.05210 does; coverage is not acceptance, and "
            "a vocabulary chosen by it is often too large"
        )
    else:
        found.append("neither acceptance nor coverage is given, so that no k is chosen")
    return found
