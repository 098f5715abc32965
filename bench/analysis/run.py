"""A run read back from its records: what every table and figure is made of."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from bench.analysis.coverage_table import CoverageTable
from bench.analysis.processes import num_sessions, pooled, whole_processes
from bench.analysis.settings import read_settings
from bench.errors import ConfigError, OutputError
from bench.fit.series import DRAFT_STEP, LM_HEAD
from bench.records import (
    BaselineRecord,
    CoverageRecord,
    DecodeRecord,
    EndRecord,
    FailureRecord,
    IsolatedRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    ReplayRecord,
    SampledReplayRecord,
    ServedPartsRecord,
    ServedRecord,
    SessionRecord,
    SteadyRecord,
    read_records,
)
from bench.records.served import by_domain
from bench.stats.estimates import Estimate, Floats, median
from bench.stats.jackknife import paired_speedup
from bench.telemetry.samples import Samples, read_samples
from bench.variant import LAYER, SELECT, Variant
from bench.vocab.ranking import Ranking

Replay = ReplayRecord | SampledReplayRecord

Kind = TypeVar("Kind")

# By task, why a run has nothing to compare.
_NOTHING_DECODED = {
    "draft": "measured a draft alone, without acceptance or speed: task=report and task=fit read it",
    "import": "holds results that were imported from other tools, which only task=report reads",
}


@dataclass(frozen=True)
class Run:
    """A run read back.

    Attributes:
        folder: where it lies.
        environment: what `environment.json` says.
        config: what `config.yaml` says.
        rankings: by source.
        plans: what was to be decoded, by domain.
        replays: by domain, source and prompt id.
        probes: by domain, those that the plan rests on.
        checks: by domain, those that were taken among the decodes.
        decodes: by domain, then variant, then prompt id.
        isolated: parts of a round on their own.
        baselines: comparisons with `transformers.generate`.
        steady: windows of variants that decoded without a pause, by domain and variant.
        failures: what the last session could not measure.
        num_sessions: in which it was measured: one, and one for every time that it was resumed.
        has_ended: whether everything that was asked for was measured.
        repeated: where several processes decoded, all of their decodes by domain; `decodes` are then their
            means.
        served: what another engine decoded, by domain.
        served_parts: what its steps consisted of, by domain.
    """

    folder: Path
    environment: dict[str, Any]
    config: dict[str, Any]
    rankings: dict[str, Ranking]
    plans: dict[str, PlanRecord]
    replays: Mapping[str, Mapping[str, dict[str, Replay]]]
    probes: dict[str, list[ProbeRecord]]
    checks: dict[str, list[ProbeRecord]]
    decodes: dict[str, dict[Variant, dict[str, DecodeRecord]]]
    isolated: list[IsolatedRecord]
    baselines: list[BaselineRecord]
    steady: dict[str, dict[Variant, list[SteadyRecord]]]
    failures: list[FailureRecord]
    num_sessions: int
    has_ended: bool = True
    repeated: Mapping[str, list[DecodeRecord]] = field(default_factory=dict)
    served: dict[str, list[ServedRecord]] = field(default_factory=dict)
    served_parts: dict[str, list[ServedPartsRecord]] = field(default_factory=dict)

    @cached_property
    def samples(self) -> Samples:
        """What was sampled beside it."""
        return read_samples(self.folder)

    @property
    def full_size(self) -> int:
        """K of the untrimmed draft."""
        return int(self.environment["full_vocab_size"])

    @property
    def num_resamples(self) -> int:
        """Bootstrap resamples behind every interval."""
        return int(self.config["measure"]["bootstrap_samples"])

    @property
    def seed(self) -> int:
        """Seed of the bootstrap."""
        return int(self.config["measure"]["seed"])

    @property
    def multiple(self) -> int | None:
        """That an advised size had to be of; None for runs of earlier versions, which advised any."""
        return self.environment.get("vocab_multiple")

    @property
    def execution(self) -> str:
        """How rounds were executed; eagerly in runs of earlier versions."""
        return str((self.environment.get("decoding") or {}).get("execution", EAGER))

    @property
    def laps_overlap(self) -> bool:
        """Whether only whole rounds have a time: launched kernel by kernel on a GPU."""
        return self.execution == EAGER and bool(self.environment.get("cuda"))

    @property
    def is_sampled(self) -> bool:
        """Whether answers were sampled, and not greedy."""
        return bool(self.config["measure"].get("temperature"))

    @property
    def prompts(self) -> dict[str, list[str]]:
        """Prompts that everything of a domain is compared on."""
        return {domain: sorted(next(iter(by_key.values()))) for domain, by_key in self.decodes.items()}

    def num_probed(self, domain: str) -> int:
        """Prompts of a domain that its latency is known from."""
        return len({probe.prompt_id for probe in self.probes[domain]})

    def num_processes(self, domain: str) -> int:
        """Fresh processes whose probes of a domain are pooled."""
        return len({probe.process for probe in self.probes[domain]})

    def decodes_of(self, domain: str, variant: Variant | None = None) -> list[DecodeRecord]:
        """Every decode of a domain, or of one of its variants, as it was recorded."""
        found = self.repeated.get(domain)
        if found is None:
            found = [record for by_prompt in self.decodes[domain].values() for record in by_prompt.values()]
        return [record for record in found if variant in (None, record.variant)]

    @property
    def plain(self) -> Variant:
        """Decoding without a draft."""
        return Variant(self.full_size, 0)

    def variant_of(self, domain: str, role: str) -> Variant:
        """The variant that plays a role that every plan has."""
        found = self.planned_as(domain, role)
        assert found is not None
        return found

    def planned_as(self, domain: str, role: str) -> Variant | None:
        """The variant that plays a role in the plan; None where no variant does."""
        return next((item.variant for item in self.plans[domain].planned if role in item.roles), None)


def read_run(folder: Path) -> Run:
    """Reads a run's folder.

    Raises:
        OutputError: it is not a run, or nothing in it can be compared yet.
    """
    environment, config = read_settings(folder)
    if why := _NOTHING_DECODED.get(str(environment.get("task"))):
        raise OutputError(f"{folder} {why}")
    log = _Log(folder)
    plans = {record.domain: record for record in log.of(PlanRecord)}
    replays = _nested([*log.of(ReplayRecord), *log.of(SampledReplayRecord)], "domain", "source", "prompt_id")
    every = _nested(log.of(DecodeRecord), "process", "domain", "variant", "prompt_id")
    probes: dict[str, list[ProbeRecord]] = defaultdict(list)
    checks: dict[str, list[ProbeRecord]] = defaultdict(list)
    for probe in log.of(ProbeRecord):
        if not probe.is_pilot:  # earlier versions chose by a pilot, which their reports left out
            (checks if probe.is_check else probes)[probe.domain].append(probe)
    steady: dict[str, dict[Variant, list[SteadyRecord]]] = defaultdict(lambda: defaultdict(list))
    for window in log.of(SteadyRecord):
        steady[window.domain][window.variant].append(window)
    decodes, repeated, kept_processes = {}, {}, {}
    shared: dict[str, set[str]] = {}
    probed: dict[str, set[str]] = {}
    for d in (d for d in every.get(0, {}) if d in plans):
        complete = {process: _complete(p for p in probes[d] if p.process == process) for process in every}
        found = {
            process: _comparable(plans[d], by_domain.get(d, {}), complete[process], replays.get(d, {}))
            for process, by_domain in every.items()
        }
        whole = whole_processes(found)
        if prompts := set.intersection(*(found[process] for process in whole)) if found[0] else set():
            shared[d], kept_processes[d] = prompts, whole
            probed[d] = set.intersection(*(complete[process] for process in whole))
            decodes[d] = pooled([every[process][d] for process in whole])
            if len(whole) > 1:
                repeated[d] = [r for r in log.of(DecodeRecord) if r.domain == d and r.process in whole]
    if not shared:
        raise OutputError(
            f"{folder}: no prompt was decoded in every planned way yet; there is nothing to compare. The "
            "command that started the run resumes it"
        )
    full_size = int(environment["full_vocab_size"])
    return Run(
        folder,
        environment,
        config,
        {record.source: record.ranking(full_size) for record in log.of(RankingRecord)},
        plans,
        replays,
        {
            d: [p for p in probes[d] if p.prompt_id in kept and p.process in kept_processes[d]]
            for d, kept in probed.items()
        },
        {
            d: [p for p in checks[d] if p.prompt_id in kept and p.process in kept_processes[d]]
            for d, kept in shared.items()
        },
        {
            d: {variant: _only(decodes[d][variant], kept) for variant in decodes[d]}
            for d, kept in shared.items()
        },
        log.of(IsolatedRecord),
        log.of(BaselineRecord),
        dict(steady),
        log.of(FailureRecord),
        num_sessions(log.of(SessionRecord)),
        bool(log.of(EndRecord)),
        {d: [r for r in found if r.prompt_id in shared[d]] for d, found in repeated.items()},
        by_domain(log.of(ServedRecord), shared),
        by_domain(log.of(ServedPartsRecord), shared),
    )


class _Log:
    """The records of a run by kind, in the order of writing; failures of each process's last session."""

    def __init__(self, folder: Path):
        self._by_kind: dict[type, list[Any]] = defaultdict(list)
        failures: dict[int, list[FailureRecord]] = {}
        process = 0
        for record in read_records(folder):
            if isinstance(record, SessionRecord):
                # A session tries again what failed in the one before.
                process = record.process
                failures[process] = []
            if isinstance(record, FailureRecord):
                failures.setdefault(process, []).append(record)
            else:
                self._by_kind[type(record)].append(record)
        self._by_kind[FailureRecord] = [failure for found in failures.values() for failure in found]

    def of(self, kind: type[Kind]) -> list[Kind]:
        return self._by_kind[kind]


