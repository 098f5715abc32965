"""The fastest (k, gamma) on one published GPU: rounds of draft and verification against plain decoding."""

from dataclasses import dataclass

import numpy as np

from bench.cost.shape import DraftShape, Pass
from bench.gpu_tables.compose import TableLatency
from bench.gpu_tables.products import Basis
from bench.stats.estimates import Estimate, percentile_interval
from bench.stats.robust import Floats
from bench.surface.lengths import NUM_DRAWS, Lengths
from bench.surface.predict import NEGLIGIBLE


@dataclass(frozen=True)
class Host:
    """Time in ms that kernels wait for the host.

    Attributes:
        pass_ms: between two passes of plain decoding.
        round_ms: of a round, chained draft steps aside.
        step_ms: before every chained draft step.
        origin: where it is from.
    """

    pass_ms: float = 0.0
    round_ms: float = 0.0
    step_ms: float = 0.0
    origin: str = "passes follow each other without a gap, as one CUDA graph"


@dataclass(frozen=True)
class Errors:
    """Typical relative errors of a table, as standard deviations of logarithms.

    Attributes:
        row: of a product whose row is left out.
        size: of a size that is left out at every width.
        beyond: of the largest sizes, predicted from all up to a third of them.
    """

    row: float
    size: float
    beyond: float


@dataclass(frozen=True)
class Choice:
    """What to use on one GPU with one engine, dtype, batch and context.

    Attributes:
        vocab_size: of the best speed.
        draft_length: of the best speed.
        mean_acceptance_length: there.
        vs_plain: speed over plain decoding.
        vs_full: speed over the whole head at its own best draft length.
        size_interval: of the best size over all draws.
        full_draft_length: best of the whole head.
        plain_ms: a token of plain decoding.
        step_ms: a chained draft step.
        full_step_ms: the same with the whole head.
        full_head_ms: LM head with the whole vocabulary.
        flops_size: what FLOPs would have chosen.
        flops_loss: share of the best speed that this gives away.
        basis: of the heads: the least certain.
        curve: speed over plain decoding at each size, at its best draft length `(m,)`.
        trims: whether the whole interval of the gain over the full head is above a negligible gain.
    """

    vocab_size: int
    draft_length: int
    mean_acceptance_length: float
    vs_plain: Estimate
    vs_full: Estimate
    size_interval: tuple[int, int]
    full_draft_length: int
    plain_ms: float
    step_ms: float
    full_step_ms: float
    full_head_ms: float
    flops_size: int
    flops_loss: float
    basis: Basis
    curve: Floats
    trims: bool


@dataclass(frozen=True)
class Times:
    """Latencies of one setting in ms.

    Attributes:
        head: of the draft, with the choice of a token, by size `(m,)`.
        step: of a chained draft step, head aside.
        first: of the first draft step of a round, head aside, by draft length `(gammas,)`.
        verify: by draft length `(gammas,)`.
        plain: a token of plain decoding.
    """

    head: Floats
    step: float
    first: Floats
    verify: Floats
    plain: float

    def rounds(self, gammas: Floats, host: Host) -> Floats:
        """A whole round `(gammas, m)`."""
        chained = (gammas - 1)[:, None]
        fixed = (self.first + self.verify)[:, None] + chained * (self.step + host.step_ms) + host.round_ms
        return gammas[:, None] * self.head + fixed


def times_of(
    latency: TableLatency, draft: DraftShape, target: DraftShape, lengths: Lengths, batch: int, context: int
) -> Times:
    """Latencies of one setting.

    The first step of a round takes in what the verification accepted, at most gamma + 1 tokens a sequence,
    and chained steps one; heads run for one token of each sequence.

    Raises:
        FitError: a part cannot be had from these tables.
    """
    one, whole = Pass(1, context, batch), np.array([target.vocab_size])

    def body(model: DraftShape, run: Pass, *, with_fc: bool = False) -> float:
        return sum(part.ms for part in latency.parts(model, run, with_fc=with_fc).values())

    passes = [Pass(gamma + 1, context, batch) for gamma in lengths.draft_lengths]
    return Times(
        head=latency.tail_ms(draft, one, lengths.sizes),
        step=body(draft, one),
        first=np.array([body(draft, run, with_fc=True) for run in passes]),
        verify=np.array([float(latency.pass_ms(target, run, whole)[0]) for run in passes]),
        plain=float(latency.pass_ms(target, one, whole)[0]),
    )


