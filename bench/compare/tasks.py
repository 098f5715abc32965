"""`task=diff`, start to end: two folders of runs to a folder of results and the console."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.compare.console import show_diff
from bench.compare.diff_figure import diff_figure
from bench.compare.load import read_finished
from bench.compare.outcome import judge_change
from bench.errors import ConfigError, OutputError
from bench.report.drawing import REPORT_FORMATS, draw
from bench.report.render import find_run
from bench.report.table_files import write_tables


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
    try:
        write_tables({"times": outcome.times, "outputs": outcome.outputs}, folder / "tables")
        draw({"diff": lambda: diff_figure(outcome)}, folder / "figures", REPORT_FORMATS)
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; set out") from error
    show_diff(outcome, folder, console)
    return outcome.exit_code
