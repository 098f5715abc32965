"""How a vocabulary is ranked, searched for and exported."""

from dataclasses import dataclass, field
from enum import Enum

from bench.errors import require


class CoverageOf(Enum):
    """Whose responses the coverage in the utility is of; named as `Task` is."""

    ranking = "ranking"
    held_out = "held_out"


@dataclass
class SelectConfig:
    """The search for k: maximise a C(k) + (1 - a) R(k) under C(k) >= c_min (arXiv 2603.05210).

    Attributes:
        coverage_weight: a.
        min_coverage: c_min.
        coverage_of: responses that C(k) in the search is of: those that ranked the tokens, as in the
            paper, or the held-out ones.
        k_min: smallest size considered; the must-keep set where that is larger.
        k_max: largest size considered; null is the whole vocabulary.
        multiple: k is a multiple of this; 64 suits matrix kernels, 1 leaves k free.
        trials: of the Tree-structured Parzen Estimator.
        seed: of the estimator and the bootstrap.
        ranking: domains whose mixture ranks the tokens, as name:weight; empty ranks each by itself.
        byte_fallback: keeps byte-fallback tokens such as <0x0A> at any size.
        vocab_size: exports this k; null exports the exact optimum.
        bootstrap_samples: resamples behind every coverage interval.
        num_processes: that count tokens; null is one per core.
        checkpoint: also writes the pair's draft trimmed to the chosen vocabulary, for which its weights are
            fetched.
        eagle3_config: a draft's config.json to write again with the chosen draft_vocab_size; null takes
            the pair's own draft.
    """

    coverage_weight: float = 0.5
    min_coverage: float = 0.0
    coverage_of: CoverageOf = CoverageOf.ranking
    k_min: int = 50
    k_max: int | None = None
    multiple: int = 1
    trials: int = 100
    seed: int = 42
    ranking: list[str] = field(default_factory=list)
    byte_fallback: bool = False
    vocab_size: int | None = None
    bootstrap_samples: int = 200
    num_processes: int | None = None
    checkpoint: bool = True
    eagle3_config: str | None = None

    def __post_init__(self) -> None:
        for name in ("coverage_weight", "min_coverage"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"select.{name}", value, "between 0 and 1")
        for name, least in (("k_min", 1), ("multiple", 1), ("trials", 1), ("seed", 0)):
            value = getattr(self, name)
            require(value >= least, f"select.{name}", value, f"at least {least}")
        require(
            self.bootstrap_samples >= 100, "select.bootstrap_samples", self.bootstrap_samples, "at least 100"
        )
        require(
            self.k_max is None or self.k_max >= self.k_min,
            "select.k_max",
            self.k_max,
            f"at least select.k_min={self.k_min}, or null",
        )
        for name in ("vocab_size", "num_processes"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"select.{name}", value, "at least 1, or null")
        weights = self.ranking_weights()
        has_weight = not weights or (min(weights.values()) >= 0 and max(weights.values()) > 0)
        require(has_weight, "select.ranking", self.ranking, "[name:weight, ...] with weights above 0")

    def ranking_weights(self) -> dict[str, float]:
        """The mixture that ranks the tokens, by domain; empty for each domain by itself."""
        weights = {}
        for entry in self.ranking:
            name, _, weight = entry.rpartition(":")
            try:
                weights[name] = float(weight)
            except ValueError:
                name = ""
            require(bool(name), "select.ranking", entry, "name:weight, such as code:2")
        return weights


# How a decoder-LM draft is measured on its own.


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


# Which vocabulary of a run is exported.


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


# What is known of a draft that is modelled and not measured.

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