def _nested(records: Iterable[Any], *names: str) -> dict[Any, Any]:
    """Records by these fields, one inside the other; of several of one place the last."""
    found: dict[Any, Any] = {}
    for record in records:
        *outer, inner = (getattr(record, name) for name in names)
        level = found
        for key in outer:
            level = level.setdefault(key, {})
        level[inner] = record
    return found


def is_of_draft_alone(environment: Mapping[str, Any]) -> bool:
    """Whether a run is one of `task=draft`."""
    return environment.get("task") == "draft"


def _comparable(
    plan: PlanRecord,
    decodes: dict[Variant, dict[str, DecodeRecord]],
    probed: set[str],
    replays: dict[str, dict[str, Replay]],
) -> set[str]:
    """The prompts to compare on; empty where there is none.

    Those that every planned variant decoded and every probe and replay ran on, and whose answers go on after
    the first token, as decoding others takes no time.
    """
    planned = [decodes.get(item.variant, {}) for item in plan.planned]
    shared = set.intersection(*({p for p, r in d.items() if len(r.token_ids) > 1} for d in planned))
    for by_prompt in replays.values():
        shared &= by_prompt.keys()
    return shared & probed


def _complete(probes: Iterable[ProbeRecord]) -> set[str]:
    """Prompts that every probe ran on: an interrupted run ends in the middle of one, and a case may fail."""
    num_probes = pd.Series([p.prompt_id for p in probes], dtype=object).value_counts()
    return set(num_probes.index[num_probes == num_probes.max()])


