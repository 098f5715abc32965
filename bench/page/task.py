"""`task=report` and `task=compare`, start to end: folders of runs to a page and the console."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.compare.console import show_hardware
from bench.compare.load import label_runs, load_runs
from bench.errors import OutputError
from bench.page.write import write_page
from bench.report.console import show
from bench.report.draft_page import render_draft
from bench.report.frames import is_of_draft_alone, read_run, read_settings
from bench.report.summary import summary_frame
from bench.report.verdict import verdicts


def run_report(
    folders: Sequence[Path], runs_dir: Path, reports_dir: Path, out: str | None, console: Console
) -> Path:
    """Writes the page of one run, which may be unfinished, or of several side by side.

    Args:
        folders: of the runs; one that only holds runs stands for all of them.
        runs_dir: where runs are kept.
        reports_dir: where reports are kept.
        out: folder to write; None names one after the newest run. A draft that was measured alone is
            reported in the folder of its run.
        console: told the answer.

    Returns:
        The page.

    Raises:
        ConfigError: a run is named twice.
        OutputError: a folder is no run, or the page cannot be written.
    """
    alone = len(folders) == 1 and (folders[0] / "records.jsonl").exists()
    if alone and is_of_draft_alone(read_settings(folders[0])[0]):
        return render_draft(folders[0], console)
    runs = label_runs([read_run(folders[0])]) if alone else load_runs(folders)
    newest = max(item.run.folder.name for item in runs)
    more = f"-and-{len(runs) - 1}-more" if len(runs) > 1 else ""
    folder = Path(out) if out else reports_dir / f"{newest}{more}"
    try:
        report = write_page(runs, runs_dir, folder)
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; set out") from error
    if report:
        show_hardware(report, console)
    else:
        surfaces = runs[0].surfaces
        show(surfaces.run, summary_frame(surfaces), verdicts(surfaces), console)
    page = folder / "index.html"
    console.print("Page:", page, soft_wrap=True, highlight=False)
    return page
