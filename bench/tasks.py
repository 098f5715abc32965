"""The tasks: which function runs each of them, and which keys it reads.

Imports are inside the functions: most need torch, which a report or a refused configuration does not need.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.config import IMPORT, WITH_VLLM, Config, Source, Task
from bench.errors import ConfigError
from bench.progress import stage
from bench.sweep import with_sweeps_opened

if TYPE_CHECKING:
    from bench.gpu_tables.tidy import Tables


def run_task(config: Config, console: Console) -> int:
    """Runs the task of the configuration, and returns the exit code of the program.

    Raises:
        BenchError: wrong input, or the results cannot be read or written.
    """
    config.check_target()
    domain = config.domain
    if domain.path and domain.source is not Source.file:
        said = f"domain.path={domain.path} is not read by domain={domain.name}; domain=jsonl reads it"
        console.print(said, soft_wrap=True, highlight=False, markup=False)
    return _TASKS[config.task](config, console) or 0


def _bench(config: Config, console: Console) -> None:
    from bench.runs.bench import run_bench

    run_bench(config, console)


def _draft(config: Config, console: Console) -> None:
    from bench.runs.draft import run_draft

    run_draft(config, console)


def _selfcheck(config: Config, console: Console) -> None:
    from bench.runs.selfcheck import run_selfcheck

    run_selfcheck(config, console)


def _select(config: Config, console: Console) -> None:
    from bench.select.run import run_select

    run_select(config, console)


def _export(config: Config, console: Console) -> None:
    from bench.select.exports import run_export

    run_export(config, console)


def _import(config: Config, console: Console) -> None:
    from bench.runs.importing import run_import

    with stage(console, "reading the results"):
        run_import(config, console)


def _check(config: Config, console: Console) -> int:
    from bench.select.check import run_check

    with stage(console, "checking the pair"):
        return run_check(config.pair, console)


def _predict(config: Config, console: Console) -> None:
    from bench.predict import run_predict

    with stage(console, "estimating"):
        run_predict(config, console)


def _gpus(config: Config, console: Console) -> None:
    from bench.predict.gpus import run_gpus

    with stage(console, "estimating on every GPU"):
        run_gpus(config, console)


def _fit(config: Config, console: Console) -> None:
    from bench.analysis.run import find_run
    from bench.report.tasks import render_fit

    with stage(console, "fitting the latency models"):
        render_fit(find_run(config.runs_dir, config.run), console)


def _report(config: Config, console: Console) -> None:
    from bench.report.tasks import report_runs

    folders = _folders(config.runs_dir, config.runs or [config.run])
    with stage(console, "analysing the records and writing the report"):
        report_runs(
            folders,
            config.runs_dir,
            config.reports_dir,
            config.out_dir,
            console,
            _tables_at_hand(console),
        )


def _tables_at_hand(console: Console) -> "Tables | None":
    """Published kernel latencies, if they are on this machine: nothing is downloaded for a report."""
    from bench.assets import notice_of
    from bench.errors import AssetError
    from bench.gpu_tables.tidy import ASSET, published

    if notice_of(ASSET) is not None:
        return None
    try:
        return published()
    except AssetError as error:
        console.print(f"without published GPUs: {error}", soft_wrap=True, highlight=False, markup=False)
        return None


def _diff(config: Config, console: Console) -> int:
    from bench.report.tasks import diff_runs

    folders = _folders(config.runs_dir, config.runs)
    with stage(console, "comparing the runs"):
        return diff_runs(folders, config.diff.threshold, config.reports_dir, config.out_dir, console)


def _verify(config: Config, console: Console) -> None:
    from bench.analysis.claims import verify
    from bench.analysis.run import find_run

    path = find_run(config.runs_dir, config.run) if config.claim is None else Path(config.claim)
    for line in verify(path):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _folders(runs_dir: Path, names: list[str]) -> list[Path]:
    from bench.report.tasks import find_folders

    return with_sweeps_opened(find_folders(runs_dir, names))


_TASKS: dict[Task, Callable[[Config, Console], int | None]] = {
    Task.bench: _bench,
    Task.draft: _draft,
    Task.selfcheck: _selfcheck,
    Task.select: _select,
    Task.export: _export,
    IMPORT: _import,
    Task.predict: _predict,
    Task.gpus: _gpus,
    Task.check: _check,
    Task.fit: _fit,
    Task.report: _report,
    Task.compare: _report,
    Task.diff: _diff,
    Task.verify: _verify,
}


# These keys describe the work, and a script may give them to all its commands. Any other key names what one
# task reads or writes, and asks for that task.
_SHARED = {
    *("pair", "domain", "gpu", "vocab", "measure", "timing", "vllm", "telemetry", "limits", "advice"),
    *("corpora", "engine", "dtype", "resume", "reference", "tag", "experiment"),
}

# What each task reads; a key stands for all keys below it. Every task reads `results_dir` and Hydra's own.
_READS: dict[Task, str] = {
    Task.bench: "pair domain gpu vocab measure timing vllm telemetry limits advice corpora engine dtype "
    "resume reference experiment select.coverage_weight select.min_coverage select.k_min select.k_max "
    "select.multiple",
    Task.draft: "pair gpu vocab timing measure.seed measure.num_threads telemetry draft dtype resume "
    "experiment",
    Task.selfcheck: "pair domain gpu vocab timing measure.seed dtype experiment",
    Task.select: "pair domain gpu vocab select corpora dtype out tag experiment",
    Task.export: "run export select.checkpoint select.eagle3_config out tag",
    IMPORT: "imports",
    Task.predict: "pair gpu predict dtype measure.draft_lengths select.coverage_weight experiment",
    Task.gpus: "gpus gpu_tables predict measure.draft_lengths select.coverage_weight out tag experiment",
    Task.check: "pair",
    Task.fit: "run",
    Task.report: "run runs out tag",
    Task.compare: "run runs out tag",
    Task.diff: "runs diff out tag",
    Task.verify: "run claim",
}

# What a key may have been meant for.
_INSTEAD: dict[tuple[Task, str], str] = {
    (Task.bench, "out"): "results_dir=... moves all results",
    (Task.draft, "out"): "results_dir=... moves all results",
    (Task.diff, "run"): "runs=[BEFORE,AFTER] names the two runs",
    (Task.predict, "run"): "predict.run=... takes the acceptance of a run",
    (Task.gpus, "run"): "predict.run=... takes the acceptance of a run",
    (Task.export, "domain"): "export.domain=... chooses a domain of the run",
    (Task.gpus, "pair"): "gpus.shape=..., or gpus.target=... and gpus.draft=..., choose the pair",
    (Task.gpus, "gpu"): "gpus.names=[...] chooses the GPUs",
}


def refuse_unread(jobs: Sequence[Sequence[str]]) -> None:
    """Refuses a key that asks for another task than that of the command line.

    Args:
        jobs: overrides of one command, or of every job of a sweep, of which one must read the key.

    Raises:
        ConfigError: no job reads it.
    """
    unread = [unread_keys(job) for job in jobs]
    for name, reason in unread[0].items() if unread else ():
        if not _is_shared(name) and all(name in found for found in unread):
            raise ConfigError(reason)


def unread_keys(overrides: Sequence[str]) -> dict[str, str]:
    """The keys that are given and that the task does not read, each with a sentence that says what does."""
    given = {_name_of(item): item.partition("=")[2].strip("'\"") for item in overrides}
    task = Task.__members__.get(given.get("task", ""), Task.bench)
    reasons = {name: _why_unread(name, task, given) for name in given}
    return {
        name: f"task={task.name} does not read {name}={given[name]}{reason}"
        for name, reason in reasons.items()
        if reason
    }


def overridden(overrides: Sequence[str]) -> list[str]:
    """A sentence for each value that a later one of the same key replaces."""
    last = {_name_of(item): item for item in overrides}
    replaced = [(item, last[_name_of(item)]) for item in overrides if last[_name_of(item)] != item]
    return [f"{item} is not used, because {winner} stands after it" for item, winner in replaced]


def _why_unread(name: str, task: Task, given: Mapping[str, str]) -> str:
    """Empty for a key that the task reads."""
    group = name.partition(".")[0]
    if group.startswith("hydra") or name in ("task", "results_dir"):
        return ""
    other = "claim" if task is Task.verify else "runs"
    if name == "run" and _reads(task, "run") and other in given:
        return f" beside {other}={given[other]}: leave one of them out"
    if group == "vllm" and task is Task.bench:
        return "" if given.get("engine") == WITH_VLLM else f": engine={WITH_VLLM} does"
    if _reads(task, name):
        return ""
    if instead := _INSTEAD.get((task, group)):
        return f": {instead}"
    tasks = [other.name for other in _READS if _reads(other, name)]
    listed = f"{', '.join(tasks[:-1])}{' or ' if tasks[1:] else ''}{''.join(tasks[-1:])}"
    remedy = "" if _is_shared(name) else f"; name that task, or leave {name} out"
    return f": task={listed} does{remedy}"


def _is_shared(name: str) -> bool:
    return name.partition(".")[0] in _SHARED


def _reads(task: Task, name: str) -> bool:
    """Whether a task reads the key, a key above it, or one below it."""
    return any(f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for key in _READS[task].split())


def _name_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]
