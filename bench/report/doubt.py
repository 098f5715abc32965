"""A reason not to trust a figure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Doubt:
    """A reason not to trust a figure.

    Attributes:
        code: short and stable, for programs.
        what: what was seen.
        remedy: what to do.
    """

    code: str
    what: str
    remedy: str
