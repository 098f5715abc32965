"""Runs to a folder: `index.html`, figures and tables, from their records alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from rich.console import Console

from bench import __version__
from bench.analysis.diff_verdict import judge_change
from bench.analysis.doubts import doubts, write_doubts
from bench.analysis.fit import judge_draft, judge_run, judged, write_fit
from bench.analysis.latency import latency_frame
from bench.analysis.load import LabelledRun, label_runs, load_runs, read_finished
from bench.analysis.parallel import in_parallel
from bench.analysis.run import (
    find_run,
    is_of_draft_alone,
    name_of_run,
    read_draft_run,
    read_run,
    read_settings,
)
from bench.analysis.summary import summary_frame
from bench.analysis.surfaces import Surfaces, cross_frame, surface_frame
from bench.analysis.verdict import verdicts
from bench.errors import ConfigError, OutputError
from bench.report.device_figures import diff_figure
from bench.report.drawing import INK, PAPER, REPORT_FORMATS, RULE, draw
from bench.report.of_devices import HardwareReport, hardware_section
from bench.report.of_draft import render_draft
from bench.report.of_run import Answer, RunView, answer_grid, answers_of, run_section, write_report
from bench.report.run_figures import METHOD, run_drawings
from bench.report.sections import Grid, Section, Tables, write_tables
from bench.report.text import show, show_diff, show_fit, show_hardware

# The details of more runs than these would bury the comparison: each has a page of its own.
MOST_DETAILED = 3

# More answers than these are read as a table.
_MOST_CARDS = 9

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Page:
    """What the template lays out.

    Attributes:
        title: heading.
        about: what was measured where, in a line.
        answers: shown one by one; none where there are too many.
        answer_grids: the same as a table.
        sections: everything else, in order.
        made_with: version.
    """

    title: str
    about: str
    answers: Sequence[Answer]
    answer_grids: Sequence[Grid]
    sections: Sequence[Section]
    made_with: str


def write_page(runs: Sequence[LabelledRun], runs_dir: Path, folder: Path) -> HardwareReport | None:
    """Writes the page of one run, or of several side by side.

    Args:
        runs: with labels; see `bench.compare.load`.
        runs_dir: where runs are kept.
        folder: made if it is not there.

    Returns:
        The comparison; None for one run.

    Raises:
        OSError: the folder cannot be written.
    """
    _predict_all([run.surfaces for run in runs])
    report = HardwareReport.of(runs) if len(runs) > 1 else None
    views = _views(runs)
    drawings = {name: drawing for view in views for name, drawing in view.drawings().items()}
    tables: dict[str, pd.DataFrame] = {name: t for view in views for name, t in view.files().items()}
    if report:
        drawings, tables = {**report.drawings(), **drawings}, {**report.tables(), **tables}
    drawn = {path.stem for path in draw(drawings, folder / "figures", REPORT_FORMATS)}
    write_tables(tables, folder / "tables")
    answers = [answer for run in runs for answer in answers_of(run.label, run.surfaces, runs_dir)]
    sections = [
        _doubt_section(runs),
        *([hardware_section(report, drawn)] if report else []),
        *(run_section(view, drawn) for view in views),
        _left_out(runs, views, runs_dir),
        Section("method", "Method", points=METHOD),
    ]
    page = Page(
        "How small should the draft vocabulary be?",
        _about(runs),
        answers if len(answers) <= _MOST_CARDS else [],
        [answer_grid(answers)] if len(answers) > 1 else [],
        [section for section in sections if not section.is_empty],
        f"Made by vocabtrim-bench {__version__}.",
    )
    _write_whole(folder / "index.html", _render(page, folder / "figures"))
    return report


def _predict_all(made: Sequence[Surfaces]) -> None:
    """Computes the surfaces of all runs, several at a time."""
    missing = [(surfaces, domain) for surfaces in made for domain in surfaces.run.decodes]
    calls = [partial(surfaces.of, domain) for surfaces, domain in missing]
    for (surfaces, domain), surface in zip(missing, in_parallel(calls), strict=True):
        surfaces.keep(domain, surface)


def _views(runs: Sequence[LabelledRun]) -> list[RunView]:
    """The runs whose details are shown, with names for their files."""
    if len(runs) > MOST_DETAILED:
        return []
    names = ["" if len(runs) == 1 else f"run{place}-" for place in range(1, len(runs) + 1)]
    return [RunView(run.label, run.surfaces, name) for run, name in zip(runs, names, strict=True)]


def _doubt_section(runs: Sequence[LabelledRun]) -> Section:
    several = len(runs) > 1
    found = [
        f"{f'{run.name}: ' if several else ''}{doubt.what}: {doubt.remedy}."
        for run in runs
        for doubt in doubts(run.run)
    ]
    unwatched = ", ".join(run.name for run in runs if not run.run.samples.rows)
    none = "Nothing that was watched makes these figures doubtful."
    if unwatched:
        none += f" Nothing was sampled beside {unwatched}: clocks, throttling and other load are not known."
    return Section("doubts", "What makes these figures doubtful", [] if found else [none], found)


def _left_out(runs: Sequence[LabelledRun], views: Sequence[RunView], runs_dir: Path) -> Section:
    if views:
        return Section("runs", "")
    named = [(run.name, name_of_run(runs_dir, run.run.folder)) for run in runs]
    lines = [f'{label}: make report ARGS="run={name}"' for label, name in named]
    text = f"More than {MOST_DETAILED} runs are shown side by side only. The details of each:"
    return Section("runs", "Every run on its own", [text], lines)


def _about(runs: Sequence[LabelledRun]) -> str:
    environments = [run.run.environment for run in runs]
    pairs = sorted({f"{e['pair']}, {e['dtype']}" for e in environments})
    devices = sorted({run.label for run in runs})
    days = sorted({str(e.get("started_at", ""))[:10] for e in environments})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    count = "" if len(runs) == 1 else f"{len(runs)} runs. "
    return f"{count}{'; '.join(pairs)} on {', '.join(devices)}; measured {when}."


def _render(page: Page, figures: Path) -> str:
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        page=page,
        formats=REPORT_FORMATS,
        style=Markup((_TEMPLATES / "style.css").read_text("utf-8")),
        script=Markup((_TEMPLATES / "script.js").read_text("utf-8")),
        svg=lambda item: inline_svg(figures / f"{item.name}.svg", item.caption),
    )


def _write_whole(path: Path, text: str) -> None:
    """A reader never sees half a page."""
    temporary = path.with_suffix(".partial")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


# `task=diff`, start to end: two folders of runs to a folder of results and the console.


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


# Figures inside a page: they take its colours, so that they read in light and in dark.

_THEME = {PAPER: "var(--paper)", INK: "var(--ink)", RULE: "var(--rule)"}

_IDS = re.compile(r'(\bid="|(?:xlink:)?href="#|url\(#)([^")]+)')

_PX_PER_PT = 4 / 3

_OPENING = re.compile(r"<svg\b[^>]*>")

_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


def inline_svg(path: Path, caption: str) -> Markup:
    """The SVG of a file as part of a page.

    Its ids are made its own by the name of the file, as a page has several figures.

    Args:
        path: written by `bench.report.drawing`.
        caption: for those who cannot see it.

    Raises:
        OSError: there is no such file.
    """
    text = path.read_text("utf-8")
    text = _METADATA.sub("", text[text.index("<svg") :])
    for plain, themed in _THEME.items():
        text = text.replace(plain, themed)
    text = _own_ids(text, path.stem)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None  # matplotlib writes one
    width = float(box[1].split()[2])
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[1]}" role="img" aria-label="{escape(caption)}" '
        f'style="max-width: {width * _PX_PER_PT:.0f}px">'
    )
    return Markup(_OPENING.sub(lambda _: opening, text, count=1))


def _own_ids(text: str, prefix: str) -> str:
    """Ids and references to them with a prefix; matplotlib gives equal images of one figure the same id."""
    seen: dict[str, int] = {}

    def rename(found: re.Match[str]) -> str:
        name = f"{prefix}-{found[2]}"
        if "href" in found[1] or "url" in found[1]:
            return found[1] + name
        seen[name] = seen.get(name, 0) + 1
        return found[1] + (name if seen[name] == 1 else f"{name}-{seen[name]}")

    return _IDS.sub(rename, text)


# `task=report` and `task=compare`, start to end: folders of runs to a page and the console.


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
