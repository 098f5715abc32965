"""Which (k, gamma) a surface advises, and which are decoded to prove it."""

from dataclasses import dataclass

import numpy as np

from bench.surface.predict import Surface

PLAIN, FULL, OPTIMUM, PAPER, LOSSLESS, EXTRA = "plain", "full", "optimum", "paper", "lossless", "extra"


@dataclass(frozen=True)
class Proof:
    """A way to decode that is measured, and why.

    Attributes:
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma; 0 for plain decoding.
        role: what makes it worth a measurement; several are joined by "+".
    """

    vocab_size: int
    draft_length: int
    role: str


def lossless_size(surface: Surface, draft_length: int) -> int:
    """The smallest size that needs no more target passes than the full vocabulary, on the measured text."""
    rounds = surface.num_rounds[surface.draft_lengths.index(draft_length)]
    return int(surface.sizes[int(np.argmax(rounds <= rounds[-1]))])


def proofs(surface: Surface, paper_size: int, also: list[tuple[int, int]]) -> list[Proof]:
    """What to decode: plain, full, the predicted optimum, the paper's k, and checks away from them.

    Args:
        surface: predictions.
        paper_size: k* of the utility; on the surface's grid.
        also: further (k, gamma) that the user wants.
    """
    full_size = int(surface.sizes[-1])
    size, gamma = surface.best
    found: dict[tuple[int, int], list[str]] = {}

    def add(key: tuple[int, int], role: str) -> None:
        roles = found.setdefault(key, [])
        roles += [] if role in roles else [role]

    add((full_size, 0), PLAIN)
    # Trimming is judged by the faster of the two, as the best draft length is only predicted.
    for length in (surface.best_draft_length(full_size), gamma):
        add((full_size, length), FULL)
    add((size, gamma), OPTIMUM)
    add((paper_size, surface.best_draft_length(paper_size)), PAPER)
    lossless = lossless_size(surface, gamma)
    add((lossless, gamma), LOSSLESS)
    # The prediction is also tried where it was not asked to be best: another gamma, and a larger size.
    longest = surface.draft_lengths[-1]
    add((size, longest if longest != gamma else surface.draft_lengths[0]), EXTRA)
    for key in also:
        add(key, EXTRA)
    return [Proof(*key, "+".join(roles)) for key, roles in found.items()]


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
