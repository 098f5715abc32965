"""What is brief in a report, on the console: the last section first, so that the answer ends it."""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from bench.report.sections import Block, Card, Grid, Paragraph, Points, Section, Table

_STYLES = {"good": "bold green", "bad": "bold red", "unsure": "bold yellow", "strong": "bold"}


def show(report: Section, console: Console) -> None:
    """Prints what is brief."""
    if report.title:
        console.print(report.title, style="bold", highlight=False, markup=False)
    for part in reversed(report.parts):
        _show(part, report.title, console)


def _show(part: Block, title: str, console: Console) -> None:
    if isinstance(part, Section):
        for inner in part.parts:
            _show(inner, part.title, console)
    elif isinstance(part, Card):
        if part.is_brief:
            console.print(part.sentence, style="bold", highlight=False, markup=False)
    elif isinstance(part, Paragraph):
        if part.is_brief:
            console.print(part.text, style=_STYLES.get(part.tone), highlight=False, markup=False)
    elif isinstance(part, Points):
        for text in part.texts if part.is_brief else ():
            console.print(
                f"{part.mark} {text}".lstrip(), highlight=False, markup=False, soft_wrap=not part.mark
            )
    elif isinstance(part, Table) and part.is_brief:
        _print_table(part.short_grid(), title, console)


def _print_table(grid: Grid, title: str, console: Console) -> None:
    # Without edges, what most runs have fits into 80 columns. Words too long even so are folded, not cut.
    table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.title = f"\n{_escaped(title)}"
    for heading, is_numeric in zip(grid.headings, grid.is_numeric, strict=True):
        if is_numeric:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    for row in grid.rows:
        table.add_row(*(_escaped(text) for text in row))
    console.print(table)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
