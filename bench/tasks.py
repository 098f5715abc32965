"""The tasks: which function runs each of them.

Imports are inside the functions: most need torch, which a report or a refused configuration does not need.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.config import IMPORT, Config, Source, Task
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
