"""Energy per token of what was decoded, where a run measured it."""

from dataclasses import dataclass

from bench.report.frames import Key, Run

NOT_MEASURED = "the run measured no energy"


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
    records = list(run.decodes[domain][key].values())
    energies = [getattr(record, "energy_j", None) for record in records]
    known = [energy for energy in energies if energy is not None]
    if not known:
        return Energy(None, NOT_MEASURED)
    if len(known) < len(energies):
        return Energy(None, f"only {len(known)} of {len(energies)} decodes have their energy")
    return Energy(sum(known) / sum(len(record.token_ids) - 1 for record in records))
