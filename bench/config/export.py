"""Which vocabulary of a run is exported."""

from dataclasses import dataclass

from bench.config.check import require


@dataclass
class ExportConfig:
    """What `task=export` takes from a run.

    Attributes:
        domain: one of the run's; null exports a vocabulary for each.
        vocab_size: k; null takes the fastest of those that the run decoded and advises.
    """

    domain: str | None = None
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        size = self.vocab_size
        require(size is None or size >= 1, "export.vocab_size", size, "at least 1, or null")
