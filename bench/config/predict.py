"""What is known of a draft that is modelled and not measured."""

from dataclasses import dataclass

from bench.config.check import require

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class PredictConfig:
    """What `task=predict` starts from.

    Attributes:
        run: a run of the same kind of text, whose acceptance of every k is taken; null without.
        domain: of that run; null takes its first.
        coverage: a table with `vocab_size` and `coverage` (or `coverage_heldout`), CSV or Parquet, or the
            folder of a selection; null without.
        calibration: a run whose device tells how near to its limits a device comes; null assumes the limits.
        dtype: of weights and arithmetic.
        draft_length: gamma.
        context_length: positions held.
    """

    run: str | None = None
    domain: str | None = None
    coverage: str | None = None
    calibration: str | None = None
    dtype: str = "bfloat16"
    draft_length: int = 3
    context_length: int = 512

    def __post_init__(self) -> None:
        require(self.dtype in _DTYPES, "predict.dtype", self.dtype, " or ".join(_DTYPES))
        for name in ("draft_length", "context_length"):
            require(getattr(self, name) >= 1, f"predict.{name}", getattr(self, name), "at least 1")
        both = self.run is not None and self.coverage is not None
        require(
            not both, "predict.coverage", self.coverage, "null beside predict.run, whose acceptance is better"
        )
