"""What is known of a draft that is modelled and not measured."""

from dataclasses import dataclass

from bench.config.check import require

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class PredictConfig:
    """What `task=predict` starts from.

    Attributes:
        run: a run of the same kind of text, whose acceptance of every k is taken; null without.
        domain: of that run, or of the table; null takes the run's first, and a table of one domain.
        coverage: a table with `vocab_size` and `coverage` (or `coverage_heldout`), CSV or Parquet, or the
            folder of a selection; null without.
        full_acceptance: chance that the target accepts a drafted token, those before it being accepted, with
            the full vocabulary: the acceptance rate at a draft length of 1. Beside a coverage it gives an
            acceptance and a speedup; null without.
        calibration: a run whose device tells how near to its limits a device comes; null assumes the limits.
        dtype: of weights and arithmetic; null takes the top-level `dtype`, and bfloat16 where that is auto.
        draft_length: gamma; null takes the fastest: of those that the run replayed, or, with a coverage, of
            `measure.draft_lengths`. Without an acceptance rounds are of 3.
        context_length: positions held.
        launch_us: of one kernel. Engines that replay CUDA graphs launch in 1 or less. Null takes that of the
            calibration, and 5 without one, as eager PyTorch.
    """

    run: str | None = None
    domain: str | None = None
    coverage: str | None = None
    full_acceptance: float | None = None
    calibration: str | None = None
    dtype: str | None = None
    draft_length: int | None = None
    context_length: int = 512
    launch_us: float | None = None

    def __post_init__(self) -> None:
        known = self.dtype is None or self.dtype in _DTYPES
        require(known, "predict.dtype", self.dtype, f"{' or '.join(_DTYPES)}, or null")
        gamma, accepted, launch_us = self.draft_length, self.full_acceptance, self.launch_us
        require(gamma is None or gamma >= 1, "predict.draft_length", gamma, "at least 1, or null")
        require(self.context_length >= 1, "predict.context_length", self.context_length, "at least 1")
        require(launch_us is None or launch_us >= 0, "predict.launch_us", launch_us, "0 or above, or null")
        in_range = accepted is None or 0 < accepted <= 1
        require(in_range, "predict.full_acceptance", accepted, "above 0 and at most 1, or null")
        both = self.run is not None and self.coverage is not None
        require(
            not both, "predict.coverage", self.coverage, "null beside predict.run, whose acceptance is better"
        )
        alone = accepted is not None and self.coverage is None
        require(not alone, "predict.full_acceptance", accepted, "null without predict.coverage")
