"""What is known of a draft's proposals: a run's acceptance, or a coverage curve."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.analysis.coverage_table import CoverageTable, read_coverage
from bench.analysis.run import find_run, read_run
from bench.analysis.surfaces import Surfaces
from bench.config import Config
from bench.cost.components import ComponentCost, draft_step_cost, total_cost, verify_cost
from bench.cost.hardware import HardwareSpec
from bench.cost.shape import DraftShape
from bench.errors import ConfigError, FitError
from bench.fit.series import DTYPE_BYTES, IntArray, reduction
from bench.stats.robust import Floats
from bench.vocab.search import utility

_SMALLEST = 64

_NUM_SIZES = 400

# What rounds are shown for where nothing tells the fastest.
_USUAL_DRAFT_LENGTH = 3


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


Known = tuple[IntArray, tuple[int, ...], Proposals]


def known_proposals(config: Config, draft: DraftShape) -> Known:
    """Sizes to look at, draft lengths to choose from, and what is known there.

    Raises:
        ConfigError: a run or a table does not say it, or is of another draft.
    """
    if config.predict.run:
        return _of_run(config, draft)
    if config.predict.coverage:
        return _of_table(config, Path(config.predict.coverage), draft)
    gamma = config.predict.draft_length or _USUAL_DRAFT_LENGTH
    return _spread(draft.draft_vocab_size), (gamma,), Proposals()


def _of_run(config: Config, draft: DraftShape) -> Known:
    wanted, run = config.predict, read_run(find_run(config.runs_dir, str(config.predict.run)))
    domain = wanted.domain or next(iter(run.decodes))
    if domain not in run.decodes:
        raise ConfigError(f"predict.domain={domain}: the run measured {', '.join(run.decodes)}")
    if run.full_size != draft.draft_vocab_size:
        raise ConfigError(
            f"predict.run={run.folder.name} is of a draft of {run.full_size:,} tokens, this one has "
            f"{draft.draft_vocab_size:,}: its acceptance says nothing here; give predict.coverage"
        )
    surface = Surfaces(run).of(domain)
    gammas = surface.draft_lengths if wanted.draft_length is None else [wanted.draft_length]
    if gammas[0] not in surface.draft_lengths:
        lengths = ", ".join(map(str, surface.draft_lengths))
        raise ConfigError(f"predict.draft_length={gammas[0]}: the run replayed {lengths}")
    sizes = _spread(run.full_size, int(surface.sizes[0]))
    sizes = np.union1d(sizes, surface.sizes[surface.sizes >= _SMALLEST])
    columns = [surface.column(int(size)) for size in sizes]
    rows = [surface.draft_lengths.index(gamma) for gamma in gammas]
    origin = (
        f"the acceptance that run {run.folder.name} measured on {domain} ({run.environment['pair']}) holds "
        "for this draft, target and text"
    )
    tau = surface.mean_acceptance_length[np.ix_(rows, columns)]
    return sizes, tuple(gammas), Proposals(tau, origin)


def _of_table(config: Config, path: Path, draft: DraftShape) -> Known:
    wanted = config.predict
    table = read_coverage(path, "predict.coverage", wanted.domain, "predict.domain")
    sizes, coverage = _coverage(table, path, draft.draft_vocab_size)
    weight, accepted = config.select.coverage_weight, wanted.full_acceptance
    if accepted is None:
        gamma = wanted.draft_length or _USUAL_DRAFT_LENGTH
        return sizes, (gamma,), Proposals(coverage=coverage, coverage_weight=weight)
    lengths = config.measure.draft_lengths if wanted.draft_length is None else [wanted.draft_length]
    gammas = tuple(sorted(set(lengths)))
    tau = np.stack([acceptance_from_coverage(coverage, accepted, gamma) for gamma in gammas])
    origin = (
        f"a vocabulary of k has each drafted token accepted with chance {accepted:g} C(k), whatever came "
        "before it; coverage is not acceptance: what drafts get right are mostly frequent tokens, so that "
        "small vocabularies are often better than this"
    )
    return sizes, gammas, Proposals(tau, origin, coverage, weight)


def _coverage(table: CoverageTable, path: Path, full_size: int) -> tuple[IntArray, Floats]:
    """Sizes and their coverage: straight lines inside the table, and the full vocabulary, which has all."""
    known, values = table.sizes.astype(np.float64), table.coverage
    told = f"predict.coverage={path}"
    if known[0] < 1 or known[-1] > full_size:
        raise ConfigError(
            f"{told} is of sizes {known[0]:,.0f} to {known[-1]:,.0f}, but the draft has {full_size:,} "
            "tokens: give the curve of its own vocabulary"
        )
    if known[-1] < full_size:
        inside = _spread(full_size)
        inside = inside[(inside >= known[0]) & (inside <= known[-1])]
        sizes = np.union1d(inside, known.astype(np.int64))
        covered = np.interp(sizes, known, values)
        return np.append(sizes, full_size), np.append(covered, 1.0)
    sizes = _spread(full_size, int(known[0]))
    sizes = np.union1d(sizes[sizes >= known[0]], known.astype(np.int64))
    return sizes, np.interp(sizes, known, values)


def _spread(full_size: int, smallest: int = _SMALLEST) -> IntArray:
    """Sizes from small to all, closely."""
    least = min(max(smallest, _SMALLEST), full_size)
    return np.unique(np.geomspace(least, full_size, _NUM_SIZES).round().astype(np.int64))


# How long a pass takes on a device of which only its limits are known, and how near it comes to them.

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
    share, launch_us = bytes_per_s / spec.memory_bytes_per_s, 1e3 * t0_ms / step.num_launches
    return Calibration(
        bandwidth_share=share,
        peak_share=1.0,
        launch_us=launch_us,
        origin=f"the device reaches {share:.0%} of its bandwidth, as {device_name} did, and its whole peak",
        launch_origin=f"every kernel is launched in {launch_us:.1f} us, as on {device_name}",
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


# A draft that was never loaded, on a device that may not be here: from two configurations alone.


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
