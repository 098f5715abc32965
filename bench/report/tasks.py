"""The tasks that report, start to end: folders of runs to findings, to files and the console."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from bench.analysis.beside import published_beside
from bench.analysis.claims import write_claims
from bench.analysis.devices import DeviceFindings
from bench.analysis.diff import judge_change
from bench.analysis.doubts import write_doubts
from bench.analysis.findings import DraftFindings, Findings, predict_all
from bench.analysis.fit import judge_draft, judge_run, write_fit
from bench.analysis.gpus import GpusFindings
from bench.analysis.imported import imported_beside, split_imports
from bench.analysis.latency_models import LatencyFindings
from bench.analysis.load import expanded, label_runs, load_runs, read_finished
from bench.analysis.metrics import known_intervals
from bench.analysis.run import find_run, is_of_draft_alone, read_draft_run, read_run
from bench.analysis.selection import SelectionFindings
from bench.analysis.settings import read_settings
from bench.analysis.surfaces import Surfaces, surface_frame
from bench.errors import ConfigError, InvalidVerdictError, OutputError
from bench.gpu_tables.tidy import Tables
from bench.report.console import show
from bench.report.drawing import REPORT_FORMATS, RUN_FORMATS, draw
from bench.report.markdown import write_markdown
from bench.report.of_beside import with_published
from bench.report.of_devices import devices_report
from bench.report.of_diff import diff_report
from bench.report.of_draft import draft_report
from bench.report.of_gpus import gpus_report
from bench.report.of_imported import imported_report, with_imported
from bench.report.of_run import models_report, not_measured, run_report
from bench.report.of_selection import selection_report, selections_report
from bench.report.page import write_page
from bench.report.sections import Section, write_tables

_KEPT = "its records are kept"


def render(folder: Path, console: Console) -> None:
    """Writes tables, `figures/` and `report.md` into the folder of a run that has just ended.

    The tables are `summary.csv` (what was decoded), `surface.parquet` (every vocabulary size and draft
    length), `cross_domain.csv` and `latency.csv`.

    Raises:
        OutputError: the folder is not a run, or cannot be written.
        InvalidVerdictError: everything is written, but a headline is INVALID.
    """
    found = Findings.of(read_run(folder))
    report = run_report(found)

    def write() -> None:
        found.latency.to_csv(folder / "latency.csv", index=False)
        known_intervals(found.summary).to_csv(folder / "summary.csv", index=False)
        found.cross.to_csv(folder / "cross_domain.csv", index=False)
        surface = known_intervals(surface_frame(found.surfaces))
        surface.to_parquet(folder / "surface.parquet", index=False, compression="zstd")
        write_doubts(found.doubts, folder)
        write_claims([found], folder)
        if found.latency_models:
            write_fit(found.latency_models.judgement, folder)
        write_markdown(_drawn(report, folder, RUN_FORMATS), folder / "report.md")

    _write(write, folder, _KEPT)
    show(report, console)
    _print_path("Report:", folder / "report.md", console)
    _refuse_invalid([found])


def render_draft(folder: Path, console: Console) -> Path:
    """Writes `latency.csv`, `fit.json`, `figures/` and `report.md` into the folder of a run of `task=draft`.

    Returns:
        The report.

    Raises:
        OutputError: the folder is not a run of `task=draft`, or cannot be written.
        FitError: the run cannot be judged.
    """
    found = DraftFindings.of(read_draft_run(folder))
    report, path = draft_report(found), folder / "report.md"

    def write() -> None:
        found.latency.to_csv(folder / "latency.csv", index=False)
        write_fit(found.latency_models.judgement, folder)
        write_doubts(found.doubts, folder)
        write_markdown(_drawn(report, folder, RUN_FORMATS), path)

    _write(write, folder, _KEPT)
    show(report, console)
    _print_path("Report:", path, console)
    return path


def render_selection(found: SelectionFindings) -> None:
    """Draws the figures of a selection and writes its `report.md`."""
    write_markdown(_drawn(selection_report(found), found.folder, RUN_FORMATS), found.folder / "report.md")


def show_selections(found: Sequence[SelectionFindings], console: Console) -> None:
    """The outcome of selections, and where their reports are."""
    show(selections_report(found), console)


def show_failures(failures: Sequence[str], console: Console) -> None:
    """What could not be measured, and why; as `bench.analysis.verdict.failure_fact` says it."""
    part = not_measured(failures, is_brief=True)
    show(Section("report", "", [part] if part else []), console)


def render_fit(folder: Path, console: Console) -> None:
    """Judges the latency models of a run again: `fit.json`, and a table per component on the console.

    Raises:
        OutputError: the folder is not a run, or cannot be written.
        FitError: the run cannot be judged.
    """
    if is_of_draft_alone(read_settings(folder)[0]):
        judgement = judge_draft(read_draft_run(folder))
    else:
        judgement = judge_run(Surfaces(read_run(folder)))
    path = write_fit(judgement, folder)
    show(models_report(LatencyFindings.of(judgement)), console)
    _print_path("written to", path, console)


def report_runs(
    folders: Sequence[Path],
    runs_dir: Path,
    reports_dir: Path,
    out: Path | None,
    console: Console,
    tables_of_gpus: Tables | None = None,
) -> Path:
    """Writes the page of one run, which may be unfinished, or of several side by side.

    Args:
        folders: of the runs; one that only holds runs stands for all of them. Those of `task=import` stand
            in a section of their own.
        runs_dir: where runs are kept.
        reports_dir: where reports are kept.
        out: folder to write; None names one after the newest run. A draft that was measured alone is
            reported in the folder of its run.
        console: shown the answer.
        tables_of_gpus: kernel latencies that others published, to stand beside; None without.

    Returns:
        The page.

    Raises:
        ConfigError: a run is named twice.
        OutputError: a folder is no run, or the page cannot be written.
        InvalidVerdictError: the page is written, but a headline on it is INVALID.
    """
    imports, folders = split_imports(expanded(folders))
    if imports and not folders:
        return _render_imports(imports, reports_dir, out, console)
    is_one = len(folders) == 1 and (folders[0] / "records.jsonl").exists()
    if is_one and is_of_draft_alone(read_settings(folders[0])[0]):
        return render_draft(folders[0], console)
    runs = label_runs([read_run(folders[0])], runs_dir) if is_one else load_runs(folders, runs_dir)
    folder = out or reports_dir / _page_name([item.run.folder for item in runs], imports)
    predict_all(runs)
    report, tables = _of_runs(runs)
    beside = None if tables_of_gpus is None else published_beside(runs, tables_of_gpus)
    report = with_published(report, beside)
    if beside is not None:
        tables |= {
            "published_steps": beside.steps,
            "published_errors": beside.errors,
            "composed_rounds": beside.rounds,
        }
    if imports:
        found = imported_beside(imports, runs)
        report, tables = with_imported(report, found), tables | {"served": found.frame}

    page = _page(report, tables, folder, console, runs)
    _refuse_invalid(runs)
    return page


def _render_imports(folders: Sequence[Path], reports_dir: Path, out: Path | None, console: Console) -> Path:
    """Writes the page of results of other tools alone."""
    found = imported_beside(folders, [])
    folder = out or reports_dir / _page_name([], folders)
    return _page(imported_report(found), {"served": found.frame}, folder, console)


def _page(
    report: Section,
    tables: dict[str, pd.DataFrame],
    folder: Path,
    console: Console,
    runs: Sequence[Findings] = (),
) -> Path:
    """Writes a page with its figures and tables, and the claims of its runs; shows and returns it."""

    def write() -> None:
        write_tables(tables, folder / "tables")
        write_page(_drawn(report, folder, REPORT_FORMATS), folder)
        if runs:
            write_claims(runs, folder)

    _write(write, folder, "set out")
    show(report, console)
    _print_path("Page:", folder / "index.html", console)
    return folder / "index.html"


def _page_name(runs: Sequence[Path], imports: Sequence[Path]) -> str:
    """The newest run, or else the newest import, and how many more."""
    newest = max(folder.name for folder in runs or imports)
    others = len(runs) + len(imports) - 1
    return f"{newest}{f'-and-{others}-more' if others else ''}"


def _refuse_invalid(runs: Sequence[Findings]) -> None:
    found = [f"{run.label}, {where}" if len(runs) > 1 else where for run in runs for where in run.invalid]
    if found:
        raise InvalidVerdictError(
            f"INVALID: {', '.join(found)}; the report says why and what to do, and all records are kept"
        )


def _of_runs(runs: list[Findings]) -> tuple[Section, dict[str, pd.DataFrame]]:
    """The report of these runs, and the tables that are written beside it."""
    if len(runs) == 1:
        return run_report(runs[0]), runs[0].tables()
    devices = DeviceFindings.of(runs)
    tables, report = devices.tables(), devices_report(runs, devices)
    for prefix, run in devices.detailed.items():
        tables |= {f"{prefix}{name}": table for name, table in run.tables().items()}
    return report, tables


def diff_runs(
    paths: Sequence[Path], threshold: float, reports_dir: Path, out: Path | None, console: Console
) -> int:
    """Judges the second of two runs by the first.

    Args:
        paths: of the two runs.
        threshold: slowdown that matters, a share of the time before.
        reports_dir: where reports are kept.
        out: folder to write; None names one after the runs.
        console: shown the verdict.

    Returns:
        Exit code: 1 where slower beyond the threshold with confidence, else 0.

    Raises:
        ConfigError: there are not two runs, or they cannot be compared.
        OutputError: a folder is no finished run, or the results cannot be written.
    """
    runs = read_finished(paths)
    if len(runs) != 2:
        raise ConfigError(f"task=diff takes two runs, not {len(runs)}: runs=[BEFORE,AFTER]")
    before, after = runs
    found = judge_change(before, after, threshold)
    folder = out or reports_dir / f"diff-{found.before}-{found.after}"
    report = diff_report(found)

    def write() -> None:
        write_tables({"times": found.times, "outputs": found.outputs}, folder / "tables")
        draw(report.pictures(), folder / "figures", REPORT_FORMATS)

    _write(write, folder, "set out")
    show(report, console)
    _print_path("All comparisons, and a figure:", folder, console)
    return found.exit_code


def render_gpus(found: GpusFindings, folder: Path, console: Console) -> Path:
    """Writes the page of a pair on published GPUs, its figures and its tables.

    Returns:
        The page.

    Raises:
        OutputError: the folder cannot be written.
    """
    return _page(gpus_report(found), found.tables(), folder, console)


def find_folders(runs_dir: Path, names: Sequence[str]) -> list[Path]:
    """Folders by id or path; also a folder that holds runs, such as another machine's `results/runs`.

    Raises:
        ConfigError: there is no such folder.
    """
    return [
        next((folder.resolve() for folder in (runs_dir / name, Path(name)) if folder.is_dir()), None)
        or find_run(runs_dir, name)
        for name in names
    ]


def _drawn(report: Section, folder: Path, formats: Sequence[str]) -> Section:
    """Draws the figures of a report into `figures/`; returns it without those that have nothing to show."""
    return report.without_pictures(draw(report.pictures(), folder / "figures", formats))


def _write(write: Callable[[], None], folder: Path, mend: str) -> None:
    try:
        write()
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; {mend}") from error


def _print_path(what: str, path: Path, console: Console) -> None:
    console.print(what, path, soft_wrap=True, highlight=False)
