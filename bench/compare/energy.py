"""Energy per token of what was decoded, where a run measured it."""

from dataclasses import dataclass

from bench.report.energy import token_energy
from bench.report.frames import Key, Run


@dataclass(frozen=True)
class Energy:
    """Energy of decoding.

    Attributes:
        j_per_token: joules per token after the first; None where it is not known.
        reason: why it is not known; empty where it is.
    """

    j_per_token: float | None
    reason: str = ""

    @property
    def tokens_per_joule(self) -> float | None:
        """The inverse."""
        return None if self.j_per_token is None else 1 / self.j_per_token


def energy_of(run: Run, domain: str, key: Key) -> Energy:
    """Of one variant over all prompts of a domain.

    Args:
        run: the run.
        domain: its domain.
        key: k and gamma.
    """
    found = token_energy(run, domain, key)
    return Energy(found.j_per_token, found.reason or "")