def _only(by_prompt: dict[str, DecodeRecord], kept: set[str]) -> dict[str, DecodeRecord]:
    return {prompt: record for prompt, record in by_prompt.items() if prompt in kept}


def decode_series(by_prompt: dict[str, DecodeRecord]) -> tuple[Floats, Floats]:
    """Tokens after the first, and their decode time in ms, per prompt in a fixed order `(n,)`."""
    records = [by_prompt[prompt] for prompt in sorted(by_prompt)]
    tokens = np.array([len(r.token_ids) - 1 for r in records], dtype=np.float64)
    return tokens, np.array([r.decode_ms for r in records])


def speedup(run: Run, domain: str, variant: Variant, base: Variant) -> Estimate | None:
    """Throughput of one variant over another's on the same prompts; None where one is missing."""
    decodes = run.decodes[domain]
    if variant not in decodes or base not in decodes:
        return None
    series = (*decode_series(decodes[variant]), *decode_series(decodes[base]))
    return paired_speedup(*series)


# A run of `task=draft` read back: a draft's step alone, by vocabulary size.

STEP_COLUMNS = [
    "vocab_size", "layer_ms", "lm_head_ms", "select_ms", "draft_step_ms", "draft_step_ci_low_ms",
    "draft_step_ci_high_ms", "draft_step_warm_ms", "lm_head_share", "saving",
]  # fmt: skip


@dataclass(frozen=True)
class DraftRun:
    """What was measured.

    Attributes:
        run: the run, with latencies and nothing that needs a target.
        setting: of the times that count: cold, as the rest of a step leaves the cache; warm where the device
            does not say how large its cache is.
        execution: of the times that count: as graphs where parts were timed so, without launches.
        coverage: what share of tokens k tokens cover; None where the user gave no curve.
    """

    run: Run
    setting: str
    execution: str
    coverage: CoverageTable | None

    def times(self, part: str, setting: str | None = None) -> dict[int, list[float]]:
        """Samples in ms of a part by k, ascending; in the setting that counts, unless another is named."""
        found = {r.vocab_size: r.device_ms for r in self._records(part, setting) if r.vocab_size}
        return dict(sorted(found.items()))

    def layer_times(self, setting: str | None = None) -> list[float]:
        """Samples in ms of the decoder layers; empty where they were not timed."""
        return next((record.device_ms for record in self._records(LAYER, setting)), [])

    def _records(self, part: str, setting: str | None) -> list[IsolatedRecord]:
        wanted = (part, setting or self.setting, self.execution)
        return [r for r in self.run.isolated if (r.part, f"isolated_{r.cache}", r.execution) == wanted]


