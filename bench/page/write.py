"""Runs to a folder: `index.html`, figures and tables, from their records alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from bench import __version__
from bench.compare.hardware_report import HardwareReport
from bench.compare.load import LabelledRun
from bench.page.answers import Answer, answer_grid, answers_of
from bench.page.elements import Grid, Section
from bench.page.hardware_sections import hardware_section
from bench.page.run_sections import run_section
from bench.page.run_view import RunView
from bench.page.svg import inline_svg
from bench.report.captions import METHOD
from bench.report.doubts import doubts
from bench.report.drawing import REPORT_FORMATS, draw
from bench.report.parallel import in_parallel
from bench.report.render import name_of_run
from bench.report.surfaces import Surfaces
from bench.report.table_files import write_tables

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
