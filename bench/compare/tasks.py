"""`task=compare` and `task=diff`, start to end: folders of runs to a folder of results and the console."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.compare.console import show_diff, show_hardware
from bench.compare.diff_figure import diff_figure
from bench.compare.hardware_report import HardwareReport, write_hardware_report
from bench.compare.load import load_runs, read_finished
from bench.compare.outcome import judge_change
from bench.compare.write import write_figures, write_tables
from bench.errors import ConfigError, OutputError
from bench.report.drawing import set_style
from bench.report.render import find_run


def find_folders(runs_dir: Path, names: Sequence[str]) -> list[Path]:
    """Folders by id or path; also a folder that holds runs, such as another machine's `results/runs`.

    Raises:
        ConfigError: there is no such folder.
    """
    return [
        next((folder for folder in (runs_dir / name, Path(name)) if folder.is_dir()), None)
        or find_run(runs_dir, name)
        for name in names
    ]


def run_diff(
    paths: Sequence[Path], threshold: float, reports_dir: Path, out: str | None, console: Console
) -> int:
    """Judges the second of two runs by the first.

    Args:
        paths: of the two runs.
        threshold: slowdown that matters, a share of the time before.
        reports_dir: where reports are kept.
        out: folder to write; None names one after the runs.
        console: told the verdict.

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
    outcome = judge_change(before, after, threshold)
    folder = Path(out) if out else reports_dir / f"diff-{outcome.before}-{outcome.after}"
    set_style()
    try:
        write_tables({"times": outcome.times, "outputs": outcome.outputs}, folder / "tables")
        write_figures({"diff": diff_figure(outcome)}, folder / "figures")
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; set out") from error
    show_diff(outcome, folder, console)
    return outcome.exit_code


def run_compare(paths: Sequence[Path], reports_dir: Path, out: str | None, console: Console) -> Path:
    """Sets runs side by side, one or more per device.

    Args:
        paths: of the runs.
        reports_dir: where reports are kept.
        out: folder to write; None names one after the newest run.
        console: told the summary.

    Returns:
        The folder.

    Raises:
        ConfigError: no run is named, or one twice.
        OutputError: a folder is no finished run, or the results cannot be written.
    """
    runs = load_runs(paths)
    report = HardwareReport.of(runs)
    newest = max(item.run.folder.name for item in runs)
    more = f"-and-{len(runs) - 1}-more" if len(runs) > 1 else ""
    folder = Path(out) if out else reports_dir / f"compare-{newest}{more}"
    try:
        write_hardware_report(report, folder)
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; set out") from error
    show_hardware(report, folder, console)
    return folder
