"""The typed configuration: what every YAML value means and which values are possible."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bench.config.domain import ColumnsConfig, DomainConfig, DomainSource, HubConfig, Responses, Source
from bench.config.gpu import GpuConfig
from bench.config.run import (
    FULL,
    OWN,
    POOLED,
    CacheState,
    DiffConfig,
    Execution,
    MeasureConfig,
    PairConfig,
    TelemetryConfig,
    TelemetryMode,
    TimingConfig,
    VocabConfig,
)
from bench.config.select import CoverageOf, DraftConfig, ExportConfig, PredictConfig, SelectConfig
from bench.errors import ConfigError, require

__all__ = [
    "FULL",
    "OWN",
    "POOLED",
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
    "HubConfig",
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
    "VocabConfig",
]

DTYPES = ("auto", "bfloat16", "float32")


class Task(Enum):
    """What one invocation does; names are what a user writes, as Hydra reads enums by name."""

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


# What reads finished runs, or measures a draft alone, needs no target.
_WITHOUT_TARGET = (Task.draft, Task.report, Task.fit, Task.compare, Task.diff)


@dataclass
class Config:
    """Everything one run depends on.

    Attributes:
        pair: target and draft.
        domain: what is measured, or what a vocabulary is selected for.
        gpu: the device.
        vocab: measured sizes, and the split.
        measure: effort of a measurement.
        timing: of a round's parts in isolation.
        telemetry: what is sampled beside a run.
        select: the search for k.
        predict: what is known of a draft that is modelled.
        draft: how a draft is measured on its own.
        export: which vocabulary of a run is exported.
        diff: how task=diff judges.
        corpora: further domains, which only rank and judge vocabularies of others.
        task: what to do.
        dtype: of weights and arithmetic.
        results_dir: where results go.
        run: which run is reported or exported.
        resume: whether an unfinished run of the same configuration, device and models is gone on with.
        runs: which runs are compared, as ids or folders.
        out: folder of a selection, an export or a comparison; null names it after what is in it.
    """

    pair: PairConfig
    domain: DomainConfig
    gpu: GpuConfig
    vocab: VocabConfig
    measure: MeasureConfig
    timing: TimingConfig = field(default_factory=TimingConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    draft: DraftConfig = field(default_factory=DraftConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    diff: DiffConfig = field(default_factory=DiffConfig)
    corpora: dict[str, DomainSource] = field(default_factory=dict)
    task: Task = Task.bench
    dtype: str = "auto"
    results_dir: str = "results"
    run: str = "latest"
    resume: bool = True
    runs: list[str] = field(default_factory=list)
    out: str | None = None

    def __post_init__(self) -> None:
        require(self.dtype in DTYPES, "dtype", self.dtype, " or ".join(DTYPES))

    def check_target(self) -> None:
        """Refuses a task that needs a target when the pair has none.

        Raises:
            ConfigError: the pair is a draft alone.
        """
        if not self.pair.target and self.task not in _WITHOUT_TARGET:
            raise ConfigError(
                f"pair={self.pair.name} has no target, which task={self.task.name} needs: measure its draft "
                "alone with task=draft, or name pair.target"
            )

    @property
    def runs_dir(self) -> Path:
        """Where runs are kept."""
        return Path(self.results_dir) / "runs"

    @property
    def reports_dir(self) -> Path:
        """Where reports on several runs are kept."""
        return Path(self.results_dir) / "reports"
