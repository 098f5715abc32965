"""A report as one HTML file that opens offline: `index.html`, with its figures drawn into it."""

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from bench import __version__
from bench.report.drawing import INK, PAPER, REPORT_FORMATS, RULE
from bench.report.sections import Section

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(report: Section, folder: Path) -> Path:
    """Writes `index.html` beside `figures/`, which must be there.

    Raises:
        OSError: the folder cannot be written.
    """
    path, figures = folder / "index.html", folder / "figures"
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("page.html").render(
        report=report,
        kind=lambda part: type(part).__name__,
        formats=REPORT_FORMATS,
        style=Markup((_TEMPLATES / "style.css").read_text("utf-8")),
        script=Markup((_TEMPLATES / "script.js").read_text("utf-8")),
        svg=lambda item: inline_svg(figures / f"{item.name}.svg", item.caption),
        made_with=f"Made by vocabtrim-bench {__version__}.",
    )
    # A reader never sees half a page.
    temporary = path.with_suffix(".partial")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
    return path


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
