"""How a decoder-LM draft is measured on its own."""

from dataclasses import dataclass

from bench.config.check import require


@dataclass
class DraftConfig:
    """What `task=draft` adds to sizes, device and timing.

    Attributes:
        context_length: positions that the draft holds while a step is timed.
        coverage: a table with `vocab_size` and `coverage` (or `coverage_heldout`), CSV or Parquet, or the
            folder of a selection, by which the latency models choose a k; null without.
    """

    context_length: int = 256
    coverage: str | None = None

    def __post_init__(self) -> None:
        require(self.context_length >= 1, "draft.context_length", self.context_length, "at least 1")