def read_draft_run(folder: Path) -> DraftRun:
    """Reads the folder of a run of `task=draft`.

    Raises:
        OutputError: it is not one, or nothing in it was timed yet.
    """
    environment, config = read_settings(folder)
    log = _Log(folder)
    isolated, failures = log.of(IsolatedRecord), log.of(FailureRecord)
    coverage = None
    for record in log.of(CoverageRecord):
        coverage = CoverageTable(np.array(record.sizes), np.array(record.coverage))
    if not any(record.part == DRAFT_STEP for record in isolated):
        reasons = "; ".join(f"{failure.error}: {failure.message}" for failure in failures[:1])
        raise OutputError(f"{folder}: no draft step was timed{f' ({reasons})' if reasons else ' yet'}")
    sessions = len(log.of(SessionRecord))
    run = Run(folder, environment, config, {}, {}, {}, {}, {}, {}, isolated, [], {}, failures, sessions)
    used = {record.execution for record in isolated}
    execution = GRAPH if GRAPH in used else EAGER if EAGER in used else isolated[0].execution
    return DraftRun(run, f"isolated_{counted_cache(isolated)}", execution, coverage)


def step_frame(draft: DraftRun) -> pd.DataFrame:
    """Medians of a step and its parts, one row per size; empty where something was not timed."""
    heads, selects, steps = (draft.times(part) for part in (LM_HEAD, SELECT, DRAFT_STEP))
    warm = draft.times(DRAFT_STEP, WARM)
    layer = _median(draft.layer_times())
    full_ms = _median(steps.get(draft.run.full_size, []))
    rows = []
    for size, samples in steps.items():
        step, head_ms = median(np.array(samples)), _median(heads.get(size, []))
        rows.append(
            (
                size,
                layer,
                head_ms,
                _median(selects.get(size, [])),
                *vars(step).values(),
                _median(warm.get(size, [])),
                None if head_ms is None else head_ms / step.value,
                None if full_ms is None else 1 - step.value / full_ms,
            )
        )
    return pd.DataFrame(rows, columns=STEP_COLUMNS)


def cache_frame(draft: DraftRun) -> pd.DataFrame:
    """Medians of LM head and draft step with the cache cold and warm.

    Columns: part, setting, vocab_size, median_ms, ci_low_ms, ci_high_ms.
    """
    rows = [
        (part, setting, size, *vars(median(np.array(samples))).values())
        for part in (LM_HEAD, DRAFT_STEP)
        for setting in (COLD, WARM)
        for size, samples in draft.times(part, setting).items()
    ]
    return pd.DataFrame(
        rows, columns=["part", "setting", "vocab_size", "median_ms", "ci_low_ms", "ci_high_ms"]
    )


def _median(samples: list[float]) -> float | None:
    return float(np.median(samples)) if samples else None


IN_SITU, COLD, WARM = "in_situ", "isolated_cold", "isolated_warm"

EAGER, GRAPH = "eager", "graph"


def counted_cache(records: Iterable[IsolatedRecord]) -> str:
    """The cache state of the times that count: cold, as in rounds; warm where none were taken cold."""
    return "cold" if any(record.cache == "cold" for record in records) else "warm"


def find_run(runs_dir: Path, name: str) -> Path:
    """Folder of a run by id, by path, `latest`, or its name in the folder of all results, such as `example`.

    Raises:
        ConfigError: there is no such run; the message lists the newest ones.
    """
    for folder in (runs_dir / name, Path(name), runs_dir.parent / name):
        if (folder / "records.jsonl").exists():
            return folder.resolve()
    pointer = runs_dir / f"{name}.txt"
    if pointer.exists():
        return find_run(runs_dir, pointer.read_text("utf-8").strip())
    known = sorted(p.name for p in runs_dir.glob("*/") if p.name != "latest") if runs_dir.is_dir() else []
    newest = ", ".join(known[-5:]) or "none"
    raise ConfigError(f"run={name} is not a run; the newest in {runs_dir} are: {newest}")


def name_of_run(runs_dir: Path, folder: Path) -> str:
    """What `run=` takes for a folder: the id of a run that is kept in `runs_dir`, else the shortest path."""
    folder = folder.resolve()
    if folder.parent == runs_dir.resolve():
        return folder.name
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
