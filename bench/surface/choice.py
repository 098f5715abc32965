"""Which (k, gamma) a surface advises, and which are decoded to see whether it is right."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bench.surface.predict import Surface
from bench.variant import PlannedDecode, Variant

PLAIN, FULL, OPTIMUM, PAPER, LOSSLESS, EXTRA = "plain", "full", "optimum", "paper", "lossless", "extra"


def lossless_size(surface: Surface, draft_length: int) -> int:
    """The smallest size that needs no more target passes than the full vocabulary, on the measured text."""
    rounds = surface.num_rounds[surface.draft_lengths.index(draft_length)]
    return int(surface.sizes[int(np.argmax(rounds <= rounds[-1]))])


def planned_decodes(surface: Surface, paper_size: int, also: Iterable[Variant]) -> list[PlannedDecode]:
    """What to decode: plain, full, the predicted optimum, the paper's k, and checks away from them.

    Args:
        surface: predictions.
        paper_size: k* of the utility; on the surface's grid.
        also: further variants that the user wants.
    """
    full_size = int(surface.sizes[-1])
    size, gamma = surface.best
    found: dict[Variant, list[str]] = {}

    def add(variant: Variant, role: str) -> None:
        roles = found.setdefault(variant, [])
        roles += [] if role in roles else [role]

    add(Variant(full_size, 0), PLAIN)
    # Trimming is judged by the faster of the two, as the best draft length is only predicted.
    for length in (surface.best_draft_length(full_size), gamma):
        add(Variant(full_size, length), FULL)
    add(Variant(size, gamma), OPTIMUM)
    add(Variant(paper_size, surface.best_draft_length(paper_size)), PAPER)
    lossless = lossless_size(surface, gamma)
    add(Variant(lossless, gamma), LOSSLESS)
    # The prediction is also tried where it was not asked to be best: another gamma, and a larger size.
    longest = surface.draft_lengths[-1]
    add(Variant(size, longest if longest != gamma else surface.draft_lengths[0]), EXTRA)
    for variant in also:
        add(variant, EXTRA)
    return [PlannedDecode(variant, "+".join(roles)) for variant, roles in found.items()]


@dataclass(frozen=True)
class BreakEven:
    """When trimming pays, from arXiv 2605.10453: gain = rho (1 + kappa) / (1 + nu kappa).

    Attributes:
        acceptance_ratio: rho, mean acceptance length over that of the full vocabulary.
        head_ratio: nu, head time over that of the full vocabulary.
        head_share: kappa, head time of a round with the full vocabulary over all its other time.
    """

    acceptance_ratio: float
    head_ratio: float
    head_share: float

    @property
    def gain(self) -> float:
        """Speed over that of the full vocabulary at the same draft length."""
        return self.acceptance_ratio * (1 + self.head_share) / (1 + self.head_ratio * self.head_share)

    @property
    def least_acceptance_ratio(self) -> float:
        """Where trimming neither gains nor loses."""
        return (1 + self.head_ratio * self.head_share) / (1 + self.head_share)
