"""A draft that was never loaded, on a GPU that may not be here: latency, speedup and the choice of k."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bench.cost.hardware import HardwareSpec
from bench.cost.shape import DraftShape, Pass, PassCost, total_cost
from bench.errors import FitError
from bench.fit.series import DTYPE_BYTES, IntArray, reduction
from bench.predict.acceptance import Acceptance
from bench.stats.robust import Floats
from bench.vocab.search import utility

# Host time per kernel launch of an eager PyTorch loop.
EAGER_LAUNCH_US = 5.0


class LatencySource(Protocol):
    """Latencies of passes on one GPU; a prediction knows its hardware only through this."""

    def pass_ms(self, model: DraftShape, run: Pass, sizes: IntArray, *, with_fc: bool = False) -> Floats:
        """Latency of a pass for each size of the LM head in `sizes` `(m,)`, in ms.

        Args:
            model: draft or target.
            run: the pass.
            sizes: rows of the LM head.
            with_fc: as in `DraftShape.cost`.
        """

    @property
    def assumptions(self) -> list[str]:
        """Where the latencies come from and what they assume, in words."""


@dataclass(frozen=True)
class Calibration:
    """Which share of its limits a device reaches.

    Attributes:
        bandwidth_share: reached, of the memory bandwidth.
        peak_share: reached, of the peak.
        launch_us: per kernel.
        origin: where the shares are from, in words.
        launch_origin: where the launch time is from, in words.
    """

    bandwidth_share: float = 1.0
    peak_share: float = 1.0
    launch_us: float = EAGER_LAUNCH_US
    origin: str = "the device reaches its whole bandwidth and peak, so that real steps are slower"
    launch_origin: str = f"every kernel is launched eagerly, in {EAGER_LAUNCH_US:g} us"

    def __post_init__(self) -> None:
        if min(self.bandwidth_share, self.peak_share) <= 0 or self.launch_us < 0:
            raise FitError("shares of bandwidth and peak must be above 0 and launch times not below 0")

    @classmethod
    def measured(
        cls, t0_ms: float, bytes_per_s: float, step: PassCost, spec: HardwareSpec, device_name: str
    ) -> "Calibration":
        """The shares of a measured device, from a fit of t0 + B/W to its draft step.

        Args:
            t0_ms: fitted.
            bytes_per_s: fitted.
            step: the draft step that it was fitted to.
            spec: of the device that was measured.
            device_name: for the assumptions.
        """
        share, launch_us = bytes_per_s / spec.memory_bytes_per_s, 1e3 * t0_ms / step.num_launches
        reached = f"the device reaches {share:.0%} of its bandwidth, as {device_name} did, and its whole peak"
        return cls(
            bandwidth_share=share,
            launch_us=launch_us,
            origin=reached,
            launch_origin=f"every kernel is launched in {launch_us:.1f} us, as on {device_name}",
        )


@dataclass(frozen=True)
class DataSheetLatency:
    """t0 + max(F/P, B/W) with the rates of a data sheet, and t0 from the launches of a pass.

    Attributes:
        spec: of the device.
        dtype: of the arithmetic, as torch names it.
        calibration: which share of its limits the device reaches.
    """

    spec: HardwareSpec
    dtype: str
    calibration: Calibration = field(default_factory=Calibration)

    def pass_ms(self, model: DraftShape, run: Pass, sizes: IntArray, *, with_fc: bool = False) -> Floats:
        return np.array([self.ms(total_cost(model.cost(run, int(k), with_fc=with_fc))) for k in sizes])

    def ms(self, cost: PassCost) -> float:
        """Latency of a pass that costs so much.

        Raises:
            FitError: the device has no peak for the dtype.
        """
        spec, reached = self.spec, self.calibration
        peak = spec.peak(self.dtype)
        if peak is None:
            raise FitError(
                f"{spec.name} has no peak for {self.dtype}: {spec.source} gives none; choose another dtype"
            )
        compute_s = cost.flops / (reached.peak_share * peak)
        memory_s = cost.total_bytes / (reached.bandwidth_share * spec.memory_bytes_per_s)
        return 1e3 * (cost.num_launches * reached.launch_us * 1e-6 + max(compute_s, memory_s))

    @property
    def assumptions(self) -> list[str]:
        return [
            f"rates of {self.spec.name}: {self.spec.source}",
            self.calibration.origin,
            self.calibration.launch_origin,
            "latency is t0 + max(F/P, B/W), with every operation's input and output passing through memory",
        ]


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

    def tokens(self, num_tokens: int) -> Pass:
        """A pass of so many new tokens."""
        return Pass(num_tokens, self.context_length, self.batch, DTYPE_BYTES[self.dtype])


@dataclass(frozen=True)
class Prediction:
    """What to expect; arrays per size `(m,)`.

    Attributes:
        sizes: vocabulary sizes, ascending.
        draft_lengths: fastest gamma of each size.
        draft_step_ms: a chained step.
        round_ms: draft, verification and nothing else, at that gamma.
        plain_token_ms: one token of plain decoding.
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


