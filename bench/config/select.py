"""How a vocabulary is ranked, searched for and exported."""

from dataclasses import dataclass, field
from enum import Enum

from bench.config.check import require


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
