"""Which (k, gamma) a surface leads to, and which are decoded to test it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.config.run import AdviceRule
from bench.stats.estimates import Estimate
from bench.stats.jackknife import log_interval
from bench.surface.predict import NEGLIGIBLE, Surface
from bench.variant import PlannedDecode, Variant

PLAIN, FULL, FULL_BEST, OPTIMUM = "plain", "full", "full_best", "optimum"
PAPER, EXTRA = "paper", "extra"


@dataclass(frozen=True)
class Advice:
    """The one (k, gamma) that a surface leads to, by a rule fixed before the data.

    Attributes:
        variant: what to deploy.
        smallest: smallest size that is as good at that draft length.
        largest: largest size that is as good at that draft length.
    """

    variant: Variant
    smallest: int
    largest: int


def shared_draft_length(surfaces: Sequence[Surface]) -> int | None:
    """The draft length that is fastest over all domains: a server has one for all its requests.

    Args:
        surfaces: of the domains of a run, with the same draft lengths. One alone shares nothing: None.
    """
    if len(surfaces) < 2:
        return None
    speeds = np.sum([np.log(surface.tokens_per_s.max(axis=1)) for surface in surfaces], axis=0)
    return surfaces[0].draft_lengths[int(np.argmax(speeds))]


def advise(surface: Surface, rule: AdviceRule, multiple: int, shared: int | None = None) -> Advice:
    """Chooses among all that is not significantly more than a negligible bit slower than the fastest.

    A surface is flat around its top, so the exact maximum depends on chance. `robust` keeps to what is
    predicted to lose at most half of a negligible bit, draft length and size together: two halves of the
    prompts then choose variants that are a negligible bit apart, whichever they are. Of these draft lengths
    it takes the one nearest to the middle of all that are as good: where machine or text change, its
    neighbours are good too. But a draft length that the domains share comes first wherever it is as good.
    Of the sizes there it takes the largest: it loses least on other text. The largest of all that are as
    good would be the larger the noisier a run is; the half keeps the advice inside what another run finds as
    good. `smallest` takes the smallest size of all that are as good at that draft
    length, `fastest` the maximum itself.

    Args:
        surface: predictions; sizes that are multiples of `multiple` must be on its grid.
        rule: as named.
        multiple: an advised size is a multiple of it; the whole vocabulary is always allowed.
        shared: as of `shared_draft_length`; `fastest` does not ask for it.
    """
    sizes = surface.sizes
    allowed = (sizes % multiple == 0) | (sizes == sizes[-1])
    speeds = np.where(allowed, surface.tokens_per_s, 0.0)
    if rule is AdviceRule.fastest:
        row, column = (int(i) for i in np.unravel_index(int(np.argmax(speeds)), speeds.shape))
        as_good = surface.is_equal[row] & allowed
        as_good[column] = True
    else:
        equal = surface.is_equal & allowed
        if not equal.any():  # the fastest is between two multiples, and both are slower
            equal = speeds == speeds.max()
        if shared is not None and equal[of_shared := surface.draft_lengths.index(shared)].any():
            equal &= np.arange(len(equal))[:, None] == of_shared
        near = equal & (speeds >= speeds[equal].max() * (1 - NEGLIGIBLE / 2))
        rows, near_rows = (np.flatnonzero(places.any(axis=1)) for places in (equal, near))
        row = int(near_rows[np.argmin(np.abs(near_rows - rows[(len(rows) - 1) // 2]))])
        as_good = equal[row]
        robust, smallest = np.flatnonzero(near[row])[-1], np.flatnonzero(as_good)[0]
        column = int(robust if rule is AdviceRule.robust else smallest)
    good = sizes[as_good]
    return Advice(Variant(int(sizes[column]), surface.draft_lengths[row]), int(good[0]), int(good[-1]))


def cross_fitted_gain(
    folds: Sequence[tuple[tuple[Variant, Variant], Surface]],
) -> Estimate:
    """Gain of the choice of one part of the prompts, measured on the other part: without selection bias.

    Args:
        folds: what one part chose and what that is compared with, both on the grid of the other part, which
            judges.
    """
    logs, samples = [], []
    for variants, judge in folds:
        chosen, base = (judge.speed(variant) for variant in variants)
        logs.append(chosen.log_tokens_per_s - base.log_tokens_per_s)
        samples += [(a - b) / len(folds) for a, b in zip(chosen.left_out, base.left_out, strict=True)]
    return log_interval(float(np.mean(logs)), samples)


def lossless_size(surface: Surface, draft_length: int) -> int:
    """The smallest size that needs no more target passes than the full vocabulary, on the measured text."""
    rounds = surface.num_rounds[surface.draft_lengths.index(draft_length)]
    return int(surface.sizes[int(np.argmax(rounds <= rounds[-1]))])


def planned_decodes(
    surface: Surface, advised: Variant, paper_size: int, also: Iterable[Variant]
) -> list[PlannedDecode]:
    """What is decoded to see whether the advice holds: plain, full, advised, the paper's k, and the user's.

    The full vocabulary is decoded at the advised draft length, so that only the vocabulary differs, and at
    its own where that is significantly faster.

    Args:
        surface: predictions.
        advised: what the surface leads to.
        paper_size: k* of the utility; on the surface's grid.
        also: further variants that the user wants.
    """
    full_size = surface.full.vocab_size
    found: dict[Variant, list[str]] = {}

    def add(variant: Variant, role: str) -> None:
        roles = found.setdefault(variant, [])
        roles += [] if role in roles else [role]

    add(Variant(full_size, 0), PLAIN)
    add(Variant(full_size, advised.draft_length), FULL)
    if surface.is_full_better_at_another(advised.draft_length):
        add(surface.full, FULL_BEST)
    add(advised, OPTIMUM)
    add(Variant(paper_size, surface.best_draft_length(paper_size)), PAPER)
    for variant in also:
        add(variant, EXTRA)
    return [PlannedDecode(variant, "+".join(roles)) for variant, roles in found.items()]


@dataclass(frozen=True)
class BreakEven:
    """When trimming pays, from arXiv 2605.10453: gain = rho (1 + kappa) / (1 + nu kappa).

    nu and kappa are times of the head. The fraction is that of two rounds, which is known even where the head
    cannot be timed apart; it pays as long as rho is above `round_ratio`.

    Attributes:
        acceptance_ratio: rho, mean acceptance length over that of the full vocabulary.
        round_ratio: time of a round over that with the full vocabulary, at the same draft length.
        head_ratio: nu, head time over that of the full vocabulary; None where only whole rounds have a time.
    """

    acceptance_ratio: float
    round_ratio: float
    head_ratio: float | None

    @property
    def gain(self) -> float:
        """Speed over that of the full vocabulary at the same draft length."""
        return self.acceptance_ratio / self.round_ratio
