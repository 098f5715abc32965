"""A run's folder to tables, figures, page and console: from its records alone."""

from pathlib import Path

from rich.console import Console

from bench.errors import ConfigError, OutputError
from bench.fit.errors import FitError
from bench.fit.judge import Judgement
from bench.report.console import show, show_fit
from bench.report.doubts import write_doubts
from bench.report.draft_fit import judge_draft
from bench.report.draft_frames import read_draft_run
from bench.report.drawing import draw
from bench.report.figures import run_drawings
from bench.report.fit import judge_run, write_fit
from bench.report.frames import is_of_draft_alone, read_run, read_settings
from bench.report.latency import latency_frame
from bench.report.markdown import write_report
from bench.report.summary import summary_frame
from bench.report.surfaces import Surfaces, cross_frame, surface_frame
from bench.report.tables import Tables
from bench.report.verdict import verdicts


def render(folder: Path, console: Console) -> None:
    """Writes tables, `figures/` and `report.md` into the run's folder.

    The tables are `summary.csv` (what was decoded), `surface.parquet` (every vocabulary size and draft
    length), `cross_domain.csv` and `latency.csv`.

    Raises:
        OutputError: the folder is not a run, or cannot be written.
    """
    run = read_run(folder)
    surfaces = Surfaces(run)
    tables = Tables(latency_frame(run), summary_frame(surfaces), cross_frame(surfaces))
    found = verdicts(surfaces)
    judgement = judged(surfaces)
    try:
        tables.latency.to_csv(folder / "latency.csv", index=False)
        tables.summary.to_csv(folder / "summary.csv", index=False)
        tables.cross.to_csv(folder / "cross_domain.csv", index=False)
        surface_frame(surfaces).to_parquet(folder / "surface.parquet", index=False, compression="zstd")
        figures = draw(run_drawings(surfaces, tables, judgement), folder / "figures")
        write_report(run, tables, found, judgement, figures, folder / "report.md")
        write_doubts(run, folder)
        if judgement:
            write_fit(judgement, folder)
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; its records are kept") from error
    show(run, tables.summary, found, console)
    console.print("Report:", folder / "report.md", soft_wrap=True, highlight=False)


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
    show_fit(judgement, console)
    console.print("written to", path, soft_wrap=True, highlight=False)


def judged(surfaces: Surfaces) -> Judgement | None:
    """None for a run of an earlier version, which does not say what to judge by."""
    try:
        return judge_run(surfaces)
    except FitError:
        return None


def find_run(runs_dir: Path, name: str) -> Path:
    """Folder of a run by id, by path, or `latest`.

    Raises:
        ConfigError: there is no such run; the message lists the newest ones.
    """
    for folder in (runs_dir / name, Path(name)):
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
