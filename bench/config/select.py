"""Values of select, draft, export, import and predict."""

from dataclasses import dataclass, field
from enum import Enum

from bench.config.paths import expand_paths, path_key
from bench.errors import require


class CoverageOf(Enum):
    """On which responses the search computes coverage."""

    ranking = "ranking"
    held_out = "held_out"


@dataclass
class SelectConfig:
    """The search for k: maximise a C(k) + (1 - a) R(k) subject to C(k) >= c_min (arXiv 2603.05210).

    Attributes:
        coverage_weight: the weight a of coverage, from 0 to 1.
        min_coverage: c_min, from 0 to 1.
        coverage_of: the responses on which C(k) is computed: `ranking`, those that rank the tokens (as in the
            paper), or `held_out`.
        k_min: smallest size to consider; at least the number of tokens that a draft must keep.
        k_max: largest size to consider; null: the whole vocabulary.
        multiple: k is a multiple of this. 64 fits the tiles of matrix kernels.
        trials: trials of the Tree-structured Parzen Estimator.
        seed: seed of the estimator and of the bootstrap.
        ranking: ranks the tokens on a mixture of domains, as name:weight; empty: each domain on itself.
        byte_fallback: keeps byte-fallback tokens such as `<0x0A>` at every size.
        keep_scripts: keeps every token of these writing systems at every size, such as [Cyrillic, Greek], and
            the tokens of single bytes that their characters need. Names are those of Unicode.
        vocab_size: exports this k; null: the exact optimum.
        bootstrap_samples: resamples of every coverage interval.
        num_processes: processes that count tokens; null: one per core.
        checkpoint: also writes the draft trimmed to the chosen vocabulary; this downloads its weights.
        eagle3_config: a draft's config.json; a copy of it is written with the chosen draft_vocab_size. Null:
            that of the pair's draft.
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
    keep_scripts: list[str] = field(default_factory=list)
    vocab_size: int | None = None
    bootstrap_samples: int = 200
    num_processes: int | None = None
    checkpoint: bool = True
    eagle3_config: str | None = path_key(None)

    def __post_init__(self) -> None:
        expand_paths(self, "select.")
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
        self.keep_scripts = [_script(name) for name in self.keep_scripts]

    def ranking_weights(self) -> dict[str, float]:
        """Weight by domain of the mixture that ranks the tokens; empty: each domain ranks its own."""
        weights = {}
        for entry in self.ranking:
            name, _, weight = entry.rpartition(":")
            try:
                weights[name] = float(weight)
            except ValueError:
                name = ""
            require(bool(name), "select.ranking", entry, "name:weight, such as code:2")
        return weights


def _script(name: str) -> str:
    """The Unicode name of a script, from its name or four-letter code in any case."""
    from fontTools.unicodedata import Scripts  # 30 ms, which few commands need

    # Marks of no script are kept with every script; no token is in a script that is not assigned.
    known = {code: long for code, long in Scripts.NAMES.items() if long not in ("Inherited", "Unknown")}
    names = {short.casefold(): long for code, long in known.items() for short in (code, long)}
    found = names.get(str(name).strip().replace(" ", "_").casefold())
    require(found is not None, "select.keep_scripts", name, f"one of {', '.join(sorted(known.values()))}")
    return str(found)


@dataclass
class DraftConfig:
    """How `task=draft` times a draft. It also reads `vocab.sizes`, `gpu` and `timing`.

    Attributes:
        context_length: positions in the draft's KV cache while a step is timed.
        coverage: a CSV or Parquet table with the columns `vocab_size` and `coverage` (or `coverage_heldout`),
            or the folder of a selection. With it, the latency models choose a k. Null: none.
    """

    context_length: int = 256
    coverage: str | None = path_key(None)

    def __post_init__(self) -> None:
        expand_paths(self, "draft.")
        require(self.context_length >= 1, "draft.context_length", self.context_length, "at least 1")


@dataclass
class ExportConfig:
    """Which vocabulary of a run `task=export` writes.

    Attributes:
        domain: a domain of the run; null: one vocabulary for each domain.
        vocab_size: k; null: the best size that the run decoded and recommends.
        draft_length: gamma of the command lines and of the speculation profile; null: the recommended one, or
            the fastest with `vocab_size`.
        gguf: a GGUF file of the draft, whose LM head is cut as it is quantised; null: one is written from the
            draft's weights.
    """

    domain: str | None = None
    vocab_size: int | None = None
    draft_length: int | None = None
    gguf: str | None = None

    def __post_init__(self) -> None:
        size, length = self.vocab_size, self.draft_length
        require(size is None or size >= 1, "export.vocab_size", size, "at least 1, or null")
        require(length is None or length >= 1, "export.draft_length", length, "at least 1, or null")


@dataclass
class ImportsConfig:
    """What `task=import` reads, and what the files do not say. Null: the file says it, or it is not known.

    Attributes:
        files: result files of `vllm bench serve`, GuideLLM, AIPerf and `sglang.bench_serving`, and folders of
            specdec_bench (which runs SPEED-Bench). All of one import are of the same draft and device.
        engine: the engine that served.
        device: the GPU that served.
        domain: the text.
        draft: the draft; `none` for plain decoding.
        vocab_size: k of the draft.
        draft_length: gamma.
        concurrency: most requests in flight.
        with_failed: also takes benchmarks with failed requests, or that were stopped. Their speed is that of
            another load.
    """

    files: list[str] = path_key(default_factory=list)
    engine: str | None = None
    device: str | None = None
    domain: str | None = None
    draft: str | None = None
    vocab_size: int | None = None
    draft_length: int | None = None
    concurrency: int | None = None
    with_failed: bool = False

    def __post_init__(self) -> None:
        expand_paths(self, "imports.")
        for name, least in (("vocab_size", 1), ("draft_length", 0), ("concurrency", 1)):
            value = getattr(self, name)
            require(value is None or value >= least, f"imports.{name}", value, f"at least {least}, or null")
        contradicts = self.draft == NO_DRAFT and (self.vocab_size is not None or bool(self.draft_length))
        require(not contradicts, "imports.draft", self.draft, "a draft where imports.vocab_size is set")


# `imports.draft` of plain decoding.
NO_DRAFT = "none"


_DTYPES = ("float32", "bfloat16", "float16")

_SOURCES = ("tables", "data_sheet")


@dataclass
class PredictConfig:
    """What `task=predict` knows about a draft that it estimates.

    Attributes:
        run: a run on the same kind of text; its measured acceptance of every k is used. Null: none.
        domain: a domain of the run or of the coverage table; null: the first domain of the run, or the only
            one of the table.
        coverage: a CSV or Parquet table with the columns `vocab_size` and `coverage` (or `coverage_heldout`),
            or the folder of a selection. Null: none.
        full_acceptance: with a coverage: the probability that the target accepts a drafted token, if it
            accepted those before it, with the full vocabulary. It is the acceptance rate at draft length 1.
            It turns coverage into acceptance and a speedup. Null: no speedup from a coverage.
        calibration: a run that shows how close its device comes to its peak rates; null assumes the peak
            rates.
        dtype: dtype of weights and arithmetic; null: the top-level `dtype`, or bfloat16 if that is auto.
        draft_length: gamma; null: the fastest that the run replayed or, with a coverage, the fastest of
            `measure.draft_lengths`. Without run and coverage, 3.
        context_length: positions in the KV cache.
        profile: a YAML or JSON file with the acceptance by position or draft length
            (`bench/surface/lengths.py` has its keys), instead of a run and a coverage. Null: none.
        source: where latency is from: `tables`, kernels that others measured on that GPU, or `data_sheet`.
            Null: tables if there are any for the GPU and dtype, else its data sheet.
        launch_us: launch time of one kernel, in microseconds. It is 1 or less in engines that replay CUDA
            graphs. Null: that of the calibration; without one, 5, as in eager PyTorch.
    """

    run: str | None = path_key(None)
    domain: str | None = None
    coverage: str | None = path_key(None)
    full_acceptance: float | None = None
    calibration: str | None = path_key(None)
    dtype: str | None = None
    draft_length: int | None = None
    context_length: int = 512
    profile: str | None = path_key(None)
    source: str | None = None
    launch_us: float | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "predict.")
        known = self.source in (None, *_SOURCES)
        require(known, "predict.source", self.source, f"{' or '.join(_SOURCES)}, or null")
        known = self.dtype is None or self.dtype in _DTYPES
        require(known, "predict.dtype", self.dtype, f"{' or '.join(_DTYPES)}, or null")
        gamma, accepted, launch_us = self.draft_length, self.full_acceptance, self.launch_us
        require(gamma is None or gamma >= 1, "predict.draft_length", gamma, "at least 1, or null")
        require(self.context_length >= 1, "predict.context_length", self.context_length, "at least 1")
        require(launch_us is None or launch_us >= 0, "predict.launch_us", launch_us, "0 or above, or null")
        in_range = accepted is None or 0 < accepted <= 1
        require(in_range, "predict.full_acceptance", accepted, "above 0 and at most 1, or null")
        others = self.run is not None or self.coverage is not None
        require(
            not (others and self.profile is not None),
            "predict.profile",
            self.profile,
            "null if predict.run or predict.coverage is set",
        )
        both = self.run is not None and self.coverage is not None
        require(
            not both,
            "predict.coverage",
            self.coverage,
            "null if predict.run is set, whose measured acceptance is better",
        )
        is_unused = accepted is not None and self.coverage is None
        require(not is_unused, "predict.full_acceptance", accepted, "null if predict.coverage is not set")


# A pair on every published GPU.


@dataclass
class GpusConfig:
    """What `task=gpus` estimates, from kernel latencies that others published.

    Attributes:
        shape: a pair whose sizes are at hand (`bench/gpu_tables/shapes`); not used with target and draft.
        target: the target's `config.json`, or its folder; null: that of the shape.
        draft: the draft's `config.json`, or its folder; null: that of the shape.
        names: GPUs, as the tables call them; empty: all.
        engines: engines whose kernels are taken; empty: all.
        dtypes: formats of the target's layers. Drafts and LM heads are in bfloat16.
        batches: sequences that are decoded together.
        contexts: positions that each sequence holds.
        judge_widths: hidden sizes at which the latency models are judged; empty: that of the draft, or the
            nearest one in the tables.
    """

    shape: str = "llama-3.1-8b"
    target: str | None = path_key(None)
    draft: str | None = path_key(None)
    names: list[str] = field(default_factory=list)
    engines: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=lambda: ["bfloat16", "fp8"])
    batches: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    contexts: list[int] = field(default_factory=lambda: [1024, 8192, 32768])
    judge_widths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        expand_paths(self, "gpus.")
        both = (self.target is None) == (self.draft is None)
        require(both, "gpus.draft", self.draft, "set together with gpus.target")
        for name in ("batches", "contexts", "dtypes"):
            require(bool(getattr(self, name)), f"gpus.{name}", [], "at least one")
        for name in ("batches", "contexts"):
            values = getattr(self, name)
            require(min(values) >= 1, f"gpus.{name}", values, "numbers of at least 1")