def predict_draft(
    draft: DraftShape,
    target: DraftShape,
    latency: LatencySource,
    sizes: IntArray,
    setting: Setting,
    acceptance: Acceptance | None = None,
) -> Prediction:
    """Latency of a draft step and of a round, and with an acceptance the fastest (k, gamma).

    Args:
        draft: its shape, from `config.json`.
        target: its shape, from `config.json`.
        latency: of a pass on the device.
        sizes: vocabulary sizes, ascending, the full one last `(m,)`.
        setting: how the draft is used.
        acceptance: what is known of it; None for nothing.

    Raises:
        FitError: there is no latency in this dtype.
    """
    known, one, whole = acceptance or Acceptance(), setting.tokens(1), np.array([target.vocab_size])
    step_ms = latency.pass_ms(draft, one, sizes)
    first_ms = latency.pass_ms(draft, one, sizes, with_fc=True)
    gammas = np.array(setting.draft_lengths)
    verify_ms = np.array([latency.pass_ms(target, setting.tokens(int(n) + 1), whole)[0] for n in gammas])
    plain_ms = float(latency.pass_ms(target, one, whole)[0])
    round_ms = first_ms + (gammas - 1)[:, None] * step_ms + verify_ms[:, None]
    rows, speedup = np.zeros(len(sizes), dtype=np.int64), None
    columns = np.arange(len(sizes))
    if known.mean_length is not None:
        speedups = known.mean_length * plain_ms / round_ms
        rows = speedups.argmax(axis=0)
        speedup = speedups[rows, columns]
    worth = None
    if known.coverage is not None:
        worth = utility(known.coverage, reduction(step_ms), known.coverage_weight)
    best = speedup if speedup is not None else worth
    return Prediction(
        sizes=sizes,
        draft_lengths=gammas[rows],
        draft_step_ms=step_ms,
        round_ms=round_ms[rows, columns],
        plain_token_ms=plain_ms,
        speedup=speedup,
        utility=worth,
        chosen_k=None if best is None else int(sizes[np.argmax(best)]),
        assumptions=[*latency.assumptions, *_assumptions(setting, known)],
    )


def _assumptions(setting: Setting, known: Acceptance) -> list[str]:
    lengths = ", ".join(map(str, setting.draft_lengths))
    if len(setting.draft_lengths) > 1:
        lengths = f"the fastest of {lengths}"
    found = [
        f"{setting.dtype}, {setting.context_length} positions held, batch {setting.batch}; drafted tokens a "
        f"round: {lengths}",
        "a round is drafting and verification, without host work between them",
        "the first step of a round takes in one position, though accepted tokens add more",
    ]
    if known.mean_length is not None:
        found.append(known.origin)
    elif known.coverage is not None:
        found.append(
            "k is chosen by coverage and latency, as arXiv 2603.05210 does; coverage is not acceptance, and "
            "a vocabulary chosen by it is often too large"
        )
    else:
        found.append("neither acceptance nor coverage is given, so that no k is chosen")
    return found