def choose(
    times: Times, lengths: Lengths, errors: Errors, host: Host, draft: DraftShape, basis: Basis
) -> Choice:
    """The fastest (k, gamma), its intervals from acceptance and table errors, and what FLOPs would choose."""
    gammas = np.array(lengths.draft_lengths, dtype=float)
    plain, rounds = times.plain + host.pass_ms, times.rounds(gammas, host)
    speed = lengths.mean[0] * plain / rounds
    row, column = np.unravel_index(int(np.argmax(speed)), speed.shape)
    full_row = int(np.argmax(speed[:, -1]))
    draws = _draws(times, lengths, errors, host, gammas)
    relative = draws[:, row, column] / draws[:, full_row, -1]
    vs_plain = _estimate(speed[row, column], draws[:, row, column])
    vs_full = _estimate(speed[row, column] / speed[full_row, -1], relative)
    places = draws.max(axis=1).argmax(axis=1)
    low, high = percentile_interval(lengths.sizes[places], of_draws=True)
    steps = times.step + times.head
    by_flops = _by_flops(draft, lengths, times, gammas, host, speed)
    return Choice(
        vocab_size=int(lengths.sizes[column]),
        draft_length=int(gammas[row]),
        mean_acceptance_length=float(lengths.mean[0, row, column]),
        vs_plain=vs_plain,
        vs_full=vs_full,
        size_interval=(int(low), int(high)),
        full_draft_length=int(gammas[full_row]),
        plain_ms=plain,
        step_ms=float(steps[column]),
        full_step_ms=float(steps[-1]),
        full_head_ms=float(times.head[-1]),
        flops_size=by_flops[0],
        flops_loss=by_flops[1],
        basis=basis,
        curve=speed.max(axis=0),
        trims=vs_full.ci_low > 1 + NEGLIGIBLE,
    )


def _by_flops(
    draft: DraftShape, lengths: Lengths, times: Times, gammas: Floats, host: Host, speed: Floats
) -> tuple[int, float]:
    """The k that a draft step proportional to the paper's FLOPs would choose, and what that loses.

    The step with the whole head takes the time of the tables; smaller heads reduce it in proportion to FLOPs.
    """
    flops = draft.total_flops(lengths.sizes).astype(float)
    steps = (times.step + times.head[-1]) * flops / flops[-1]
    fixed = times.first + times.verify + host.round_ms - times.step
    rounds = gammas[:, None] * steps + (gammas - 1)[:, None] * host.step_ms + fixed[:, None]
    chosen = int(np.argmax((lengths.mean[0] / rounds).max(axis=0)))
    best = speed.max(axis=0)
    return int(lengths.sizes[chosen]), float(1 - best[chosen] / best.max())


def _draws(times: Times, lengths: Lengths, errors: Errors, host: Host, gammas: Floats) -> Floats:
    """Speed over plain decoding `(draws, gammas, m)`.

    Heads are off by what a left-out size is, the largest by what is extrapolated, and in between by a
    mixture; layers of draft and target by what a left-out row is, the target's plain and verifying passes
    half together.
    """
    rng, count = np.random.default_rng(0), NUM_DRAWS
    draws = rng.standard_normal((count, 5))
    share = np.log(lengths.sizes / lengths.sizes[0]) / max(np.log(lengths.sizes[-1] / lengths.sizes[0]), 1e-9)
    head = np.exp(errors.size * draws[:, 0, None] * (1 - share) + errors.beyond * draws[:, 1, None] * share)[
        :, None, :
    ]
    layer = np.exp(errors.row * draws[:, 2])[:, None, None]
    both, verify = (np.exp(errors.row / np.sqrt(2) * draws[:, place]) for place in (3, 4))
    chained = (gammas - 1)[None, :, None]
    rounds = gammas[None, :, None] * times.head * head
    rounds = rounds + layer * (times.first[None, :, None] + chained * times.step)
    rounds = rounds + (both * verify)[:, None, None] * times.verify[None, :, None]
    rounds = rounds + host.round_ms + chained * host.step_ms
    plain = (both * times.plain + host.pass_ms)[:, None, None]
    mean = lengths.mean[1:] if len(lengths.mean) > 1 else lengths.mean
    return mean[rng.integers(len(mean), size=count)] * plain / rounds


def _estimate(value: float, draws: Floats) -> Estimate:
    low, high = percentile_interval(draws)
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))
