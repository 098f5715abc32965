"""A report as one Markdown file, as editors and repositories show it."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bench.report.sections import Block, Card, Grid, Paragraph, Picture, Points, Section, Table


def write_markdown(report: Section, path: Path, figures: str = "figures") -> None:
    """Writes a report; its figures lie in a folder of that name beside it."""
    lines = [f"# {report.title}", "", *_lines(report, 2, figures)]
    path.write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def _lines(section: Section, level: int, figures: str) -> Iterator[str]:
    for part in section.parts:
        yield from _block(part, level, figures)


def _block(part: Block, level: int, figures: str) -> Iterator[str]:
    if isinstance(part, Paragraph):
        yield from (f"**{part.text}**" if part.tone else part.text, "")
    elif isinstance(part, Points):
        yield from (*(f"- {text}" for text in part.texts), "")
    elif isinstance(part, Picture):
        yield from (f"![{part.name.replace('_', ' ')}]({figures}/{part.name}.png)", "", part.caption, "")
    elif isinstance(part, Table):
        yield from (part.caption, "", _table(part.grid()), "")
        yield from (part.legend, "") if part.legend else ()
    elif isinstance(part, Card):
        yield from _card(part)
    elif part.is_folded:
        # Blank lines make what is inside Markdown again.
        yield from ("<details>", f"<summary>{part.title}</summary>", "")
        yield from _lines(part, level, figures)
        yield from ("</details>", "")
    else:
        yield from (f"{'#' * min(level, 6)} {part.title}", "")
        yield from _lines(part, level + 1, figures)


def _card(card: Card) -> Iterator[str]:
    yield from (f"**{card.sentence}**", "", _table(card.gains), "")
    yield from (card.note, "") if card.note else ()
    facts = "; ".join(f"{name}: {value}" for name, value in card.facts)
    yield from (f"- {facts[:1].upper()}{facts[1:]}.", *(f"- {text}" for text in card.details))
    yield from (f"- Export: `{card.command}`", "") if card.command else ("",)


def _table(grid: Grid) -> str:
    aligned = ["right" if is_numeric else "left" for is_numeric in grid.is_numeric]
    cells = [[text.replace("|", "\\|") for text in row] for row in grid.rows]
    table = pd.DataFrame(cells, columns=grid.headings, dtype=object)
    return table.to_markdown(index=False, colalign=aligned, disable_numparse=True)
