"""Mean acceptance lengths by size and draft length, from a profile or a replay, with draws for intervals.

A profile's values, as of a YAML or JSON file:

    source: where it is from
    vocab_size: 32000                             # of the draft it was measured with; null: its whole head
    rates: [0.78, 0.55, 0.38]                     # share of rounds that accept each position, or instead
    mean_acceptance_length: {2: 2.36, 3: 2.79}    # by draft length, bonus token included
    num_drafts: 4816                              # rounds behind `rates`, for intervals; may be left out
    acceptance_rate_by_size: {128256: 0.278, 12826: 0.259}   # how acceptance changes with k; may be left out
    by_size_source: where that is from
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.acceptance import Intervals, Ratios
from bench.cost.shape import DraftShape
from bench.errors import ConfigError
from bench.stats.bootstrap import draw_counts
from bench.stats.robust import Floats
from bench.vocab.draft_vocab import IntArray

NUM_SIZES = 120

NUM_DRAWS = 200

SMALLEST = 256

_KEYS = {
    "source", "vocab_size", "rates", "mean_acceptance_length", "num_drafts", "acceptance_rate_by_size",
    "by_size_source",
}  # fmt: skip


@dataclass(frozen=True)
class Lengths:
    """Mean acceptance lengths, bonus token included.

    Attributes:
        sizes: vocabulary sizes, ascending; the last is the draft's whole head `(m,)`.
        draft_lengths: gammas.
        mean: `(1 + draws, gammas, m)`; the first is the estimate.
        origin: where it is from, in words.
        has_interval: whether the draws differ.
    """

    sizes: IntArray
    draft_lengths: tuple[int, ...]
    mean: Floats
    origin: str
    has_interval: bool


def of_profile(values: Mapping[str, Any], draft: DraftShape, where: str) -> Lengths:
    """From rates by position, or mean lengths by draft length.

    Raises:
        ConfigError: a value is missing, unknown or impossible.
    """
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise ConfigError(f"{where}: {unknown[0]} is unknown; known are {', '.join(sorted(_KEYS))}")
    try:
        return _of_known(values, draft, where)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: a value is not a number, or has the wrong form ({error})") from error


def _of_known(values: Mapping[str, Any], draft: DraftShape, where: str) -> Lengths:
    gammas, lengths = _lengths(values, where)
    own = int(values.get("vocab_size") or draft.draft_vocab_size)
    if not 1 <= own <= draft.vocab_size:
        raise ConfigError(
            f"{where}: vocab_size {own:,} is not one of a target of {draft.vocab_size:,} tokens"
        )
    curve = values.get("acceptance_rate_by_size")
    if curve is None:
        sizes, factor = np.array([own]), np.ones(1)
    else:
        by_size = sorted((int(size), float(rate)) for size, rate in curve.items())
        known, rates = np.array([size for size, _ in by_size]), np.array([rate for _, rate in by_size])
        is_rate = len(rates) > 0 and (rates > 0).all() and (rates <= 1).all()
        if not is_rate or known[0] < 1 or known[-1] > draft.vocab_size:
            raise ConfigError(
                f"{where}: acceptance_rate_by_size must be of sizes of the target, above 0 to 1"
            )
        sizes = spread(int(known[0]), min(int(known[-1]), draft.draft_vocab_size))
        factor = np.interp(np.log(sizes), np.log(known), rates)
        factor = factor / np.interp(np.log(own), np.log(known), rates)
    mean = 1 + (lengths - 1)[..., None] * factor
    mean = np.minimum(mean, 1 + np.array(gammas)[:, None])
    origin = f"acceptance: {values.get('source', where)}"
    if curve is not None:
        origin += f"; its change with k: {values.get('by_size_source', where)}"
    return Lengths(sizes, gammas, mean, origin, bool(values.get("num_drafts")))


def of_replay(
    items: Sequence[Intervals | Ratios], longest: int, sizes: IntArray, seed: int, origin: str
) -> Lengths:
    """From the replay of prompts, which are drawn whole.

    Args:
        items: of every prompt.
        longest: draft length; at most the one that was replayed.
        sizes: vocabulary sizes, ascending.
        seed: of the draws.
        origin: where it is from, in words.
    """
    picks = draw_counts(len(items), NUM_DRAWS, np.random.default_rng(seed))
    weights = np.concatenate([np.ones((1, len(items))), picks])
    found = []
    for gamma in range(1, longest + 1):
        steps = [item.walk(gamma).at(sizes) for item in items]
        rounds, accepted = np.stack([r for r, _ in steps]), np.stack([at.sum(axis=0) for _, at in steps])
        found.append(1 + (weights @ accepted) / (weights @ rounds))
    return Lengths(sizes, tuple(range(1, longest + 1)), np.stack(found, axis=1), origin, len(items) > 1)


def spread(smallest: int, largest: int) -> IntArray:
    """Sizes from small to large, closely; above a few hundred in steps of 64, which suit kernels."""
    least = min(max(smallest, SMALLEST), largest)
    sizes = np.geomspace(least, largest, NUM_SIZES)
    stepped = np.where(sizes > 2048, np.round(sizes / 64) * 64, np.round(sizes)).astype(np.int64)
    inside = stepped[(stepped >= least) & (stepped <= largest)]
    return np.union1d(inside, [least, largest])


def _lengths(values: Mapping[str, Any], where: str) -> tuple[tuple[int, ...], Floats]:
    """Draft lengths, and mean acceptance lengths `(1 + draws, gammas)`."""
    rates, lengths = values.get("rates"), values.get("mean_acceptance_length")
    if (rates is None) == (lengths is None):
        raise ConfigError(f"{where}: give either rates or mean_acceptance_length")
    if lengths is not None:
        by_length = sorted((int(gamma), float(length)) for gamma, length in lengths.items())
        gammas, found = tuple(gamma for gamma, _ in by_length), np.array([length for _, length in by_length])
        # Comparisons of what is no number are false.
        is_length = (found >= 1) & (found <= 1 + np.array(gammas))
        if not gammas or gammas[0] < 1 or not is_length.all():
            raise ConfigError(f"{where}: a mean acceptance length lies between 1 and the draft length + 1")
        return gammas, found[None]
    marginal = _marginal(rates or [], where)
    draws = marginal[None]
    if values.get("num_drafts"):
        # Rounds end after 0, 1, ... accepted tokens.
        count = int(values["num_drafts"])
        ends = -np.diff(np.concatenate([[1.0], marginal, [0.0]]))
        drawn = np.random.default_rng(0).multinomial(count, ends / ends.sum(), size=NUM_DRAWS)
        reached = drawn[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:] / count
        draws = np.concatenate([draws, reached])
    return tuple(range(1, len(marginal) + 1)), 1 + draws.cumsum(axis=1)


def _marginal(rates: Sequence[Any], where: str) -> Floats:
    found = np.array([float(rate) for rate in rates])
    is_rate = (found >= 0) & (found <= 1)
    if not len(found) or not is_rate.all() or (np.diff(found) > 0).any():
        raise ConfigError(
            f"{where}: rates are shares of rounds that accept each position, between 0 and 1 and never "
            f"rising, not {list(rates)}"
        )
    return found
