"""The typed configuration: what every YAML value means and which values are possible."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bench.config.domain import ColumnsConfig, DomainConfig, DomainSource, HubConfig, Responses, Source
from bench.config.gpu import GpuConfig
from bench.config.paths import expand_paths, path_key
from bench.config.run import (
    FULL,
    OWN,
    POOLED,
    AdviceRule,
    CacheState,
    DiffConfig,
    Execution,
    LimitsConfig,
    MeasureConfig,
    PairConfig,
    TelemetryConfig,
    TelemetryMode,
    TimingConfig,
    VllmConfig,
    VocabConfig,
)
from bench.config.select import (
    CoverageOf,
    DraftConfig,
    ExportConfig,
    GpusConfig,
    ImportsConfig,
    PredictConfig,
    SelectConfig,
)
from bench.errors import ConfigError, require

__all__ = [
    "FULL",
    "IMPORT",
    "OWN",
    "POOLED",
    "AdviceRule",
    "CacheState",
    "ColumnsConfig",
    "Config",
    "CoverageOf",
    "DiffConfig",
    "DomainConfig",
    "DomainSource",
    "DraftConfig",
    "Execution",
    "ExportConfig",
    "GpuConfig",
    "GpusConfig",
    "HubConfig",
    "ImportsConfig",
    "LimitsConfig",
    "MeasureConfig",
    "PairConfig",
    "PredictConfig",
    "Responses",
    "SelectConfig",
    "Source",
    "Task",
    "TelemetryConfig",
    "TelemetryMode",
    "TimingConfig",
    "VllmConfig",
    "VocabConfig",
]

DTYPES = ("auto", "bfloat16", "float32")

WITH_VLLM = "own,vllm"

ENGINES = (OWN, WITH_VLLM)


class Task(Enum):
    """What one invocation does. A user writes the name of a member: Hydra reads enums by name."""

    bench = "bench"
    select = "select"
    export = "export"
    selfcheck = "selfcheck"
    fit = "fit"
    predict = "predict"
    report = "report"
    compare = "compare"
    diff = "diff"
    draft = "draft"
    gpus = "gpus"
    check = "check"
    verify = "verify"
    # `import` is a word of Python, so that the member has no name in code: `IMPORT`.
    vars()["import"] = "import"


IMPORT = Task["import"]


# These tasks read finished runs or time a draft without a target.
_WITHOUT_TARGET = (
    *(Task.draft, Task.report, Task.fit, Task.compare, Task.diff, Task.gpus, Task.verify),
    IMPORT,
)


@dataclass
class Config:
    """Everything one run depends on.

    Attributes:
        pair: the target and its draft.
        domain: the text to measure, or to choose a vocabulary for.
        gpu: the device.
        vocab: the vocabulary sizes to time, and the split of the prompts.
        measure: the effort of a measurement.
        timing: how the parts of a round are timed in isolation.
        vllm: how `engine=vllm` decodes.
        telemetry: what is sampled during a run.
        select: the search of `task=select`.
        predict: what `task=predict` knows about a draft.
        draft: how `task=draft` times a draft.
        gpus: what `task=gpus` estimates.
        export: which vocabulary `task=export` writes.
        imports: results of other tools that `task=import` reads.
        diff: how `task=diff` compares two runs.
        limits: conditions beyond which a figure of a run is INVALID.
        advice: which of the variants that are as good as the fastest is advised. `robust`: the draft length
            that is fastest over all domains of the run, where it is as good; else, and for a single domain,
            the one nearest to the middle of all that are as good, if it is predicted at most 0.5% slower than
            the fastest. Of the vocabularies there that are predicted at most 0.5% slower, the largest, as it
            loses least on text that nobody measured. `smallest`: at that draft length, the smallest that is
            as good; `fastest`: the very fastest.
        corpora: further domains, by name. They only rank tokens and test the vocabularies of others.
        task: what to do; `python -m bench --help` lists the tasks.
        engine: who decodes: `own`, the loop of this program, or `own,vllm`: then also vLLM, which decodes the
            plain, the full-vocabulary and the advised variant again. The advice rests on our loop.
        dtype: dtype of weights and arithmetic: `float32`, `bfloat16`, or `auto`: bfloat16 where the device
            supports it, else float32.
        results_dir: folder of all results.
        run: the run that `task=report`, `export` and `fit` read: `latest`, a run id, or a folder.
        resume: resumes an unfinished run of the same configuration, device and models; false starts again.
        reference: on a CPU, reports figures at the pace of the first run of the same question in
            `results_dir`, so that both answer for the same machine; false: at that of this run.
        gpu_tables: a CSV of kernel latencies of your own for `task=gpus`, with the columns gpu, engine,
            version, kernel, dtype, m, n, k and latency_ms, beside the published tables. Null: none.
        runs: the runs that `task=report`, `compare` and `diff` read: run ids or folders, also from other
            machines. A sweep's folder stands for its runs.
        claim: the `claim.json` that `task=verify` checks, or its folder; null: that of `run`.
        out: output folder of `task=select`, `export`, `gpus`, `report`, `compare` and `diff`; null chooses a
            folder in `results_dir`.
        tag: puts the output of these tasks into a folder of this name, in `out` or in `results_dir`; null: no
            such folder. A sweep sets it if two jobs would write the same folder.
    """

    pair: PairConfig
    domain: DomainConfig
    gpu: GpuConfig
    vocab: VocabConfig
    measure: MeasureConfig
    timing: TimingConfig = field(default_factory=TimingConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    draft: DraftConfig = field(default_factory=DraftConfig)
    gpus: GpusConfig = field(default_factory=GpusConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    imports: ImportsConfig = field(default_factory=ImportsConfig)
    diff: DiffConfig = field(default_factory=DiffConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    advice: AdviceRule = AdviceRule.robust
    corpora: dict[str, DomainSource] = field(default_factory=dict)
    task: Task = Task.bench
    engine: str = OWN
    dtype: str = "auto"
    results_dir: str = path_key("results")
    run: str = path_key("latest")
    resume: bool = True
    reference: bool = True
    gpu_tables: str | None = path_key(None)
    runs: list[str] = path_key(default_factory=list)
    claim: str | None = path_key(None)
    out: str | None = path_key(None)
    tag: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self)
        if self.task is Task.draft:
            self.pair.measure_alone()
        require(self.dtype in DTYPES, "dtype", self.dtype, " or ".join(DTYPES))
        require(self.engine in ENGINES, "engine", self.engine, " or ".join(ENGINES))
        valid = self.tag is None or bool(re.fullmatch(r"[\w.,=+-]*[\w,=+-]", self.tag))
        require(valid, "tag", self.tag, "made of letters, digits and . , = + - _, or null")

    def check_target(self) -> None:
        """Refuses a task that needs a target if the pair has none.

        Raises:
            ConfigError: the pair is a draft without a target.
        """
        if not self.pair.target and self.task not in _WITHOUT_TARGET:
            raise ConfigError(
                f"pair={self.pair.name} has no target, which task={self.task.name} needs: time the draft "
                "without a target with task=draft, or set pair.target"
            )

    @property
    def in_vllm(self) -> bool:
        """Whether vLLM decodes too."""
        return self.engine == WITH_VLLM

    @property
    def runs_dir(self) -> Path:
        """Folder of all runs."""
        return Path(self.results_dir) / "runs"

    @property
    def reports_dir(self) -> Path:
        """Folder of all pages."""
        return self.results_of("reports")

    def results_of(self, kind: str) -> Path:
        """Folder in `results_dir` of results that are named after what they are of, such as "vocab"."""
        return Path(self.results_dir) / kind / (self.tag or "")

    @property
    def out_dir(self) -> Path | None:
        """The output folder that was asked for; None if a task names its own."""
        return None if self.out is None else Path(self.out) / (self.tag or "")
